"""JSON schemas of clients, rewritten for the grammar engines: one meaning, whatever spelling a client's library uses.

    {"$ref": "#/$defs/地址"}                     -> {"$ref": "#/$defs/d0"}, with the target under `$defs` of the root
    {"properties": {"a": {}}}                    -> {"type": "object", "properties": {"a": {}},
                                                     "additionalProperties": false}

References are resolved here, so that a schema may also be part of another one (the arguments in a tool call's schema).
Every value that fits the rewritten schema fits the client's, except that formats which no engine knows stay unchecked
(JSON Schema calls a format an annotation) and a `oneOf` with a `discriminator` is decided by that property alone.

Sources: JSON Schema 2020-12 Core (8.2 references, 10.2 applicators), RFC 6901 (JSON Pointer in a URI fragment).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from hanlin.core.i18n import tr

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri", "unknown")
)
"""Values of `format` that are enforced; others are annotations without effect."""

_DEFINITIONS = ("$defs", "definitions")
_DROPPED = frozenset(("$id", "$schema", "$anchor", "$comment", "x-guidance", *_DEFINITIONS))
_SCHEMA_MAPS = frozenset(("properties", "patternProperties", "dependentSchemas"))
_SCHEMA_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_SCHEMAS = frozenset(
    (
        "items",
        "additionalItems",
        "additionalProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
        "propertyNames",
        "contains",
        "not",
        "if",
        "then",
        "else",
    )
)
_TESTS = frozenset(("not", "if", "contains"))
"""Keywords whose schema may fail: to close it would change what fits."""
_VALUES = frozenset(("enum", "const", "default", "examples"))
"""Keywords with values of a document in place of schemas."""
_LEAVES_OPEN = frozenset(
    (
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "propertyNames",
        "dependentSchemas",
        "allOf",
        "anyOf",
        "oneOf",
        "$ref",
        "$dynamicRef",
        "if",
        "then",
        "else",
        "not",
        "const",
        "enum",
    )
)
"""Beside any of these, the properties that are listed may not be all that the object has."""
_MAX_COMPARED_ALTERNATIVES = 150
"""Alternatives of a `oneOf` that are compared pair by pair: 11,000 pairs take about 30 ms."""
_MAX_COMPARED_PAIRS = 25_000
"""Pairs of a whole schema; a `oneOf` beyond them stays, and the grammar engine refuses it by name."""
_MAX_COMPARED_NAMES = 64
"""Required properties of an alternative that is compared."""


class SchemaError(ValueError):
    """A schema that means nothing, such as one with a reference to nowhere. The message is for the client."""


def rewrite_schema(schema: Mapping[str, Any] | bool) -> dict[str, Any]:
    """A whole schema with its references under `$defs` of the root.

    Raises:
        SchemaError: A reference has no target, or the schema is nested too deep.
    """
    definitions: dict[str, Any] = {}
    rewritten = embed_schema(schema, definitions)
    return {**rewritten, "$defs": definitions} if definitions else rewritten


def embed_schema(schema: Mapping[str, Any] | bool, definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema as part of another one.

    Args:
        schema: A whole schema, with references to its own parts.
        definitions: The other schema's `$defs`; the targets of the references are added, under names that are free.

    Returns:
        The schema, whose references point to `#/$defs/...` of the other one.

    Raises:
        SchemaError: A reference has no target, or the schema is nested too deep.
    """
    try:
        rewritten = _Rewriter(schema, definitions).rewrite(schema)
    except RecursionError as error:
        raise SchemaError(tr("the schema is nested too deep")) from error
    return {} if rewritten is True else {"not": {}} if rewritten is False else rewritten


class _Rewriter:
    """Rewrites the parts of one schema.

    Args:
        root: The whole schema; references are resolved in it.
        definitions: Where the targets of references go.
    """

    def __init__(self, root: Any, definitions: dict[str, Any]) -> None:
        self._root = root
        self._definitions = definitions
        self._names: dict[tuple[str, bool], str] = {}
        self._anchors: dict[str, Any] | None = None
        self._num_compared = 0

    def rewrite(self, schema: Any, is_partial: bool = False) -> Any:
        """Rewrite a schema.

        Args:
            schema: The schema, or whatever a client wrote in its place.
            is_partial: Another schema lists further properties of the same object (`allOf`), so it is not closed.
        """
        if not isinstance(schema, Mapping):
            return schema
        sources = sum(key in schema for key in ("properties", "$ref", "anyOf", "oneOf"))
        is_split = is_partial or sources + len(_as_list(schema.get("allOf"))) > 1
        rewritten: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _DROPPED:
                continue
            if key == "$ref" and isinstance(value, str):
                rewritten[key] = self._rewrite_reference(value, is_split)
            elif key in _SCHEMA_MAPS and isinstance(value, Mapping):
                rewritten[key] = {name: self.rewrite(part) for name, part in value.items()}
            elif key in _SCHEMA_LISTS and isinstance(value, list):
                shared = is_split and key != "prefixItems"
                rewritten[key] = [self.rewrite(part, shared) for part in value]
            elif key == "items" and isinstance(value, list):  # before draft 2020-12
                rewritten["prefixItems"] = [self.rewrite(part) for part in value]
            elif key == "additionalItems":
                if isinstance(schema.get("items"), list):
                    rewritten["items"] = self.rewrite(value)
            elif key in _SCHEMAS:
                rewritten[key] = self.rewrite(value, is_partial=key in _TESTS)
            elif key != "format" or not isinstance(value, str) or value in FORMATS:
                rewritten[key] = value
        if "oneOf" in rewritten and "anyOf" not in rewritten and self._is_exclusive(schema):
            rewritten["anyOf"] = rewritten.pop("oneOf")
        if not is_partial and _lists_all_properties(schema):
            rewritten.setdefault("type", "object")
            rewritten["additionalProperties"] = False
        return rewritten

    def _rewrite_reference(self, reference: str, is_partial: bool) -> str:
        base = self._root.get("$id") if isinstance(self._root, Mapping) else None
        local = reference.removeprefix(base) if isinstance(base, str) else reference
        if not local.startswith("#"):
            return reference  # an address: nothing is fetched, and the grammar engine rejects it
        key = (local, is_partial)
        if key not in self._names:
            target = self._resolve(local)
            self._names[key] = name = f"d{len(self._definitions)}"
            self._definitions[name] = True  # the name is taken, also by references within the target
            self._definitions[name] = self.rewrite(target, is_partial)
        return f"#/$defs/{self._names[key]}"

    def _resolve(self, reference: str) -> Any:
        """The part of the schema that a fragment such as `#/$defs/名` means, percent-encoded or not."""
        fragment = reference[1:]
        for pointer in (unquote(fragment), fragment):
            if pointer and not pointer.startswith("/"):
                if self._anchors is None:
                    self._anchors = {}
                    _collect_anchors(self._root, self._anchors)
                if pointer in self._anchors:
                    return self._anchors[pointer]
                continue
            target = self._root
            try:
                for step in pointer.split("/")[1:]:
                    name = step.replace("~1", "/").replace("~0", "~")
                    target = target[int(name)] if isinstance(target, list) else target[name]
            except (KeyError, IndexError, ValueError, TypeError):
                continue
            return target
        raise SchemaError(tr("$ref {reference} points to nothing in this schema", reference=reference))

    def _is_exclusive(self, schema: Mapping[str, Any]) -> bool:
        """Whether no value fits two alternatives of `oneOf`, so that it means the same as `anyOf`."""
        if "discriminator" in schema:
            return True
        alternatives = [self._follow(part) for part in _as_list(schema["oneOf"])]
        self._num_compared += len(alternatives) * (len(alternatives) - 1) // 2
        if self._num_compared > _MAX_COMPARED_PAIRS:
            return False
        return 0 < len(alternatives) <= _MAX_COMPARED_ALTERNATIVES and all(
            _exclude_each_other(first, second)
            for index, first in enumerate(alternatives)
            for second in alternatives[index + 1 :]
        )

    def _follow(self, schema: Any) -> Any:
        for _ in range(8):
            reference = schema.get("$ref") if isinstance(schema, Mapping) else None
            if not isinstance(reference, str) or not reference.startswith("#"):
                break
            schema = self._resolve(reference)
        return schema


def _lists_all_properties(schema: Mapping[str, Any]) -> bool:
    """Whether a schema lists the properties of an object and says nothing of others: it is then taken as closed."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or not _LEAVES_OPEN.isdisjoint(schema):
        return False
    return _names(schema.get("required")) <= properties.keys()


def _exclude_each_other(first: Any, second: Any) -> bool:
    """Whether two schemas have different types, or a property that both require with different constants."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return False
    types = [_types(schema) for schema in (first, second)]
    if all(types) and types[0].isdisjoint(types[1]):
        return True
    if any(len(_as_list(schema.get("required"))) > _MAX_COMPARED_NAMES for schema in (first, second)):
        return False
    shared = _names(first.get("required")) & _names(second.get("required"))
    if not (shared and types[0] == types[1] == {"object"}):
        return False
    values = [{name: _constants(schema, name) for name in shared} for schema in (first, second)]
    return any(
        values[0][name] and values[1][name] and not any(value in values[1][name] for value in values[0][name])
        for name in shared
    )


def _types(schema: Mapping[str, Any]) -> set[str]:
    kind = schema.get("type")
    names = {kind} if isinstance(kind, str) else _names(kind)
    return names | {"number", "integer"} if names & {"number", "integer"} else names


def _constants(schema: Mapping[str, Any], name: str) -> list[Any]:
    """The values that a property may have, if the schema lists them."""
    properties = schema.get("properties")
    part = properties.get(name) if isinstance(properties, Mapping) else None
    if not isinstance(part, Mapping):
        return []
    return [part["const"]] if "const" in part else _as_list(part.get("enum"))


def _as_list(value: Any) -> list[Any]:
    """A list as it is; none for whatever else a client wrote in its place, which the grammar engine rejects."""
    return value if isinstance(value, list) else []


def _names(value: Any) -> set[str]:
    return {name for name in _as_list(value) if isinstance(name, str)}


def _collect_anchors(schema: Any, anchors: dict[str, Any]) -> None:
    """Add the parts of a schema that have an `$anchor`, by its name; of equal names the first."""
    if isinstance(schema, Mapping) and isinstance(schema.get("$anchor"), str):
        anchors.setdefault(schema["$anchor"], schema)
    if isinstance(schema, list):
        for part in schema:
            _collect_anchors(part, anchors)
    elif isinstance(schema, Mapping):
        for key, part in schema.items():
            if key in (*_SCHEMA_MAPS, *_DEFINITIONS) and isinstance(part, Mapping):
                _collect_anchors(list(part.values()), anchors)  # a property may be called `enum`
            elif key not in _VALUES:
                _collect_anchors(part, anchors)
