"""How a setting is declared: its default, its range, its description in both languages, and whether it affects the key.

A reference (`ref`) is a setting that names what a stage reads: another stage, `stage/file`, a path that begins with
`./`, `../`, `/` or `~`, or a pinned hub name `hf:owner/name@revision` or `ms:owner/name@revision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError

from hanlin.core.files import is_file_name
from hanlin.core.i18n import tr

MAX_WEIGHT = 100.0
"""Largest factor on a change of weights: useful ones are near 1, and from much larger ones logits are no numbers."""


class Settings(BaseModel):
    """Base of every settings class: unknown names are refused and values are immutable.

    A single text is accepted where a list of texts is expected.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _wrap_single_texts(cls, row: Any) -> Any:
        if not isinstance(row, dict):
            return row
        for name, value in row.items():
            if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                raise ValueError(tr("{name} does not fit into 64 bits", name=name))
        list_fields = {name for name, field in cls.model_fields.items() if get_origin(field.annotation) is tuple}
        return {
            name: (value,) if name in list_fields and isinstance(value, str) else value for name, value in row.items()
        }

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_is_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse truth values, which pydantic takes for 0 and 1: `eval_steps: yes` would measure after every step."""
        if isinstance(value, bool) and info.field_name is not None:
            annotation = cls.model_fields[info.field_name].annotation
            types = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
            if bool not in types and (int in types or float in types):
                raise PydanticKnownError("int_type" if int in types else "float_type")
        return value


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """What is known of a setting besides its type and range.

    Attributes:
        description: What it does, in English; a message of the catalog.
        affects_key: False for a setting that changes only speed or what is shown: changing it reruns nothing.
        types: The artifact types that a reference takes; empty if the setting is not a reference.
        resource: The kind of packaged text (`template`) that the value names; its bytes affect the key too. A value
            that looks like a path (`is_file_name`) is a reference to a file of your own instead.
        unless_default: Leave the setting out of the key while it has its default, so that adding a setting reruns
            nothing.
    """

    description: str
    affects_key: bool = True
    types: tuple[str, ...] = ()
    resource: str | None = None
    unless_default: bool = False

    def text(self) -> str:
        """The description in the user's language."""
        return tr(self.description)


def setting(
    default: Any = ...,
    description: str = "",
    *,
    affects_key: bool = True,
    resource: str | None = None,
    unless_default: bool = False,
    **limits: Any,
) -> Any:
    """Declare a setting.

    Args:
        default: The default value; without one the setting is required.
        description: What it does, in English; a message of the catalog.
        affects_key: As in `SettingInfo`.
        resource: As in `SettingInfo`.
        unless_default: As in `SettingInfo`.
        **limits: pydantic's constraints (`ge`, `gt`, `le`, `lt`, `min_length`, ...).
    """
    return Field(
        default,
        description=description,
        json_schema_extra=_extra(SettingInfo(description, affects_key, (), resource, unless_default)),
        **limits,
    )


def ref(*types: str, default: Any = ..., description: str = "", **limits: Any) -> Any:
    """Declare a reference: a setting that names what to read, of one of these artifact types (`files`: any path).

    A list of references that has no default takes `min_length=1`: a stage that was to read something is given nothing.
    """
    extra = _extra(SettingInfo(description, True, types))
    return Field(default, description=description, json_schema_extra=extra, **limits)


def _extra(setting: SettingInfo) -> dict[str, Any]:
    row: dict[str, Any] = {"x-affects-key": setting.affects_key}
    if setting.types:
        row["x-reads"] = list(setting.types)
    if setting.resource:
        row["x-resource"] = setting.resource
    if setting.unless_default:
        row["x-unless-default"] = True
    return row


def setting_info(field: FieldInfo) -> SettingInfo:
    """What was declared for a field by `setting` or `ref`."""
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    reads = extra.get("x-reads", [])
    resource = extra.get("x-resource")
    return SettingInfo(
        field.description or "",
        bool(extra.get("x-affects-key", True)),
        tuple(str(t) for t in reads) if isinstance(reads, list) else (),
        None if resource is None else str(resource),
        bool(extra.get("x-unless-default", False)),
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference in settings: its dotted `field`, its text, and the artifact types that it takes."""

    field: str
    text: str
    types: tuple[str, ...]


def file_reference(text: str) -> str:
    """A file name as a reference: what is no path yet is one from the recipe's `root`."""
    return text if text.startswith("~") or "/" in text else f"./{text}"


def references(settings: Settings, prefix: str = "") -> Iterator[Reference]:
    """All references in settings, nested ones too, in the order of declaration.

    A reference inside a list of nested settings (`sources: [{path: ...}]`) has the field `sources.0.path`.
    """
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        setting = setting_info(field)
        if isinstance(value, Settings):
            yield from references(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and not setting.types:
            for index, item in enumerate(value):
                if isinstance(item, Settings):
                    yield from references(item, f"{prefix}{name}.{index}.")
        elif setting.resource and isinstance(value, str) and is_file_name(value):
            yield Reference(prefix + name, file_reference(value), ("files",))
        elif setting.types and value is not None:
            for text in value if isinstance(value, tuple) else (value,):
                yield Reference(prefix + name, text, setting.types)


def key_settings(settings: Settings) -> dict[str, Any]:
    """The settings that affect the key, as JSON data, without references: inputs affect it by their content."""
    row: dict[str, Any] = {}
    for name, field in type(settings).model_fields.items():
        setting = setting_info(field)
        value = getattr(settings, name)
        if not setting.affects_key or setting.types or (setting.unless_default and value == field.default):
            continue
        if setting.resource and isinstance(value, str) and is_file_name(value):
            continue
        if isinstance(value, Settings):
            row[name] = key_settings(value)
        elif isinstance(value, tuple | list):
            row[name] = [key_settings(item) if isinstance(item, Settings) else item for item in value]
        else:
            row[name] = value
    return row
