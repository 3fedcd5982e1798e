"""What a chat template writes for turns, as text: special tokens that were typed are shielded, answers are marked.

How the text becomes token ids and examples to learn from is in `template`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from hanlin.chat.reasoning import BEGIN_TAG, END_TAG, REASONING_FIELDS, THINKING_SWITCHES, ReasoningForm, find_form
from hanlin.chat.rendering.answer_spans import MarkedText
from hanlin.chat.rendering.jinja import DEFAULT_MARKERS, JinjaTemplate, Markers
from hanlin.chat.rendering.refusal import TemplateRefusal, ToolsRefusal
from hanlin.chat.rendering.special_tokens import Span, SpecialTokens
from hanlin.chat.rendering.template_cache import TemplateCache
from hanlin.chat.template_data import iter_texts, to_inline_reasoning, to_template_messages, to_template_tools
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message, ToolCall
from hanlin.tokenizer.tokenizer import SPECIAL_TOKEN_NAMES, Tokenizer


class TemplateRenderer:
    """A compiled chat template over the special tokens of a tokenizer, and what it can render.

    Args:
        source: The Jinja source.
        tokenizer: Names the special tokens.
        origin: Its file or name, for messages.
        strips_inline: Whether reasoning that is written into texts (`ReasoningForm.inline`) is left out of the answers
            before the last question.
        spans: Renders a conversation for training and splits it; raises UserError if it cannot be trained on.

    Raises:
        UserError: The source is not Jinja, or renders no turns.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        origin: str | Path,
        strips_inline: bool,
        spans: Callable[[Sequence[Message]], list[Span]],
    ) -> None:
        self.origin, self.strips_inline = origin, strips_inline
        self._tokenizer = tokenizer
        try:
            self.template = JinjaTemplate(source)
        except jinja2.TemplateSyntaxError as error:
            hint = tr("it must be Jinja as transformers reads it")
            raise UserError(
                tr("the chat template is not Jinja: {reason}", reason=error.message), f"{origin}:{error.lineno}", hint
            ) from error
        if "messages" not in self.template.variables:
            what = tr("this is no chat template: it never reads `messages`")
            raise UserError(what, origin, tr("it must be Jinja as transformers reads it"))
        self.cache = TemplateCache(self.template, self.special_tokens, tokenizer, self._variables, spans)

    @cached_property
    def special_tokens(self) -> SpecialTokens:
        """Finds special tokens in texts, those of a thinking block among them if they are tokens."""
        tags = f"\0{BEGIN_TAG}\0{END_TAG}" if self.reasoning_form.inline else ""
        return SpecialTokens(self._tokenizer, self.template.literal_text + tags)

    @cached_property
    def reasoning_form(self) -> ReasoningForm:
        """What the template does with the reasoning of answers."""

        def render(turns: Sequence[Mapping[str, Any]], prompt: bool) -> str:
            switches = dict.fromkeys(self.thinking_switches, True)
            text = self.template.render(DEFAULT_MARKERS, {**self._variables(turns, None, prompt), **switches})
            return text.replace(DEFAULT_MARKERS.start, "").replace(DEFAULT_MARKERS.end, "")

        form = find_form(self.template.source, render)
        return form._replace(keeps_past=False) if self.strips_inline else form

    @cached_property
    def thinking_switches(self) -> tuple[str, ...]:
        """The variables by which the template turns thinking on and off; most have none."""
        return tuple(name for name in THINKING_SWITCHES if name in self.template.variables)

    def render_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
        markers: Markers | None = None,
        shield: bool = True,
        thinking: bool | None = None,
    ) -> MarkedText:
        """The template's text for these turns, typed special tokens shielded and generated stretches marked.

        The head of a next answer that a template writes unasked is left out (`unasked_head`), unless `shield` is false:
        then it is the text as other programs render it.

        Args:
            messages: The turns.
            tools: Tools that the assistant may call.
            prompt: End where the assistant's next answer begins.
            where: Name of the record, for messages.
            markers: The markers to use; None chooses characters that occur in no text.
            shield: Whether typed special tokens are broken.
            thinking: Whether the answer thinks, if the template has a switch for it; None leaves that to it.

        Raises:
            TemplateRefusal: The template refuses the turns.
        """
        marked = self._render(messages, tools, prompt, where, markers, shield, thinking)
        if prompt or not shield or not self.unasked_head:
            return marked
        return marked._replace(text=marked.text.removesuffix(self.unasked_head))

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
        markers: Markers | None,
        shield: bool,
        thinking: bool | None,
    ) -> MarkedText:
        switched = bool(self.thinking_switches) and thinking is not None
        if shield and not tools and not switched and markers in (None, DEFAULT_MARKERS):
            cached = self.cache.render_text(messages, prompt)
            if cached is not None:
                return MarkedText(cached, DEFAULT_MARKERS)
        form = self.reasoning_form
        field = form.field or REASONING_FIELDS[0]
        turns: Any = to_template_messages(messages, field)
        tool_data: Any = to_template_tools(tools)
        markers = markers or self.choose_markers(messages, tools)
        if shield:
            turns = self.special_tokens.shield(turns, markers)
            tool_data = self.special_tokens.shield(tool_data, markers)
        if form.inline and any(message.reasoning for message in messages):
            turns = to_inline_reasoning(turns, not self.strips_inline, field)
        variables = self._variables(turns, tool_data, prompt)
        if switched:
            variables |= dict.fromkeys(self.thinking_switches, thinking)
        try:
            return MarkedText(self.template.render(markers, variables), markers)
        except jinja2.TemplateError as error:
            what = tr(
                "the chat template {origin} refuses these turns: {reason}", origin=self.origin, reason=error.message
            )
            hint = tr("change the turns as it says, or choose another template")
            raise TemplateRefusal("template_refuses", what, where, hint) from error

    @cached_property
    def unasked_head(self) -> str:
        """The head of a next answer that a template writes behind every conversation, asked for a prompt or not.

            asked for no prompt    <user>?<end><assistant>!<end><assistant>
            returned               <assistant>

        Learned with the answer before it, a model would write it and not stop. Most templates write none.
        """
        question, answer = {"role": "user", "content": "questionprobe"}, {"role": "assistant", "content": "answerprobe"}

        def render(turns: list[dict[str, str]], prompt: bool = False) -> str:
            return self.template.render(DEFAULT_MARKERS, self._variables(turns, None, prompt))

        try:
            asked, full = render([question]), render([question, answer])
            if asked != render([question], True):
                return ""
            longer = render([question, answer, question])
        except jinja2.TemplateError:
            return ""
        if longer.startswith(full) or answer["content"] not in full:
            return ""
        shared = _count_shared(full, longer)
        tail = max(
            len(full) - _count_shared(full[::-1], asked[::-1]),
            full.rindex(answer["content"]) + len(answer["content"]),
        )
        ends = [end for end in self.special_token_ends(full, full.rindex(answer["content"])) if end <= shared]
        if not ends:
            return ""
        head = full[max((end for end in ends if end <= tail), default=ends[0]) :]
        return head if asked.endswith(head) else ""

    def choose_markers(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> Markers:
        """Characters that occur in no text of a conversation."""
        data = (to_template_messages(messages), to_template_tools(tools))
        return Markers.choose_unused([self.template.source, *iter_texts(data)])

    def special_token_ends(self, text: str, start: int) -> Iterator[int]:
        """The ends of the special tokens from `start` on, without those that a thinking block is made of."""
        for found in self.special_tokens.pattern.finditer(text, start):
            if found[0] not in (BEGIN_TAG, END_TAG):
                yield found.end()

    def check_support(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        learned: Sequence[int],
        where: str | None,
    ) -> None:
        """Refuse what the template would silently leave out.

        Args:
            messages: The turns.
            tools: Tools that the assistant may call.
            learned: The indices of the answers that carry loss; of these the reasoning must be rendered, too.
            where: Name of the record, for messages.

        Raises:
            TemplateRefusal: It would leave out tools, calls, the text beside calls, or reasoning to learn.
        """
        calls = any(message.tool_calls or message.role == "tool" for message in messages)
        if (tools and "tools" not in self._words) or (calls and "tool_calls" not in self._words):
            raise self.lacks_tools(where)
        if any(message.tool_calls and message.text.strip() for message in messages) and self.loses_text_beside_calls:
            raise TemplateRefusal(
                "template_loses_text",
                tr("the chat template {origin} leaves out the text beside a tool call", origin=self.origin),
                where,
                tr("choose one that writes it: llama3.1, llama3.2, hermes or qwen3"),
            )
        if any(messages[index].reasoning.strip() for index in learned) and not self.reasoning_form.is_known:
            raise self.lacks_reasoning(where)

    def lacks_tools(self, where: str | None) -> ToolsRefusal:
        """The error for tools, calls or results that the template does not write."""
        return ToolsRefusal(
            "template_lacks_tools",
            tr("the chat template {origin} has no form for tools and their calls", origin=self.origin),
            where,
            tr("choose one that has: llama3.1, llama3.2, hermes or qwen3"),
        )

    def lacks_reasoning(self, where: str | None) -> TemplateRefusal:
        """The error for reasoning that the template does not write."""
        return TemplateRefusal(
            "template_lacks_reasoning",
            tr("the chat template {origin} has no form for reasoning", origin=self.origin),
            where,
            tr("choose a packaged one (deepseek_r1 and qwen3 among them), or leave the reasoning out"),
        )

    def rewrites_turns(self, index: int, where: str | None) -> TemplateRefusal:
        """The error for an answer whose prompt is no prefix of the text that it would be learned from."""
        return TemplateRefusal(
            "template_rewrites_turns",
            tr(
                "the chat template {origin} renders the turns before message {index} differently in a prompt",
                origin=self.origin,
                index=index + 1,
            ),
            where,
            tr("it rewrites earlier turns; train such conversations up to one answer each, or choose another template"),
        )

    def _variables(self, turns: Any, tool_data: Any, prompt: bool) -> dict[str, Any]:
        config = self._tokenizer.config
        named = {name: config[name] for name in SPECIAL_TOKEN_NAMES if config.get(name)}
        return {**named, "messages": turns, "tools": tool_data, "documents": None, "add_generation_prompt": prompt}

    @cached_property
    def _words(self) -> frozenset[str]:
        """The words of the template, without its comments."""
        return frozenset(re.findall(r"\w+", _without_comments(self.template.source)))

    @cached_property
    def loses_text_beside_calls(self) -> bool:
        """Whether it leaves out the text of a turn that calls tools."""
        call = Message("assistant", "besidecalls", (ToolCall("f", {}),))
        turns = [Message("user", "?"), call, Message("tool", "1", name="f"), Message("assistant", "!")]
        try:
            return "besidecalls" not in self.render_text(turns, (), False, None).text
        except UserError:
            return False  # told when a conversation is refused


def _count_shared(left: str, right: str) -> int:
    """How many characters two texts have in common at their start."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (one, other) in pairs if one != other), min(len(left), len(right)))


def _without_comments(source: str) -> str:
    """A template without its comments; a pattern would look for each one's end through all that follows."""
    pieces, position = [], 0
    while (start := source.find("{#", position)) >= 0 and (end := source.find("#}", start + 2)) >= 0:
        pieces.append(source[position:start])
        position = end + 2
    return "".join([*pieces, source[position:]])
