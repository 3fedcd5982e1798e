"""The page of every setting, made from the settings classes: what `hanlin kinds` shows and `docs/en/settings.md` holds.

Owns how a setting is described; the settings themselves stand in `settings/`.
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hanlin.config.kinds import KINDS
from hanlin.config.reasons import DROP_REASONS
from hanlin.config.settings.base import Settings, setting_info
from hanlin.core.i18n import Language, translate


@dataclass(frozen=True, slots=True)
class Row:
    """A setting as a row of the page; nested settings have dotted names."""

    name: str
    default: str
    limits: str
    description: str


def rows_of(settings: type[Settings], prefix: str = "") -> Iterator[Row]:
    """A row for each setting; nested settings follow the one that holds them, with a dotted name."""
    for name, field in settings.model_fields.items():
        setting = setting_info(field)
        yield Row(prefix + name, _default(field), _limits(field), setting.description)
        for nested in _nested(field.annotation):
            yield from rows_of(nested, f"{prefix}{name}.")


def _nested(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _nested(inner)]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "" if field.default_factory is None else str(field.default_factory())  # type: ignore[call-arg]
    value = field.default
    if isinstance(value, Settings):
        return "(…)"
    if isinstance(value, tuple):
        return " ".join(str(item) for item in value) if value else "()"
    return "–" if value is None else str(value)


def _limits(field: FieldInfo) -> str:
    setting = setting_info(field)
    if setting.types:
        return "→ " + " / ".join(setting.types)
    parts = [_type(field.annotation)]
    for item in field.metadata:
        for sign, name in ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt")):
            bound = getattr(item, name, None)
            if bound is not None:
                parts.append(f"{sign} {bound}")
    return " ".join(part for part in parts if part)


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Literal:
        return " | ".join(str(item) for item in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type(item) for item in arguments if item is not type(None))
    if origin is tuple:
        return _type(arguments[0]) + " ..." if arguments else "list"
    if origin is dict:
        return "mapping"
    return getattr(annotation, "__name__", str(annotation))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


_TEXTS: dict[Language, tuple[str, str, str]] = {
    "en": (
        "# Settings",
        "Every setting of every stage kind; `make docs` writes this page.",
        "| setting | default | takes | meaning |",
    ),
    "zh": ("# 设置", "每个阶段类型的全部设置；本页由 `make docs` 生成。", "| 设置 | 默认值 | 取值 | 含义 |"),
}
_REASON_TEXTS: dict[Language, tuple[str, str, str]] = {
    "en": (
        "## Reasons of dropped rows",
        "What `dropped.jsonl`, the ledger and the summary of a data stage call why a row is not kept.",
        "| reason | meaning |",
    ),
    "zh": (
        "## 丢弃原因",
        "记录未保留的原因，在 `dropped.jsonl`、台账与数据阶段摘要中的代号。",
        "| 原因 | 含义 |",
    ),
}
_SPEED_ONLY: dict[Language, str] = {
    "en": "A setting marked ⚡ changes only speed or what is shown, never the result.",
    "zh": "标 ⚡ 的设置只影响速度或显示，不影响结果。",
}


def markdown(language: Language) -> str:
    """`docs/<language>/settings.md`: every setting of every kind, and why rows are dropped, in one language."""
    title, origin, head = _TEXTS[language]
    lines = [title, "", origin, "", _SPEED_ONLY[language], ""]
    for kind in KINDS.values():
        lines += [f"## {kind.name}", "", translate(kind.description, language), "", head, "|---|---|---|---|"]
        speed = {name for name, field in kind.settings.model_fields.items() if not setting_info(field).affects_key}
        for row in rows_of(kind.settings):
            flag = " ⚡" if row.name in speed else ""
            cells = (f"`{row.name}`{flag}", _code(row.default), _code(row.limits), translate(row.description, language))
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    lines += [part for text in _REASON_TEXTS[language] for part in (text, "")][:-1]
    lines += ["|---|---|", *(f"| `{name}` | {translate(why, language)} |" for name, why in DROP_REASONS.items()), ""]
    return "\n".join(lines)


def main() -> None:
    """`python -m hanlin.config.settings_page DOCS`: write the page of each language below the folder `DOCS`."""
    for language in _TEXTS:
        (Path(sys.argv[1]) / language / "settings.md").write_text(markdown(language), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
