"""Tool calls as models write them: where one begins in an answer, and its arguments as JSON.

Two forms are read. How tools are presented to the model is the chat template's business.

    {"name": "weather", "parameters": {"day": 3}}       bare, in a list, or within <tool_call> (then also `arguments`)
    [weather(day=3), weather(day=4)]                     pythonic, as Llama 3.2 writes calls

`answer_splitter` finds calls in the text of an answer with `match_call`.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import check_schema_length
from hanlin.serve.json_schema import SchemaError, embed_schema

BEGIN_CALL, END_CALL = "<tool_call>", "</tool_call>"
_PYTHON_TAG = "<|python_tag|>"
_MAX_HEAD_CHARS = 512
_SPACE = " \t\r\n"
_PYTHON_KEY = re.compile(r"\s*([^\s=,()\"']+)\s*=(?!=)")
_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}


class CallHead(NamedTuple):
    """The beginning of a call.

    Attributes:
        kind: How it goes on: `arguments` (a JSON object follows), `object` (the whole object from its `{` on must be
            read to know what it is), `pythonic` (keyword arguments up to `)` follow).
        name: The tool; empty for `object`.
        end: Index behind the head: of the `{` of the arguments or of the object, or behind the `(`.
        is_tagged: Whether it is within `<tool_call>`.
        is_listed: Whether it begins a list.
    """

    kind: Literal["arguments", "object", "pythonic"]
    name: str
    end: int
    is_tagged: bool = False
    is_listed: bool = False


class _NoCall(Exception):
    """The text is not the beginning of a call."""


class _NeedsMore(Exception):
    """The text ends before it is decided."""


class CallMatcher:
    """Decides whether a text begins with a call of one of the offered tools.

    Args:
        names: The names of the tools.
        is_pythonic: Whether the model's template writes calls as Python does.
    """

    def __init__(self, names: Collection[str], is_pythonic: bool = False) -> None:
        self.is_pythonic = is_pythonic
        self.names = frozenset(names)
        self._spelled = {json.dumps(name, ensure_ascii=ascii): name for name in names for ascii in (False, True)}
        self._called = {f"{name}(": name for name in names}

    def match(self, text: str, in_list: bool = False) -> CallHead | bool:
        """The call at the start of `text`; True if it may become one; False if it cannot.

        Args:
            text: What the model wrote; it begins with `{`, `[` or `<`, in a list also with a name.
            in_list: Whether it continues a pythonic list, in which a call has no bracket of its own.
        """
        try:
            return self._match(text, in_list)
        except _NeedsMore:
            return len(text) <= _MAX_HEAD_CHARS
        except _NoCall:
            return False

    def _match(self, text: str, in_list: bool) -> CallHead:
        if in_list:
            return self._match_pythonic(text, 0, False)
        if text[:1] == "{":
            return self._match_object(text, 0)
        if text[:1] == "[":
            start = _skip_space(text, 1)
            if start == len(text):
                raise _NeedsMore
            if text[start : start + 1] == "{":
                return self._match_object(text, start)._replace(is_listed=True)
            return self._match_pythonic(text, start, True)
        for tag in (BEGIN_CALL, _PYTHON_TAG):
            if text.startswith(tag):
                return self._match_tagged(text, _skip_space(text, len(tag)), tag == BEGIN_CALL)
            if tag.startswith(text):
                raise _NeedsMore
        raise _NoCall

    def _match_tagged(self, text: str, start: int, is_tagged: bool) -> CallHead:
        _expect(text, start, "{")
        try:
            return self._match_object(text, start)._replace(is_tagged=is_tagged)
        except _NoCall:
            if not is_tagged:
                raise
            return CallHead("object", "", start, True)

    def _match_pythonic(self, text: str, start: int, is_listed: bool) -> CallHead:
        if not self.is_pythonic:
            raise _NoCall
        for spelled, name in self._called.items():
            if text.startswith(spelled, start):
                return CallHead("pythonic", name, start + len(spelled), False, is_listed)
        if any(spelled.startswith(text[start:]) for spelled in self._called):
            raise _NeedsMore
        raise _NoCall

    def _match_object(self, text: str, start: int) -> CallHead:
        """`{`, optionally `"type": "function",`, `"name": NAME, "parameters":` or `"arguments":`, and what follows."""
        index = _skip_space(text, _expect(text, start, "{"))
        index, key = _expect_any(text, index, ('"name"', '"type"'))
        if key == '"type"':
            index = _expect(text, _skip_space(text, _expect_colon(text, index)), '"function"')
            index = _skip_space(text, _expect(text, _skip_space(text, index), ","))
            index = _expect(text, index, '"name"')
        index, spelled = _expect_any(text, _skip_space(text, _expect_colon(text, index)), tuple(self._spelled))
        index, mark = _expect_any(text, _skip_space(text, index), (",", "}"))
        if mark == "}":
            return CallHead("object", "", start)
        index, _ = _expect_any(text, _skip_space(text, index), ('"parameters"', '"arguments"'))
        index = _skip_space(text, _expect_colon(text, index))
        if text[index : index + 1] in ('"', "n"):  # some models write JSON within a text, or null
            return CallHead("object", "", start)
        _expect(text, index, "{")
        return CallHead("arguments", self._spelled[spelled], index)


def _skip_space(text: str, index: int) -> int:
    while index < len(text) and text[index] in _SPACE:
        index += 1
    return index


def _expect(text: str, index: int, literal: str) -> int:
    return _expect_any(text, index, (literal,))[0]


def _expect_any(text: str, index: int, literals: Sequence[str]) -> tuple[int, str]:
    """The index behind the literal at `index`, and the literal."""
    for literal in literals:
        if text.startswith(literal, index):
            return index + len(literal), literal
    rest = text[index:]
    if any(literal.startswith(rest) for literal in literals):
        raise _NeedsMore
    raise _NoCall


def _expect_colon(text: str, index: int) -> int:
    return _expect(text, _skip_space(text, index), ":")


class BracketScanner:
    """Finds where a bracketed text ends, over pieces of it; brackets within quotes do not count.

    Args:
        depth: How many brackets are open already.
        quotes: The characters that begin and end a quoted text.
    """

    def __init__(self, depth: int = 0, quotes: str = '"') -> None:
        self._depth, self._quotes = depth, quotes
        self._quote, self._is_escaped = "", False

    def find_end(self, text: str) -> int:
        """The index behind the last bracket, or -1 if `text`, the next piece, does not hold it."""
        for index, char in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._quote:
                self._is_escaped = char == "\\"
                if char == self._quote:
                    self._quote = ""
            elif char in self._quotes:
                self._quote = char
            elif char in "{[(":
                self._depth += 1
            elif char in "}])":
                self._depth -= 1
                if self._depth <= 0:
                    return index + 1
        return -1


def read_call_object(text: str, names: Collection[str]) -> tuple[str, str] | None:
    """Name and arguments (JSON) of a call that was written as a JSON object in any order of its keys, else None."""
    call = parse_arguments(text)
    if call is None:
        return None
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        arguments = parse_arguments(arguments) if arguments.strip() else {}
    elif arguments is None:
        arguments = {}
    name = call.get("name")
    if name not in names or not isinstance(arguments, dict):
        return None
    return str(name), json.dumps(arguments, ensure_ascii=False)


def read_pythonic_arguments(text: str) -> str | None:
    """Keyword arguments as Python writes them (`city="杭州", days=[1, 2]`) as JSON, or None if they are none.

    Values may be spelled as JSON, too: templates write lists and objects so.
    """
    arguments: dict[str, Any] = {}
    try:
        while text.strip():
            key = _PYTHON_KEY.match(text)
            if key is None:
                return None
            value, text = _split_at_comma(text[key.end() :])
            arguments[key[1]] = _evaluate(ast.parse(value.strip(), mode="eval").body)
        return json.dumps(arguments, ensure_ascii=False)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def _split_at_comma(text: str) -> tuple[str, str]:
    """A text up to its first comma that is within no brackets or quotes, and what is behind it."""
    depth, quote, is_escaped = 0, "", False
    for index, char in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif quote:
            is_escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "{[(":
            depth += 1
        elif char in "}])":
            depth -= 1
        elif char == "," and not depth:
            return text[:index], text[index + 1 :]
    return text, ""


def _evaluate(node: ast.expr) -> Any:
    """The value of a literal. Raises ValueError for anything else."""
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_evaluate(element) for element in elements]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {str(_evaluate(key)): _evaluate(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    raise ValueError(ast.dump(node))


def get_tool_names(tools: Sequence[Mapping[str, Any]]) -> frozenset[str]:
    """The names of the functions among the `tools` of a request."""
    return frozenset(map(get_tool_name, tools))


def get_tool_name(tool: Mapping[str, Any]) -> str:
    """The name of a function among the `tools` of a request."""
    return str(_get_function(tool).get("name"))


def get_call_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of the arguments of a tool; without one it takes none."""
    return {"type": "object", **(_get_function(tool).get("parameters") or {"properties": {}})}


def build_call_schema(
    tools: Sequence[Mapping[str, Any]], answer: Mapping[str, Any] | None = None, key: str = "parameters"
) -> dict[str, Any]:
    """The JSON schema of a call of one of `tools`.

    Args:
        tools: The tools of a request; the references in their schemas are to their own parts.
        answer: The schema of an answer without a call, if the model may choose.
        key: The key of the arguments.

    Raises:
        ApiError: 400 for a tool whose schema has a reference to nowhere.
    """
    check_schema_length([_get_function(tool).get("parameters") for tool in tools], "tools")
    if answer is not None:
        check_schema_length(answer, "response_format")
    definitions: dict[str, Any] = {}
    alternatives: list[dict[str, Any]] = []
    for index, tool in enumerate(tools):
        parameters = _embed(get_call_schema(tool), definitions, f"tools.{index}.function.parameters")
        alternatives.append(
            {
                "type": "object",
                "properties": {"name": {"const": get_tool_name(tool)}, key: parameters},
                "required": ["name", key],
                "additionalProperties": False,
            }
        )
    if answer is not None:
        alternatives.append(_embed(answer, definitions, "response_format"))
    return {"anyOf": alternatives, "$defs": definitions}


def _embed(schema: Mapping[str, Any], definitions: dict[str, Any], param: str) -> dict[str, Any]:
    try:
        return embed_schema(schema, definitions)
    except SchemaError as error:
        raise ApiError(400, str(error), param=param) from error


def parse_arguments(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call as an object; None if they are not a JSON object.

    Nor are they one if a number is `NaN`, `Infinity` or beyond a double (`1e999`): no response could hold it as JSON.
    """
    try:
        value = json.loads(arguments, strict=False, parse_float=_parse_float, parse_constant=_parse_float)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _parse_float(text: str) -> float:
    if math.isfinite(number := float(text)):
        return number
    raise ValueError(text)


def _get_function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The function of a tool, given as OpenAI writes it or bare."""
    function = tool.get("function", tool)
    return function if isinstance(function, Mapping) else {}
