"""The turns of a request, put into the nearest form that a chat template has.

Training data is checked (`turn_order`); what clients send is not: agents and chat pages send several system texts,
begin with a greeting, cut histories anywhere, and end with the beginning of an answer. `RULES` says what becomes of
each of these shapes, whatever the API. Which forms a template has is found by rendering small conversations, never
guessed from its name. What is left without a form is refused; no text is dropped unsaid.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from hanlin.chat.reasoning import BEGIN_TAG, find_begun_thought
from hanlin.chat.rendering.answer_spans import MarkedText
from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.renderer import TemplateRenderer
from hanlin.chat.template_data import iter_texts
from hanlin.chat.turn_order import check_texts, order_tool_results
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message, Role, ToolCall

Turns = list[Message]

_SEPARATOR = "\n\n"
"""Between the texts of turns that are joined."""
_PREFILL_CHAR = "\uf8f0"
"""Stands for the beginning of an answer while a template is rendered; looked for from the end."""
_PROBE_TOOL = {
    "type": "function",
    "function": {"name": "toolprobe", "parameters": {"type": "object", "properties": {}}},
}


class RequestRefusal(TemplateRefusal):
    """Turns of a request that cannot be rendered; `index` is that of the message, None if it is not one alone."""

    def __init__(self, what: str, index: int | None, hint: str | None = None) -> None:
        super().__init__("template_refuses", what, None, hint)
        self.index = index

    def __reduce__(self) -> Any:
        return type(self), (self.what, self.index, self.hint)


class RequestText(NamedTuple):
    """The rendered prompt of a request.

    Attributes:
        marked: The text; the beginning of an answer is marked as generated.
        continues_answer: Whether it ends with the beginning of an answer, which generation goes on with.
    """

    marked: MarkedText
    continues_answer: bool


class TemplateForms:
    """Which shapes of conversations a template has a form of its own for.

    Args:
        renderer: Renders the template.
        tools: Whether tools are offered; a form must then tell them, too.
    """

    def __init__(self, renderer: TemplateRenderer, tools: bool) -> None:
        self._renderer = renderer
        self._tools: tuple[dict[str, Any], ...] = (_PROBE_TOOL,) if tools else ()

    @cached_property
    def system(self) -> bool:
        """A system text before the first turn of the user."""
        return self._writes_in_order(_turns("system", "user"))

    @cached_property
    def late_system(self) -> bool:
        """A system text after other turns, which is written neither as the user's nor as the assistant's."""
        roles: tuple[Role, ...] = ("system", "user", "assistant", "system", "user")
        other_roles: tuple[Role, ...] = ("user", "assistant")
        written = self._render(_turns(*roles), False)
        others = [self._render(_turns(*roles[:3], role, "user"), False) for role in other_roles]
        return self.system and self._writes_in_order(_turns(*roles)) and written not in others

    @cached_property
    def system_only(self) -> bool:
        """A prompt of nothing but a system text."""
        return self._writes_in_order(_turns("system"))

    @cached_property
    def consecutive_users(self) -> bool:
        """Two turns of the user in a row. A template whose user turn itself opens the answer has no form for them."""
        single = _turns("user")
        opens_answer = self._render(single, True) == self._render(single, False)
        return not opens_answer and self._writes_in_order(_turns("user", "user"))

    @cached_property
    def greeting(self) -> bool:
        """A first turn of the assistant, with and without a system text before it."""
        return all(
            self._writes_in_order(turns)
            for turns in (_turns("assistant", "user"), _turns("system", "assistant", "user")[0 if self.system else 1 :])
        )

    @cached_property
    def without_user(self) -> bool:
        """A conversation in which the user says nothing; some templates tell the tools in the first question."""
        return self._writes_in_order(_turns("assistant"))

    @cached_property
    def several_calls(self) -> bool:
        """Several calls in one turn of the assistant, all of whose results follow."""
        calls = tuple(ToolCall(name, {}, f"call_{name}") for name in ("callone", "calltwo"))
        results = [Message("tool", f"result{call.name}", name=call.name, tool_call_id=call.id) for call in calls]
        text = self._render([*_turns("user"), Message("assistant", "", calls), *results], True)
        return text is not None and _in_order(["callone", "calltwo", "resultcallone", "resultcalltwo"], text)

    @property
    def text_beside_calls(self) -> bool:
        """A text and calls in one turn."""
        return not self._renderer.loses_text_beside_calls

    def _writes_in_order(self, turns: Turns) -> bool:
        text = self._render(turns, True)
        tools = [tool["function"]["name"] for tool in self._tools]
        return (
            text is not None and _in_order([turn.text for turn in turns], text) and all(name in text for name in tools)
        )

    def _render(self, turns: Turns, prompt: bool) -> str | None:
        """The template's text without markers, None if it refuses the turns."""
        try:
            text, markers = self._renderer.render_text(turns, self._tools, prompt, None)
        except UserError:
            return None
        return text.replace(markers.start, "").replace(markers.end, "")


def _turns(*roles: Role) -> Turns:
    return [Message(role, f"probe{'abcdefgh'[index]}text") for index, role in enumerate(roles)]


def _in_order(words: Sequence[str], text: str) -> bool:
    start = 0
    for word in words:
        start = text.find(word, start) + len(word)
        if start < len(word):
            return False
    return True


class Rule(NamedTuple):
    """What becomes of a shape that a template has no form for.

    Attributes:
        form: The attribute of `TemplateForms` that must be true for the turns to stay as they are; empty: they never
            do, for no model has learned from such turns.
        apply: Puts the turns into a form that the template has; turns without the shape come back as they are.
    """

    form: str
    apply: Callable[[Turns], Turns]


def _move_late_systems(turns: Turns) -> Turns:
    """A late system text goes to the beginning; one that ends the conversation becomes a turn of the user."""
    if len(turns) > 1 and turns[-1].role == "system" and any(turn.role != "system" for turn in turns):
        turns = [*turns[:-1], replace(turns[-1], role="user")]
    return [turn for turn in turns if turn.role == "system"] + [turn for turn in turns if turn.role != "system"]


def _join_systems(turns: Turns) -> Turns:
    """System texts in a row become one."""
    return _join_runs(turns, "system")


def _open_user_turn(turns: Turns) -> Turns:
    """The system text at the beginning opens the first turn of the user, or is one."""
    if not turns or turns[0].role != "system":
        return turns
    if len(turns) > 1 and turns[1].role == "user":
        return [replace(turns[1], text=turns[0].text + _SEPARATOR + turns[1].text), *turns[2:]]
    return [replace(turns[0], role="user"), *turns[1:]]


def _ask_system_only(turns: Turns) -> Turns:
    """A system text alone becomes a turn of the user."""
    return [replace(turns[0], role="user")] if [turn.role for turn in turns] == ["system"] else turns


def _join_answers(turns: Turns) -> Turns:
    """Turns of the assistant in a row become one, with all their texts and calls."""
    return _join_runs(turns, "assistant")


def _join_users(turns: Turns) -> Turns:
    """Turns of the user in a row become one."""
    return _join_runs(turns, "user")


def _ask_before_greeting(turns: Turns) -> Turns:
    """An empty turn of the user comes before a first turn of the assistant."""
    start = 1 if turns and turns[0].role == "system" else 0
    is_greeting = len(turns) > start and turns[start].role == "assistant"
    return [*turns[:start], Message("user", ""), *turns[start:]] if is_greeting else turns


def _ask_first(turns: Turns) -> Turns:
    """A conversation without a turn of the user gets an empty one, behind the system text."""
    if any(turn.role == "user" for turn in turns):
        return turns
    start = 1 if turns and turns[0].role == "system" else 0
    return [*turns[:start], Message("user", ""), *turns[start:]]


def _split_calls(turns: Turns) -> Turns:
    """Several calls become turns of one call, each followed by its result: that with its id, else the next one without
    the id of another call. A call whose result is not there, as in a history that was cut, has none.
    """
    split: Turns = []
    index = 0
    while index < len(turns):
        turn = turns[index]
        index += 1
        if len(turn.tool_calls) < 2:
            split.append(turn)
            continue
        end = index
        while end < len(turns) and turns[end].role == "tool":
            end += 1
        ids = {call.id for call in turn.tool_calls if call.id}
        unnamed = [result for result in turns[index:end] if result.tool_call_id not in ids]
        for place, call in enumerate(turn.tool_calls):
            split.append(replace(turn if place == 0 else Message("assistant", ""), tool_calls=(call,)))
            own = [result for result in turns[index:end] if call.id and result.tool_call_id == call.id]
            split += own or unnamed[:1]
            unnamed = unnamed if own else unnamed[1:]
        split += unnamed
        index = end
    return split


def _split_text_from_calls(turns: Turns) -> Turns:
    """A text beside calls becomes an answer of its own before them."""
    split: Turns = []
    for turn in turns:
        if turn.tool_calls and turn.text.strip():
            split += [replace(turn, tool_calls=()), Message("assistant", "", turn.tool_calls)]
        else:
            split.append(turn)
    return split


RULES: tuple[Rule, ...] = (
    Rule("late_system", _move_late_systems),
    Rule("", _join_systems),
    Rule("system", _open_user_turn),
    Rule("system_only", _ask_system_only),
    Rule("", _join_answers),
    Rule("consecutive_users", _join_users),
    Rule("greeting", _ask_before_greeting),
    Rule("without_user", _ask_first),
    Rule("several_calls", _split_calls),
    Rule("text_beside_calls", _split_text_from_calls),
)
"""Applied in this order. A rule that changes nothing costs no probe of the template."""


def _join_runs(turns: Turns, role: str) -> Turns:
    joined: Turns = []
    for is_role, run in groupby(turns, lambda turn: turn.role == role):
        group = list(run)
        joined += [_join(group)] if is_role and len(group) > 1 else group
    return joined


def _join(turns: Turns) -> Message:
    return replace(
        turns[-1],
        text=_SEPARATOR.join(turn.text for turn in turns if turn.text.strip()),
        reasoning=_SEPARATOR.join(turn.reasoning for turn in turns if turn.reasoning.strip()),
        tool_calls=tuple(call for turn in turns for call in turn.tool_calls),
    )


class RequestRenderer:
    """Renders the turns of requests with one template.

    Args:
        renderer: Renders the template.
    """

    def __init__(self, renderer: TemplateRenderer) -> None:
        self._renderer = renderer
        self._forms = {tools: TemplateForms(renderer, tools) for tools in (False, True)}

    def arrange(self, messages: Sequence[Message], tools: bool = False) -> Turns:
        """The turns in a form that the template has.

        Args:
            messages: The turns as a client sent them, in any order.
            tools: Whether tools are offered.
        """
        forms = self._forms[tools]
        turns = list(order_tool_results(messages))
        for rule in RULES:
            changed = rule.apply(turns)
            if changed != turns and not (rule.form and getattr(forms, rule.form)):
                turns = changed
        return turns

    def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), thinking: bool | None = None
    ) -> RequestText:
        """The prompt of a request.

        Args:
            messages: The turns as a client sent them. The last one may be the beginning of an answer.
            tools: Tools that the assistant may call.
            thinking: Whether the answer thinks, if the template has a switch for it.

        Raises:
            TemplateRefusal: The template has no form for the turns, or would leave out a text.
            UserError: A turn is no text.
        """
        check_texts(messages)
        if not messages:
            raise RequestRefusal(tr("there are no turns"), None)
        turns = self.arrange(messages, bool(tools))
        if turns[-1].tool_calls:
            what = tr("the conversation ends with a call of a tool")
            raise RequestRefusal(what, len(messages) - 1, tr("give the result of the call as a `tool` turn"))
        self._renderer.check_support(turns, tools, (), None)
        continues = turns[-1].role == "assistant"
        if continues:
            marked = self._render_prefill(turns, tools, thinking)
        else:
            marked = self._renderer.render_text(turns, tools, True, None, thinking=thinking)
        self._check_nothing_lost(messages, tools, marked, continues)
        return RequestText(marked, continues)

    def _render_prefill(self, turns: Turns, tools: Sequence[Mapping[str, Any]], thinking: bool | None) -> MarkedText:
        """The prompt up to the end of the last turn's text, as it is written, white space at its end included.

        An answer that ends within its thinking block goes on within that of the template, if it has a form for one.
        """
        begun_text = turns[-1].text
        last = replace(turns[-1], text=_PREFILL_CHAR)
        markers = self._renderer.choose_markers([*turns, last], tools)

        def render(turn: Message) -> tuple[str, str]:
            rendered = self._renderer.render_text([*turns[:-1], turn], tools, False, None, markers, thinking=thinking)
            before, found, _ = rendered.text.rpartition(_PREFILL_CHAR)
            return before, found

        before, found = render(last)
        if (thought := find_begun_thought(turns[-1])) is not None and self._renderer.reasoning_form.is_known:
            within, is_written = render(replace(last, text="!", reasoning=_PREFILL_CHAR))
            if is_written and within.replace(markers.start, "").rstrip().endswith(BEGIN_TAG):
                before, found, begun_text = within, is_written, thought
        if not found:
            what = tr("the chat template {origin} cannot go on with an answer", origin=self._renderer.origin)
            raise RequestRefusal(what, None, tr("end with the user's question or a tool's result"))
        prompt, start, begun = before.rpartition(markers.start)
        if not start or markers.end in begun:  # the template does not mark what is generated
            prompt, begun = before, ""
        prompt = prompt.replace(markers.start, "").replace(markers.end, "")
        answer = self._renderer.special_tokens.shield(begun_text, markers)
        return MarkedText(prompt + markers.start + begun + answer + markers.end, markers)

    def _check_nothing_lost(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        marked: MarkedText,
        continues: bool,
    ) -> None:
        """Raise RequestRefusal if a text of the request is not in the prompt."""
        text = _without_markers(marked)
        for index, message in enumerate(messages):
            if any(not _occurs(part, text) for part in _iter_parts(message)):
                what = tr("the chat template {origin} leaves out a text of this message", origin=self._renderer.origin)
                raise RequestRefusal(what, index, tr("change the turns, or choose another template"))
        if continues and not _occurs(messages[-1].reasoning, text):
            raise self._renderer.lacks_reasoning(None)
        for tool in tools:
            function = tool.get("function", tool)
            if not _occurs(str(function.get("name") or ""), text):
                raise self._renderer.lacks_tools(None)


def _without_markers(marked: MarkedText) -> str:
    text = marked.text
    for marker in marked.markers:
        text = text.replace(marker, "")
    return text


def _iter_parts(message: Message) -> Iterator[str]:
    """The texts of a turn that a prompt must hold. Reasoning of earlier answers is left out by most templates."""
    yield message.text
    for call in message.tool_calls:
        yield call.name
        yield from iter_texts(call.arguments)


def _occurs(part: str, text: str) -> bool:
    """Whether a text is in the prompt: as it is, as JSON writes it, or with other white space."""
    part = part.strip()
    if not part or part in text:
        return True
    escaped = json.dumps(part, ensure_ascii=False)[1:-1]
    if escaped in text or json.dumps(part)[1:-1] in text:
        return True
    return "".join(part.split()) in "".join(text.split())
