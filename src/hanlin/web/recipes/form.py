"""The form of a recipe, made from the settings classes: each setting of each stage with type, range and description."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hanlin.config.kinds import KINDS
from hanlin.config.settings.base import Settings, setting_info
from hanlin.config.yaml_text import load_yaml
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.web.recipes.text import flow

OFTEN_CHANGED = frozenset(
    {
        "model",
        "data",
        "sources",
        "template",
        "learning_rate",
        "epochs",
        "max_seq_length",
        "batch_tokens",
        "micro_batch_tokens",
        "lora",
        "lora.rank",
        "lora.quantization",
        "precision",
        "gradient_checkpointing",
        "overlay",
        "validation_fraction",
        "types",
    }
)
"""Settings that are shown at once; the others are folded."""


def describe_form(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages of a recipe as fields of a form.

    Args:
        data: The recipe as YAML gives it.

    Returns:
        For each stage `name`, `kind`, `summary` and `fields`; of a field its dotted `name`, `type` (`choice`, `number`,
        `text` or `yaml`), `choices`, `least` and `most`, the `value` in YAML or null, `default`, `needed`, `often`,
        `reads` (types of stages that it names) and `description`. A stage of an unknown kind has no fields.
    """
    stages = data.get("stages")
    rows = []
    makers = _makers(data)
    for name, row in stages.items() if isinstance(stages, dict) else ():
        kind = KINDS.get(str(row.get("kind"))) if isinstance(row, dict) else None
        fields = [] if kind is None else list(_fields(kind.settings, row, "", makers, name))
        rows.append(
            {
                "name": str(name),
                "kind": "" if kind is None else kind.name,
                "summary": "" if kind is None else kind.summary,
                "fields": fields,
            }
        )
    return rows


def _makers(data: Mapping[str, Any]) -> dict[str, list[str]]:
    """The stages by the type of artifact that they make, as far as that is known without their settings."""
    makers: dict[str, list[str]] = {}
    stages = data.get("stages")
    for name, row in stages.items() if isinstance(stages, dict) else ():
        kind = KINDS.get(str(row.get("kind"))) if isinstance(row, dict) else None
        if kind is None:
            continue
        if isinstance(kind.makes, str):
            made = kind.makes
        elif "records" in row:
            made = str(row["records"])
        else:
            made = "adapter" if row.get("lora") else "model"
        makers.setdefault(made, []).append(str(name))
    return makers


def _fields(
    settings: type[Settings], row: Mapping[str, Any], prefix: str, makers: Mapping[str, list[str]], stage: str
) -> Iterator[dict[str, Any]]:
    for name, field in settings.model_fields.items():
        info = setting_info(field)
        value = row.get(name, PydanticUndefined) if isinstance(row, Mapping) else PydanticUndefined
        nested = _nested(field.annotation)
        kind, choices = _widget(field.annotation, bool(info.types))
        least, most = _limits(field)
        full_name = prefix + name
        yield {
            "name": full_name,
            "type": kind,
            "choices": choices,
            "least": least,
            "most": most,
            "value": None if value is PydanticUndefined else flow(value),
            "default": _default(field),
            "needed": field.is_required(),
            "often": full_name in OFTEN_CHANGED or field.is_required(),
            "reads": [other for made in info.types for other in makers.get(made, ()) if other != stage],
            "description": info.text(),
        }
        # settings below one that is null or absent appear once it is there
        if nested is not None and (isinstance(value, Mapping) or not _allows_none(field.annotation)):
            inner = value if isinstance(value, Mapping) else {}
            yield from _fields(nested, inner, f"{full_name}.", makers, stage)


def _nested(annotation: Any) -> type[Settings] | None:
    """The settings class of a field that holds one, not a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        found = [item for item in map(_nested, typing.get_args(annotation)) if item is not None]
        return found[0] if len(found) == 1 else None
    return None


def _allows_none(annotation: Any) -> bool:
    return type(None) in typing.get_args(annotation)


def _widget(annotation: Any, is_reference: bool) -> tuple[str, list[str]]:
    """The kind of a field, and the values to choose from."""
    options = [item for item in typing.get_args(annotation) if item is not type(None)]
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    none = ["null"] if is_union and _allows_none(annotation) else []
    inner = options[0] if is_union and len(options) == 1 else annotation
    if inner is bool:
        return "choice", ["true", "false", *none]
    if typing.get_origin(inner) is typing.Literal:
        return "choice", [flow(value) for value in typing.get_args(inner)] + none
    if inner in (int, float):
        return "number", []
    if inner is str or is_reference:
        return "text", []
    return "yaml", []


def _limits(field: FieldInfo) -> tuple[str, str]:
    least = most = ""
    for item in field.metadata:
        for sign, name in (("≥", "ge"), (">", "gt")):
            if (bound := getattr(item, name, None)) is not None:
                least = f"{sign} {bound}"
        for sign, name in (("≤", "le"), ("<", "lt")):
            if (bound := getattr(item, name, None)) is not None:
                most = f"{sign} {bound}"
    return least, most


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is PydanticUndefined:
        return ""
    if isinstance(value, Settings):
        return "{…}"
    try:
        return flow(value)
    except (yaml.YAMLError, TypeError):
        return str(value)


def read_field(text: str, where: str) -> Any:
    """The value that was typed into a field, which is YAML as in a recipe. Raises UserError if it is not."""
    if text == "":
        return ""
    try:
        return load_yaml(text)[0]
    except yaml.YAMLError as error:
        raise UserError(
            tr("'{text}' is not valid YAML", text=text[:80]), where, getattr(error, "problem", None)
        ) from error


def parse_data(text: str) -> Mapping[str, Any]:
    """The data of a recipe's text, valid or not; empty if it is not YAML or no mapping."""
    try:
        data, _ = load_yaml(text)
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def list_kinds() -> Sequence[dict[str, str]]:
    """The kinds of stages that can be added."""
    return [{"name": kind.name, "summary": kind.summary} for kind in KINDS.values()]
