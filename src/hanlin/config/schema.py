"""The JSON schema of a recipe file, for editors."""

from __future__ import annotations

from typing import Any

from hanlin.config.budgets import BUDGET, BUDGETS
from hanlin.config.kinds import KINDS
from hanlin.config.recipe import ReportSettings
from hanlin.config.settings.launch import Launch


def json_schema() -> dict[str, Any]:
    """The JSON schema of recipes, with every stage kind and its settings."""
    kinds = []
    definitions: dict[str, Any] = {}
    for kind in KINDS.values():
        schema = kind.settings.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        schema["properties"] = {
            "kind": {"const": kind.name, "description": kind.description},
            **schema.get("properties", {}),
        }
        schema["required"] = ["kind", *schema.get("required", [])]
        schema["title"] = kind.name
        kinds.append(schema)
    report = ReportSettings.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(report.pop("$defs", {}))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hanlin recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "name": {"type": "string"},
            "seed": {"type": "integer", "minimum": 0},
            "root": {"type": "string", "description": "folder that relative paths start at"},
            "launch": Launch.model_json_schema(),
            "stages": {"type": "object", "additionalProperties": {"oneOf": kinds}},
            BUDGET: {"type": "string", "description": "the budget to use if the command line names none"},
            BUDGETS: {
                "type": "object",
                "description": "settings of stages that --set budget=NAME puts in place of those in `stages`",
                "additionalProperties": {"type": "object", "additionalProperties": {"type": "object"}},
            },
            "report": report,
        },
        "$defs": definitions,
    }
