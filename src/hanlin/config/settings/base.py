"""How a setting is declared: its default, its range, its words in both languages, and whether it changes the result.

A reference (`ref`) is a setting that names what a stage reads: another stage, `stage/file`, a path that begins with
`./`, `../`, `/` or `~`, or a pinned hub name `hf:owner/name@revision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

from hanlin.core.i18n import say


class Settings(BaseModel):
    """Base of every settings class: unknown names are refused and a value never changes.

    Where a list of texts is taken, a text alone is a list of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _one_text_is_a_list(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        many = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {name: (value,) if name in many and isinstance(value, str) else value for name, value in row.items()}


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What pydantic does not know of a setting. `types` are the artifact types a reference takes (empty: no reference).

    `affects_key=False` is for what changes only speed or what is shown: such a setting does not make a result new.
    `unless_default` leaves a setting that was added later out of the key while it has its default, so that adding it
    made no earlier result new. `resource` names a packaged text (a chat template) whose bytes count in the key together
    with its name.
    """

    en: str
    zh: str
    affects_key: bool = True
    types: tuple[str, ...] = ()
    resource: str | None = None
    unless_default: bool = False

    def text(self) -> str:
        return say(self.en, self.zh)


def setting(
    default: Any = ...,
    en: str = "",
    zh: str = "",
    *,
    affects_key: bool = True,
    resource: str | None = None,
    unless_default: bool = False,
    **limits: Any,
) -> Any:
    """A setting. `limits` are pydantic's (`ge`, `gt`, `le`, `lt`, `min_length`, ...)."""
    return Field(
        default,
        description=en,
        json_schema_extra=_extra(SettingInfo(en, zh, affects_key, (), resource, unless_default)),
        **limits,
    )


def ref(*types: str, default: Any = ..., en: str = "", zh: str = "") -> Any:
    """A setting that names something to read, of one of these artifact types (`files` takes any path)."""
    return Field(default, description=en, json_schema_extra=_extra(SettingInfo(en, zh, True, types)))


def _extra(setting: SettingInfo) -> dict[str, Any]:
    row: dict[str, Any] = {"x-zh": setting.zh, "x-affects-key": setting.affects_key}
    if setting.types:
        row["x-reads"] = list(setting.types)
    if setting.resource:
        row["x-resource"] = setting.resource
    if setting.unless_default:
        row["x-unless-default"] = True
    return row


def setting_info(field: FieldInfo) -> SettingInfo:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    reads = extra.get("x-reads", [])
    resource = extra.get("x-resource")
    return SettingInfo(
        field.description or "",
        str(extra.get("x-zh", "")),
        bool(extra.get("x-affects-key", True)),
        tuple(str(t) for t in reads) if isinstance(reads, list) else (),
        None if resource is None else str(resource),
        bool(extra.get("x-unless-default", False)),
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference found in settings: the dotted `field` it stands in, its text, and the types taken there."""

    field: str
    text: str
    types: tuple[str, ...]


def references(settings: Settings, prefix: str = "") -> Iterator[Reference]:
    """Every reference in `settings`, nested ones too, in the order of their declaration.

    A reference inside a list of nested settings (`sources: [{path: ...}]`) carries the field `sources.0.path`.
    """
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        setting = setting_info(field)
        if isinstance(value, Settings):
            yield from references(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and not setting.types:
            for place, item in enumerate(value):
                if isinstance(item, Settings):
                    yield from references(item, f"{prefix}{name}.{place}.")
        elif setting.types and value is not None:
            for text in value if isinstance(value, tuple) else (value,):
                yield Reference(prefix + name, text, setting.types)


def key_settings(settings: Settings) -> dict[str, Any]:
    """The settings that make a result what it is, as JSON data; references are left out (inputs count by content)."""
    row: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        setting = setting_info(field)
        value = getattr(settings, name)
        if not setting.affects_key or setting.types or (setting.unless_default and value == field.default):
            continue
        if isinstance(value, Settings):
            row[name] = key_settings(value)
        elif isinstance(value, tuple | list):
            row[name] = [key_settings(item) if isinstance(item, Settings) else item for item in value]
        else:
            row[name] = value
    return row
