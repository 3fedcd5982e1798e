"""The catalog of messages: collect them from the code, bring the translations up to date, compile them.

`python scripts/messages.py` rewrites `src/hanlin/locale/zh_CN/LC_MESSAGES/hanlin.po` and compiles it; a message that is
new has an empty translation until somebody writes it, and one that is no longer in the code is removed.
`--compile` compiles only. Messages are the string literals of `tr(...)`, `mark(...)` and `t(...)` (in pages and their
scripts), and the descriptions of settings and stage kinds.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hanlin"
CATALOG = SOURCE / "locale" / "zh_CN" / "LC_MESSAGES" / "hanlin.po"

ARGUMENTS: dict[str, tuple[tuple[int, str], ...]] = {
    "tr": ((0, "message"),),
    "mark": ((0, "message"),),
    "setting": ((1, "description"),),
    "ref": ((-1, "description"),),
    "StageKind": ((4, "description"),),
}
"""For each function the positions and keywords of arguments that are messages."""
IN_PAGES = re.compile(r"""\bt\(\s*"((?:[^"\\]|\\.)*)\"""")


def messages_of_code(file: Path) -> Iterator[tuple[str, int]]:
    """Messages of a Python file with their lines."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for position, keyword in ARGUMENTS.get(name, ()):
            values = [argument.value for argument in node.keywords if argument.arg == keyword]
            if 0 <= position < len(node.args):
                values.append(node.args[position])
            for value in values:
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
                    yield value.value, value.lineno


def messages_of_page(file: Path) -> Iterator[tuple[str, int]]:
    """Messages of a Jinja page, or of a script of a page, with their lines."""
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        for match in IN_PAGES.finditer(line):
            yield match[1].replace('\\"', '"'), number


def collect() -> dict[str, list[tuple[str, int]]]:
    """Every message of the source tree, with the places where it is used, in the order of files and lines."""
    found: dict[str, list[tuple[str, int]]] = {}
    scripts = (file for file in SOURCE.rglob("*.js") if "vendor" not in file.parts)
    for file in sorted((*SOURCE.rglob("*.py"), *SOURCE.rglob("*.html"), *scripts)):
        messages = messages_of_code(file) if file.suffix == ".py" else messages_of_page(file)
        for message, line in sorted(messages, key=lambda pair: pair[1]):
            found.setdefault(message, []).append((file.relative_to(SOURCE).as_posix(), line))
    return found


def translations() -> dict[str, str]:
    """The translations that the catalog file holds."""
    with CATALOG.open("rb") as file:
        return {str(entry.id): str(entry.string) for entry in read_po(file, locale="zh_CN") if entry.id}


def update(known: dict[str, str]) -> Catalog:
    """Write the catalog of all messages with the translations that are known. Files are named, lines are not: a
    catalog that changes with every line of code cannot be read in a review.
    """
    catalog = Catalog(locale="zh_CN", domain="hanlin", project="Hanlin", version="", fuzzy=False, charset="utf-8")
    for message, places in collect().items():
        flags = ["python-brace-format"] if re.search(r"\{\w+[^{}]*\}", message) else []
        files = [(name, None) for name in dict.fromkeys(name for name, _ in places)]
        catalog.add(message, known.get(message, ""), locations=files, flags=flags)
    CATALOG.parent.mkdir(parents=True, exist_ok=True)
    header = (
        "# Messages of Hanlin in Simplified Chinese.\n"
        "# `make messages` adds what is new in the code; each translation has the placeholders of its message."
    )
    catalog.header_comment = header
    with CATALOG.open("wb") as file:
        write_po(file, catalog, width=110, omit_header=False, sort_by_file=False)
    text = CATALOG.read_text(encoding="utf-8")
    stable = re.sub(
        r'^"(POT-Creation-Date|PO-Revision-Date|Generated-By|Last-Translator|Language-Team|Report-Msgid-Bugs-To).*\n',
        "",
        text,
        flags=re.M,
    )
    CATALOG.write_text(stable, encoding="utf-8", newline="\n")
    return catalog


def compile_catalog() -> Path:
    """Compile the catalog file to the `.mo` beside it."""
    target = CATALOG.with_suffix(".mo")
    with CATALOG.open("rb") as file:
        catalog = read_po(file, locale="zh_CN")
    partial = target.with_suffix(".mo.writing")
    with partial.open("wb") as file:
        write_mo(file, catalog)
    partial.replace(target)
    return target


def main() -> None:
    if "--compile" not in sys.argv[1:]:
        catalog = update(translations() if CATALOG.is_file() else {})
        empty = [entry.id for entry in catalog if entry.id and not entry.string]
        print(f"{len(catalog)} messages, {len(empty)} without a translation", file=sys.stderr)
        for message in empty:
            print(f"  {message}", file=sys.stderr)
    compile_catalog()


if __name__ == "__main__":
    main()
