"""Formats that a request asks for; each makes the constraint of an answer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from hanlin.core.i18n import tr
from hanlin.inference.protocol import Constraint
from hanlin.serve.api.structure.call_grammar import CallGrammar
from hanlin.serve.api.structure.lark import LarkSpeller
from hanlin.serve.api.tool_calls import build_call_schema, get_tool_names
from hanlin.serve.errors import ApiError
from hanlin.serve.guided_decoding import GrammarConstraint
from hanlin.serve.registry import ServedModel, Thought

MAX_FORCED_CALLS = 16
"""Calls of one answer that must call: a small model that writes one after another comes to an end."""


class OutputFormat:
    """What an answer must fit.

    Args:
        kind: `json` (a schema), `regex`, `choice` (texts) or `grammar` (GBNF or Lark).
        value: The schema, pattern, texts or grammar.
        param: The request field that holds it, named in errors.
        compact: JSON without optional white space, as tool calls are trained.

    Attributes:
        leaves_text_free: Whether an answer may be any text; it is then held to something within the text alone.
    """

    leaves_text_free = False

    def __init__(
        self, kind: Literal["json", "regex", "choice", "grammar"], value: Any, param: str, compact: bool = False
    ) -> None:
        self.kind, self.value, self.param, self.compact = kind, value, param, compact

    def __call__(self, model: ServedModel, thought: Thought) -> Constraint:
        """The constraint of an answer of `model`; `thought` may come before what it must fit."""
        lark = LarkSpeller(model.tokenizer)
        constraint = self._compile(model, lark, "" if self.leaves_text_free else lark.write_before(thought), thought)
        constraint.begins_with_thought = thought == "open"
        return constraint

    def _compile(self, model: ServedModel, lark: LarkSpeller, before: str, thought: Thought) -> GrammarConstraint:
        """The constraint behind `before`, see `GrammarCompiler`; a format that leaves text free writes it itself."""
        compiler = model.grammar_compiler
        if self.kind == "regex":
            return compiler.compile_regex(self.value, self.param, before)
        if self.kind == "choice":
            return compiler.compile_choice(self.value, self.param, before)
        if self.kind == "grammar":
            return compiler.compile_grammar(self.value, self.param, before)
        return compiler.compile_schema(self.value, self.param, self.compact, before)


class JsonSchemaFormat(OutputFormat):
    """The output format of a JSON schema; arguments as there."""

    def __init__(self, schema: Mapping[str, Any], param: str, compact: bool) -> None:
        super().__init__("json", schema, param, compact)


class CallFormat(OutputFormat):
    """Calls that a request demands, at least one, in the form of the model's template.

    Args:
        tools: The tools that may be called.
        max_calls: How many calls there may be.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], max_calls: int) -> None:
        super().__init__("json", None, "tools")
        self._tools, self._max_calls = tools, max_calls

    def _compile(self, model: ServedModel, lark: LarkSpeller, before: str, thought: Thought) -> GrammarConstraint:
        if model.has_own_grammars:  # one call, bare, is all that such an engine can be held to
            return model.grammar_compiler.compile_schema(build_call_schema(self._tools), self.param, True)
        grammar = CallGrammar(self._tools, model.call_form, lark).write_calls(self._max_calls)
        return model.grammar_compiler.compile_lark(grammar, self.param, before)


class CallOrTextFormat(OutputFormat):
    """Calls of tools, in the form of the model's template, or a text that fits a schema.

    Args:
        tools: The tools that may be called.
        max_calls: How many calls there may be.
        text_format: What a text must fit.
    """

    def __init__(self, tools: Sequence[Mapping[str, Any]], max_calls: int, text_format: JsonSchemaFormat) -> None:
        super().__init__("json", text_format.value, text_format.param)
        self._tools, self._max_calls = tools, max_calls

    def _compile(self, model: ServedModel, lark: LarkSpeller, before: str, thought: Thought) -> GrammarConstraint:
        compiler, form = model.grammar_compiler, model.call_form
        if model.has_own_grammars:
            return compiler.compile_schema(build_call_schema(self._tools, self.value), self.param)
        if not form.begin:  # a call and a text begin alike: one schema tells them apart
            schema = build_call_schema(self._tools, self.value, form.key)
            return compiler.compile_schema(schema, self.param, before=before)
        grammar = CallGrammar(self._tools, form, lark).write_calls(self._max_calls, self.value, self.param)
        return compiler.compile_lark(grammar, self.param, before)


class StrictCallFormat(OutputFormat):
    """Any text; a call that the model begins in it is one of an offered tool, and fits its schema if it is strict.

    Args:
        tools: The tools that may be called.
        strict_names: Names of those whose arguments are held to their schemas.
        max_calls: After so many calls the answer ends; None: any number.
    """

    leaves_text_free = True

    def __init__(
        self, tools: Sequence[Mapping[str, Any]], strict_names: Collection[str], max_calls: int | None
    ) -> None:
        super().__init__("grammar", None, "tools")
        self._tools, self._strict_names, self._max_calls = tools, strict_names, max_calls

    def _compile(self, model: ServedModel, lark: LarkSpeller, before: str, thought: Thought) -> GrammarConstraint:
        calls = CallGrammar(self._tools, model.call_form, lark, self._strict_names)
        grammar = calls.write_text_with_calls(self._max_calls, thought == "open")
        return model.grammar_compiler.compile_lark(grammar, self.param)


def choose_output_format(formats: Sequence[OutputFormat]) -> OutputFormat | None:
    """The only one of some formats, if there is any.

    Raises:
        ApiError: 400 if there are several.
    """
    if len(formats) > 1:
        first, second = formats[0].param, formats[1].param
        what = tr("{first} and {second} both say what the answer must fit", first=first, second=second)
        raise ApiError(400, what, param=second)
    return formats[0] if formats else None


def choose_answer_format(
    formats: Sequence[OutputFormat],
    text_format: JsonSchemaFormat | None,
    tools: Sequence[Mapping[str, Any]],
    required_tools: Sequence[Mapping[str, Any]] = (),
    strict_names: Collection[str] = (),
    max_calls: int | None = None,
) -> OutputFormat | None:
    """What an answer must fit, of all that a request says about it; None if the model is free.

    Args:
        formats: Formats in other servers' fields.
        text_format: The API's own format of a text; it is for answers without a call.
        tools: The tools that the model is offered.
        required_tools: Those one of which must be called; empty if the model may choose.
        strict_names: Names of tools whose calls are held to their schemas, although the model may choose.
        max_calls: How many calls there may be; None: any number.

    Raises:
        ApiError: 400 if there are several formats.
    """
    chosen: list[OutputFormat] = []
    forced_calls = MAX_FORCED_CALLS if max_calls is None else max_calls
    if required_tools:
        chosen.append(CallFormat(required_tools, forced_calls))
    elif text_format is not None:
        chosen.append(CallOrTextFormat(tools, forced_calls, text_format) if tools else text_format)
    elif not formats and get_tool_names(tools) & frozenset(strict_names):
        chosen.append(StrictCallFormat(tools, strict_names, max_calls))
    return choose_output_format([*chosen, *formats])
