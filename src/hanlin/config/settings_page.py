"""The page of every setting, made from the settings classes: what `hanlin kinds` shows and `docs/settings.md` holds.

Owns how a setting is described; the settings themselves stand in `settings/`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hanlin.config.kinds import KINDS
from hanlin.config.settings.base import Settings, setting_info


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    default: str
    limits: str
    en: str
    zh: str
    text: str


def rows_of(settings: type[Settings], prefix: str = "") -> Iterator[Row]:
    """A row for each setting; nested settings follow the one that holds them, with a dotted name."""
    for name, field in settings.model_fields.items():
        setting = setting_info(field)
        yield Row(prefix + name, _default(field), _limits(field), setting.en, setting.zh, setting.text())
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


def markdown() -> str:
    """`docs/settings.md`: every kind, every setting, in both languages."""
    lines = [
        "# Settings · 设置",
        "",
        "Made by `python -m hanlin.config.settings_page > docs/settings.md`; do not edit. · 由上述命令生成，请勿手改。",
        "",
        "A setting marked ⚡ changes only speed or what is shown, never the result."
        " · 标 ⚡ 的设置只影响速度或显示，不影响结果。",
        "",
    ]
    for kind in KINDS.values():
        lines += [
            f"## {kind.name}",
            "",
            f"{kind.en} · {kind.zh}",
            "",
            "| setting | default | takes | meaning |",
            "|---|---|---|---|",
        ]
        speed = {name for name, field in kind.settings.model_fields.items() if not setting_info(field).affects_key}
        for row in rows_of(kind.settings):
            mark = " ⚡" if row.name in speed else ""
            cells = (f"`{row.name}`{mark}", row.default, row.limits, f"{row.en} · {row.zh}")
            lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    print(markdown(), end="")
