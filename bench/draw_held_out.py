r"""Draw the rows on which the rules are judged from checkouts of public repositories.

`python bench/draw_held_out.py --repos DIR --out MATERIAL.jsonl`. `bench/held_out/sources.toml` has a table for each
source:

    [alignbench_gpt4]
    repo = "THUDM/AlignBench"
    commit = "0b4e8b1..."            # all 40 digits
    path = "data/answers/*.jsonl"    # a file, or files that match
    form = "chats"                   # chats, documents, files, lines (every file or line a document), strings, pickled
    sample = 300                     # rows to draw, and those that a label names; 0: all
    seed = 1
    fields = {prompt = "question"}   # if the rows need it, as in a recipe
    values = true                    # if a file is one JSON object with a row as each value
    items = "documents"              # if a file is JSON Lines with a list of rows in this field of each
    strings = ["context"]            # of form strings: fields of JSON Lines whose strings, also in lists, are documents
    split = 'Passage \d+:'           # of form strings: every part between matches is a document
    column = 1                       # of form pickled (a tuple of lists): the list of which every text is a document

Files are read as UTF-8, or else as GB18030; others, and those with a zero byte, are left out.

A package of PyPI is `repo = "pypi/NAME"` with its version as `commit`, unpacked into DIR/pypi+NAME; pickles are read
without any class. A repository is looked for as DIR/OWNER+NAME, DIR/OWNER+NAME/repo or DIR/OWNER/NAME: a Git
repository (with or without a work tree) that has the commit, or else a folder with the files. A source whose
repository is not there is counted and left out. Rows that Hanlin's readers drop are left out too; of rows with the
same judged text the first one stays.

A row of the material is `{source, form, sha256, messages}` for a chat and `{source, form, sha256, text}` for a
document. `sha256` is what the labels in `bench/held_out/*.tsv` name it by.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import io
import json
import pickle
import random
import re
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from command_line import existing_file, existing_folder, file_to_write, refuse, run_main

from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs
from hanlin.core.records import Message
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import list_files
from hanlin.data.ledger import Drop

SOURCES = Path(__file__).resolve().parent / "held_out" / "sources.toml"
NEEDED = {"repo", "commit", "path", "form", "sample", "seed"}
KEYS = NEEDED | {"fields", "values", "items", "strings", "split", "column"}


def judged_text(row: Mapping[str, Any]) -> str:
    """The text that a label is about: a document, or the answers of a chat joined by line ends."""
    if "text" in row:
        return str(row["text"])
    return "\n".join(turn["text"] for turn in row["messages"] if turn["role"] == "assistant")


def hash_text(text: str) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_labeled(folder: Path) -> set[str]:
    """The hashes of the rows that the labels of a folder name."""
    labeled: set[str] = set()
    for path in folder.glob("*.tsv"):
        with path.open(encoding="utf-8", newline="") as opened:
            labeled.update(row["sha256"] for row in csv.DictReader(opened, delimiter="\t"))
    return labeled


def read_sources(path: Path) -> dict[str, dict[str, Any]]:
    """Read the tables of sources by name. Ends with one sentence for a key that is missing or not known."""
    sources: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    for name, source in sources.items():
        needed = NEEDED | ({"strings"} if source.get("form") == "strings" else set())
        unknown, missing = set(source) - KEYS, needed - set(source)
        if unknown or missing:
            refuse(f"{path}: {name}: unknown {sorted(unknown)}, missing {sorted(missing)}")
    return sources


def read_files(repos: Path, source: Mapping[str, Any]) -> dict[str, bytes] | None:
    """Read the files of a source by path; None if the repository, the commit or every file is missing."""
    owner, name = source["repo"].split("/")
    for folder in (repos / f"{owner}+{name}" / "repo", repos / f"{owner}+{name}", repos / owner / name):
        if not folder.is_dir():
            continue
        listed = _git(folder, "ls-tree", "-r", "-z", "--name-only", source["commit"])
        paths = (
            listed.decode("utf-8").split("\0")
            if listed is not None
            else [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        )
        matching = sorted(path for path in paths if path and fnmatch.fnmatchcase(path, source["path"]))
        if listed is None:
            files = {path: (folder / path).read_bytes() for path in matching}
        else:
            files = dict(_read_blobs(folder, source["commit"], matching))
        if files:
            return files
    return None


def _read_blobs(folder: Path, commit: str, paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a commit that are there as (path, content), read by one process."""
    listed = [path for path in paths if "\n" not in path]
    asked = "".join(f"{commit}:{path}\n" for path in listed).encode()
    with tempfile.TemporaryFile() as request:
        request.write(asked)
        request.seek(0)
        command = ["git", "-C", str(folder), "cat-file", "--batch"]
        with subprocess.Popen(command, stdin=request, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            for path in listed:
                head = process.stdout.readline().split()
                if len(head) == 3 and head[1] == b"blob":
                    yield path, process.stdout.read(int(head[2]))
                    process.stdout.read(1)


def _git(folder: Path, *arguments: str) -> bytes | None:
    """The output of a Git command; None if it fails."""
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def read_rows(name: str, source: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
    """Read all rows of a source's files in the form of the material."""
    if source["form"] == "files":
        for data in files.values():
            text = decode_file(data)
            if text and text.strip():
                yield _make_row(name, source, text=text)
        return
    if source["form"] == "lines":
        for data in files.values():
            for line in data.decode("utf-8", "replace").splitlines():
                if line.strip():
                    yield _make_row(name, source, text=line.strip())
        return
    if source["form"] == "strings":
        for data in files.values():
            for line in filter(str.strip, data.decode("utf-8", "replace").split("\n")):
                row = json.loads(line)
                for text in _find_strings([row.get(field) for field in source["strings"]]):
                    for part in re.split(source["split"], text) if "split" in source else [text]:
                        if part.strip():
                            yield _make_row(name, source, text=part.strip())
        return
    if source["form"] == "pickled":
        for data in files.values():
            for text in PlainUnpickler(io.BytesIO(data)).load()[source["column"]]:
                if text.strip():
                    yield _make_row(name, source, text=text.strip())
        return
    formats: Sequence[Any] = {"chats": CHAT_FORMATS, "documents": DOCUMENT_FORMATS}[source["form"]]
    with tempfile.TemporaryDirectory() as folder:
        for path, data in files.items():
            file = Path(folder) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if source.get("values"):
                data = json.dumps(list(json.loads(data).values()), ensure_ascii=False).encode()
            if items := source.get("items"):
                rows = (row for line in data.splitlines() if line.strip() for row in json.loads(line)[items])
                data = b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
            file.write_bytes(data)
            settings = Source(path=str(file), fields=source.get("fields", {}))
            listed = list_files((settings,), Inputs({"sources.0.path": (file,)})).files[0]
            with InputFile(file) as opened:
                for parsed in open_records(listed, opened, formats).rows:
                    if isinstance(parsed.item, Drop):
                        continue
                    if source["form"] == "documents":
                        yield _make_row(name, source, text=parsed.item.text)
                    else:
                        yield _make_row(name, source, messages=[turn.to_json() for turn in parsed.item.messages])


def decode_file(data: bytes) -> str | None:
    """The text of a file in UTF-8 or else GB18030; None for other files and for those with a zero byte."""
    if b"\0" in data:
        return None
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, tuples, strings and numbers, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        raise SystemExit(f"a pickle names {module}.{name}")


def _find_strings(value: Any) -> Iterator[str]:
    """The strings of a value, also those in lists of lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _find_strings(item)


def _make_row(name: str, source: Mapping[str, Any], **content: Any) -> dict[str, Any]:
    return {"source": name, "form": source["form"], "sha256": hash_text(judged_text(content)), **content}


def draw(
    repos: Path, sources: Mapping[str, Mapping[str, Any]], labeled: Set[str] = frozenset()
) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw the samples of all sources.

    Args:
        repos: The folder of the checkouts.
        sources: Tables of `sources.toml` by name.
        labeled: Hashes of rows that are drawn beside the sample: readers that change would change the sample.

    Returns:
        (rows in the order of the sources and their files, names of the sources that are not there).
    """
    drawn: list[dict[str, Any]] = []
    missing: list[str] = []
    seen: set[str] = set()
    for name, source in sources.items():
        files = read_files(repos, source)
        if files is None:
            missing.append(name)
            continue
        rows: dict[str, dict[str, Any]] = {}
        for row in read_rows(name, source, files):
            if row["sha256"] not in seen:
                rows.setdefault(row["sha256"], row)
        keys = list(rows)
        if source["sample"] and len(keys) > source["sample"]:
            chosen = set(random.Random(source["seed"]).sample(keys, source["sample"]))
            keys = [key for key in keys if key in chosen or key in labeled]
        seen.update(keys)
        drawn += [rows[key] for key in keys]
    return drawn, missing


def read_messages(row: Mapping[str, Any]) -> tuple[Message, ...]:
    """The turns of a row of the material; a document is one turn of the user."""
    if "text" in row:
        return (Message("user", row["text"]),)
    return tuple(Message.from_json(turn) for turn in row["messages"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--repos", type=existing_folder, required=True, help="folder with checkouts of the repositories"
    )
    parser.add_argument("--sources", type=existing_file, default=SOURCES, help="tables of sources (default: all)")
    parser.add_argument("--out", type=file_to_write, required=True, help="JSON Lines file to write")
    arguments = parser.parse_args()
    rows, missing = draw(arguments.repos, read_sources(arguments.sources), read_labeled(arguments.sources.parent))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("w", encoding="utf-8", errors="surrogatepass") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    print(f"{len(rows)} rows in {arguments.out}")
    if missing:
        print(f"not there ({len(missing)}): {' '.join(missing)}")


if __name__ == "__main__":
    run_main(main)
