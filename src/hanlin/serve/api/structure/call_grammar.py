r"""How answers that call tools are written, in Lark as llguidance reads it.

    forced calls          start: BEGIN call (BETWEEN call)* END
    calls or a format     start: BEGIN call (BETWEEN call)* END | format
    text with calls       start: (head call | fenced)* text

In a text, `head` is a lazy lexeme: any text up to the first beginning of a call, `{"name": "weather"` for example. From
there on the call is held to its schema; until then every token may come, also one that is part text and part call. What
begins a call is what `tool_calls.CallMatcher` reads as one. Over Llama 3's 128,000 tokens a mask in text takes 0.06 ms
once the lexer's states are known, 1 to 2 ms before; 20 strict tools of 9 arguments compile in 0.1 s, 50 in 0.2 s.

Source: llguidance, docs/syntax.md, "Lazy lexemes" and "Tool calling".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from hanlin.chat.call_form import CallForm
from hanlin.core.i18n import tr
from hanlin.serve.api.structure.lark import LarkSpeller, quote
from hanlin.serve.api.tool_calls import BEGIN_CALL, END_CALL, get_call_schema, get_tool_name
from hanlin.serve.errors import ApiError
from hanlin.serve.grammar_worker import COMPACT_JSON, FLEXIBLE_JSON, escape_regex
from hanlin.serve.guided_decoding import check_schema_length
from hanlin.serve.json_schema import SchemaError, rewrite_schema

_W = r"[ \t\r\n]*"
_PYTHON_KEY = re.compile(r"[^\W\d]\w*")
_ROOT_KEYWORDS = frozenset(
    ("type", "properties", "required", "additionalProperties", "title", "description", "default", "examples", "$defs")
)
"""Keywords that a list of keyword arguments can obey; of any other at the root, the call is written as JSON."""
_ANY_ARGUMENTS = r"""
any: (STRING | PLAIN | "(" any ")" | "[" any "]" | "{" any "}")*
STRING: /"([^"\\]|\\(?s:.))*"|'([^'\\]|\\(?s:.))*'/
PLAIN: /[^"'()\[\]{}]+/
"""


class CallGrammar:
    """Writes the grammars for the tools of one request.

    Args:
        tools: The tools.
        form: The form in which the model's template writes calls.
        lark: Writes Lark for the model's tokenizer.
        strict_names: Tools whose arguments are held to their schemas; None: all. Those of others may be any object.
    """

    def __init__(
        self,
        tools: Sequence[Mapping[str, Any]],
        form: CallForm,
        lark: LarkSpeller,
        strict_names: Collection[str] | None = None,
    ) -> None:
        self._form, self._lark = form, lark
        held = [tool for tool in tools if strict_names is None or get_tool_name(tool) in strict_names]
        check_schema_length([get_call_schema(tool) for tool in held], "tools")
        self._names = [get_tool_name(tool) for tool in tools]
        self._schemas: list[dict[str, Any] | None] = []
        for index, (tool, name) in enumerate(zip(tools, self._names, strict=True)):
            is_strict = strict_names is None or name in strict_names
            self._schemas.append(_rewrite(tool, f"tools.{index}.function.parameters") if is_strict else None)
        self._rules: list[str] = []

    def write_calls(self, max_calls: int, answer: Mapping[str, Any] | None = None, param: str = "") -> str:
        """The grammar of an answer that is calls, or JSON of a schema.

        Args:
            max_calls: How many calls there may be.
            answer: The schema of an answer without a call; None: there must be one.
            param: The request field that holds it, named in errors.

        Raises:
            ApiError: 400 for a reference to nowhere.
        """
        form, self._rules = self._form, []
        arguments = [_PythonicArguments(f"p{index}", schema or {}) for index, schema in enumerate(self._schemas)]
        if form.is_pythonic and not all(rules.is_possible for rules in arguments):
            form = CallForm()  # answers are read for calls in JSON under every template
        for index, name in enumerate(self._names):
            if form.is_pythonic:
                self._add(f"call_{index}", f'{quote(name + "(")} {arguments[index].start} ")"')
                self._rules += arguments[index].write(self._write_json)
            else:
                head = f'{{"name": {json.dumps(name, ensure_ascii=False)}, "{form.key}": '
                self._add(f"call_{index}", f'{quote(head)} {self._write_json(self._schemas[index], True)} "}}"')
        self._add("call", self._any_of("call_"))
        between = self._lark.spell(form.between or "")
        more = f"({between} call){{0,{max_calls - 1}}}" if form.between is not None and max_calls > 1 else ""
        calls = f"{self._lark.spell(form.begin)} call {more} {self._lark.spell(form.end)}"
        if answer is not None:
            check_schema_length(answer, param)
            try:
                self._add("answer", self._write_json(rewrite_schema(answer), False))
            except SchemaError as error:
                raise ApiError(400, str(error), param=param) from error
        self._add("start", f"{calls} | answer" if answer is not None else calls)
        return self._join()

    def write_text_with_calls(self, max_calls: int | None, is_thinking: bool) -> str:
        """The grammar of an answer that is text with any number of calls in it.

        Args:
            max_calls: After so many calls the answer ends; None: any number. Only 1 is ever asked for.
            is_thinking: Whether the answer begins within a thinking block, in which nothing is a call.

        Raises:
            ApiError: 400 for a strict tool that cannot be held to its schema in the form of the template.
        """
        self._rules = [
            "TEXT: /(?s:.*)/",
            f'KEY: /{_W},{_W}"(parameters|arguments)"{_W}:{_W}/',
            rf"CLOSE: /{_W}\}}/",
            "fence[lazy]: /(?s:.*)```/",
        ]
        for index, name in enumerate(self._names):
            opening = _object_head(name)
            self._add(f"args_{index}", self._write_json(self._schemas[index] or {"type": "object"}, False))
            self._rules.append(f"head_{index}[lazy]: /(?s:.*){opening}/")
            self._rules.append(f"TAGGED_{index}: /{_W}{opening}/")
            self._add(f"call_{index}", f"head_{index} KEY args_{index} CLOSE")
            self._add(f"tagged_{index}", f"TAGGED_{index} KEY args_{index} CLOSE")
        begin, end = (escape_regex(tag) for tag in (BEGIN_CALL, END_CALL))
        self._rules += [f"tag[lazy]: /(?s:.*){begin}/", f"END_TAG: /{_W}{end}/"]
        self._add("tagged", f"tag ({self._any_of('tagged_')}) END_TAG")
        lists = self._write_lists(max_calls) if self._form.is_pythonic else ""
        self._add("call", f"{self._any_of('call_')} | tagged{lists}")
        self._add("fenced", "fence fence")
        tags = self._lark.special_tags
        self._add("piece", "fenced" + (f" | TEXT {tags}" if tags else ""))
        self._add("rest", "TEXT | fence TEXT")
        thought = self._write_thought(is_thinking)
        if max_calls is None:
            self._add("start", f"{thought} (call | piece)* rest")
        else:
            self._rules.append(rf"AFTER: /{_W}(\]{_W})?/")
            self._add("start", f"{thought} piece* (call AFTER | rest)")
        return self._join()

    def _write_thought(self, is_thinking: bool) -> str:
        begin, end = self._lark.think_rules()
        self._rules += [begin, end]
        return "thought" if is_thinking else "(opening thought)?"

    def _write_lists(self, max_calls: int | None) -> str:
        """The rules of calls as Python writes them; they are read in lists alone."""
        self._rules.append(_ANY_ARGUMENTS)
        for index, (name, schema) in enumerate(zip(self._names, self._schemas, strict=True)):
            arguments = _PythonicArguments(f"p{index}", schema or {})
            if schema is not None and not arguments.is_possible:
                what = tr(
                    "calls of {name} cannot be held to its schema: this model writes arguments one by one, and the "
                    "schema says more of them than that",
                    name=name,
                )
                raise ApiError(400, what, param=f"tools.{index}.function.strict", code="unsupported_value")
            written = arguments.start if schema is not None else "any"
            self._rules += arguments.write(self._write_json) if schema is not None else []
            self._rules.append(rf"first_{index}[lazy]: /(?s:.*)\[{_W}{escape_regex(name)}\(/")
            self._add(f"item_{index}", f'first_{index} {written} ")"')
            self._add(f"next_{index}", f'{quote(name + "(")} {written} ")"')
        self._rules += [f"COMMA: /{_W},{_W}/", rf"END_LIST: /{_W}\]/"]
        more = "" if max_calls == 1 else f" (COMMA ({self._any_of('next_')}))*"
        self._add("list", f"({self._any_of('item_')}){more} END_LIST")
        return " | list"

    def _write_json(self, schema: Mapping[str, Any] | None, compact: bool) -> str:
        guidance = COMPACT_JSON if compact else FLEXIBLE_JSON
        return f"%json {json.dumps({**(schema or {}), 'x-guidance': guidance}, ensure_ascii=False)}"

    def _any_of(self, prefix: str) -> str:
        return " | ".join(f"{prefix}{index}" for index in range(len(self._names)))

    def _add(self, rule: str, body: str) -> None:
        self._rules.append(f"{rule}: {body}")

    def _join(self) -> str:
        return "\n".join(["%llguidance {}", *self._rules, ""])


class _PythonicArguments:
    """Rules of keyword arguments, such as `town="东", day=3`, in the order of a schema's properties.

    Optional ones may be left out.

    Args:
        prefix: Of the names of its rules.
        schema: Schema of the arguments, rewritten.

    Attributes:
        start: The rule of all arguments.
        is_possible: Whether the schema can be obeyed so.
    """

    def __init__(self, prefix: str, schema: Mapping[str, Any]) -> None:
        properties = schema.get("properties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required", [])
        is_well_formed = isinstance(required, list) and all(isinstance(name, str) for name in required)
        self._required = frozenset(required) if is_well_formed else frozenset()
        self._definitions = schema.get("$defs", {})
        self._prefix = prefix
        self.start = f"{prefix}_first_0"
        self.is_possible = (
            is_well_formed  # the grammar engine refuses any other in JSON by its reason
            and _ROOT_KEYWORDS.issuperset(schema)
            and schema.get("type", "object") == "object"
            and self._required.issubset(self._properties)
            and all(_PYTHON_KEY.fullmatch(key) for key in self._properties)
        )

    def write(self, write_json: Callable[[Mapping[str, Any] | None, bool], str]) -> list[str]:
        """The rules: `first_N` before any argument is written, `next_N` after one; N is the next property."""
        rules = []
        for index, (key, schema) in enumerate(self._properties.items()):
            for state, comma in (("first", ""), ("next", ", ")):
                rest = f"{self._prefix}_next_{index + 1}"
                written = f"{quote(f'{comma}{key}=')} {self._prefix}_value_{index} {rest}"
                skipped = "" if key in self._required else f" | {self._prefix}_{state}_{index + 1}"
                rules.append(f"{self._prefix}_{state}_{index}: {written}{skipped}")
            rules.append(f"{self._prefix}_value_{index}: {self._write_value(schema, write_json)}")
        last = len(self._properties)
        return [*rules, f'{self._prefix}_first_{last}: ""', f'{self._prefix}_next_{last}: ""']

    def _write_value(self, schema: Any, write_json: Callable[[Mapping[str, Any] | None, bool], str]) -> str:
        if isinstance(schema, Mapping) and schema.get("type") == "boolean" and not {"enum", "const"} & schema.keys():
            return '"True" | "False"'
        if schema is True:
            schema = {}
        if not isinstance(schema, Mapping):
            schema = {"not": {}}
        return write_json({**schema, **({"$defs": self._definitions} if self._definitions else {})}, True)


def _object_head(name: str) -> str:
    """A regular expression of the beginning of a call in JSON up to the end of its name; see `CallMatcher`."""
    spelled = {escape_regex(json.dumps(name, ensure_ascii=ascii)) for ascii in (False, True)}
    kind = f'("type"{_W}:{_W}"function"{_W},{_W})?'
    return rf'\{{{_W}{kind}"name"{_W}:{_W}({"|".join(sorted(spelled))})'


def _rewrite(tool: Mapping[str, Any], param: str) -> dict[str, Any]:
    try:
        return rewrite_schema(get_call_schema(tool))
    except SchemaError as error:
        raise ApiError(400, str(error), param=param) from error
