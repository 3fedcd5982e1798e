"""The chat template: renders a conversation to token ids and their loss mask, and knows the ids that end an answer.

Training, evaluation, the server and the HTML pages all render with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from hanlin.chat.packaged import (
    keep_setting,
    packaged_names,
    packaged_special_tokens,
    packaged_template_sources,
    read_folder_template,
    read_template_source,
    without_keep_setting,
)
from hanlin.chat.reasoning import BEGIN_TAG, ReasoningForm
from hanlin.chat.rendering.answer_spans import MarkedText, end_marks_at_stop
from hanlin.chat.rendering.batches import RenderedConversation, encode_batches
from hanlin.chat.rendering.jinja import Markers, make_portable
from hanlin.chat.rendering.loss_rules import (
    DEFAULT_LOSS_RULES,
    LossRules,
    learned_answers,
    learns_all_answers,
    mask_answers,
)
from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.renderer import TemplateRenderer
from hanlin.chat.rendering.request_turns import RequestRenderer
from hanlin.chat.rendering.special_tokens import Span
from hanlin.chat.rendering.tokenized import TokenizedExample, join_spans
from hanlin.chat.rendering.training_texts import assistant_indices, training_texts
from hanlin.chat.turn_order import check_order, order_tool_results
from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_sorted_json, write_text
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Conversation, Message, ToolCall
from hanlin.tokenizer.file_names import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import SPECIAL_TOKEN_NAMES, Tokenizer


class ChatTemplate:
    """A Jinja chat template bound to a tokenizer.

    Special tokens in the messages are shielded: before rendering, each is broken by a marker character that occurs
    nowhere else. The special tokens that remain in the rendered text were written by the template and become their ids;
    the text between them is encoded as plain text, each assistant turn separately. So nobody can inject a special
    token, and the ids before an answer in training equal those of the prompt at inference.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        origin: str | Path,
        extra_stop_ids: Sequence[int] = (),
        strips_inline: bool = False,
    ) -> None:
        """Compile a Jinja template.

        Args:
            source: The Jinja source.
            tokenizer: The tokenizer of the model.
            origin: Its file or name, for messages.
            extra_stop_ids: Further ids that end an answer.
            strips_inline: Whether reasoning that can only be part of the text is left out of earlier answers.

        Raises:
            UserError: It is not Jinja.
        """
        self.tokenizer = tokenizer
        self.origin = origin
        self._extra_stop_ids = tuple(extra_stop_ids)
        self._is_packaged = without_keep_setting(source) in packaged_template_sources()
        self._strips_inline = strips_inline
        self._renderer = self._compile(source)
        if tokenizer.adds_bos and not self._writes_bos():
            self._renderer = self._compile("{{- bos_token -}}\n" + source)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer | None = None) -> ChatTemplate:
        """Load the chat template and the stop ids of a model folder.

        The template is in a file of its own, in `tokenizer_config.json`, or in `folder`, a GGUF file. `tokenizer` is
        that of the folder, if it is loaded already. Raises UserError if there is no template, or it is not Jinja.
        """
        folder = Path(folder)
        tokenizer = tokenizer or Tokenizer.load(folder)
        source, origin = read_folder_template(folder)
        return cls(source, tokenizer, origin, read_eos_token_ids(folder))

    @classmethod
    def from_packaged(cls, name: str, tokenizer: Tokenizer) -> ChatTemplate:
        """Load a template that is packaged with Hanlin, or a Jinja file of your own, in its portable form.

        Raises UserError if there is none of this name, or the tokenizer lacks a special token that it writes.
        """
        source = read_template_source(name)
        needed = list(packaged_special_tokens(name))
        needed += [kind for kind in ("bos_token", "eos_token") if kind in source and f"{kind} is defined" not in source]
        configured = {kind: tokenizer.config.get(kind) for kind in SPECIAL_TOKEN_NAMES}
        missing = [token for token in needed if tokenizer.token_id(configured.get(token, token) or "") is None]
        if missing:
            raise UserError(
                tr(
                    "the tokenizer has no {missing}, which the chat template {name!r} writes",
                    missing=join_list(missing),
                    name=name,
                ),
                tokenizer.folder,
                tr("choose the template of the model's own family"),
            )
        return cls(source if name in packaged_names() else make_portable(source), tokenizer, name)

    @property
    def reasoning_form(self) -> ReasoningForm:
        """What the template does with the reasoning of answers."""
        return self._renderer.reasoning_form

    @property
    def thinking_switches(self) -> tuple[str, ...]:
        """The variables by which the template turns thinking on and off; most have none."""
        return self._renderer.thinking_switches

    @cached_property
    def opens_thinking(self) -> bool:
        """Whether every prompt ends within a thinking block that it opens, so that an answer starts with a thought."""
        try:
            text = self._renderer.render_text([Message("user", "?")], (), True, None).text
        except UserError:
            return False
        return text.rstrip().endswith(BEGIN_TAG)

    @property
    def source(self) -> str:
        return self._renderer.template.source

    def to_portable(self) -> ChatTemplate:
        """The template to train with and to export, which other programs render alike; see `make_portable`."""
        source = make_portable(self.source)
        return (
            self if source == self.source else ChatTemplate(source, self.tokenizer, self.origin, self._extra_stop_ids)
        )

    def with_past_reasoning(self, past_reasoning: str) -> ChatTemplate:
        """This template with the reasoning of earlier answers kept or left out, for every program that reads it.

        Args:
            past_reasoning: `keep`, `strip`, or `template` for what it does by itself.

        Raises:
            UserError: The template cannot be set so.
        """
        form = self.reasoning_form
        if past_reasoning == "template" or not form.is_known or form.keeps_past == (past_reasoning == "keep"):
            return self
        if form.inline:  # it writes whatever text it gets
            return ChatTemplate(self.source, self.tokenizer, self.origin, self._extra_stop_ids, True)
        source = keep_setting(past_reasoning == "keep") + without_keep_setting(self.source)
        changed = ChatTemplate(source, self.tokenizer, self.origin, self._extra_stop_ids)
        if changed.reasoning_form.keeps_past != (past_reasoning == "keep"):
            raise UserError(
                tr("the chat template {origin} cannot be told what to do with earlier reasoning", origin=self.origin),
                "past_reasoning",
                tr("leave past_reasoning out, or choose a packaged template"),
            )
        return changed

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        prompt: bool = False,
        where: str | None = None,
        thinking: bool | None = None,
    ) -> TokenizedExample:
        """Token ids of a conversation and their loss mask: the assistant's turns carry loss, their end tokens included.

        Args:
            messages: The turns.
            tools: Tools that the assistant may call.
            prompt: End where the assistant's next answer begins; then nothing carries loss.
            where: Name of the record, for messages.
            thinking: In a prompt, whether the next answer thinks, if the template has a switch for it; None leaves
                that to the template.

        Raises:
            TemplateRefusal: If the template has no form for the turns, or needs several examples for them.
            UserError: If the turns are out of order, or an answer would not learn to stop.
        """
        if prompt:
            check_order(messages, True, where)
            messages = order_tool_results(messages)
            self._renderer.check_support(messages, tools, (), where)
            return self._encode_prompt(self._renderer.render_text(messages, tools, True, where, thinking=thinking))
        check_order(messages, False, where)
        cached = self._cached_ids(messages, tools)
        if cached is not None and learns_all_answers(messages, DEFAULT_LOSS_RULES):
            return TokenizedExample(*cached)
        examples = self._training_examples(messages, tools, where, DEFAULT_LOSS_RULES, cached)
        if len(examples) != 1:
            raise self._renderer.rewrites_turns(assistant_indices(messages)[-1], where)
        return examples[0]

    def render_request(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), thinking: bool | None = None
    ) -> tuple[list[int], bool]:
        """Prompt ids of turns in whatever order a client sent them, see `request_turns`.

        Returns:
            The ids, and whether they end with the beginning of an answer, which generation goes on with.

        Raises:
            UserError: The template has no form for the turns.
        """
        marked, continues_answer = self._request_renderer.render(messages, tools, thinking)
        prompt = self._encode(marked, False) if continues_answer else self._encode_prompt(marked)
        return prompt.ids, continues_answer

    @cached_property
    def _request_renderer(self) -> RequestRenderer:
        return RequestRenderer(self._renderer)

    def render_examples(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        where: str | None = None,
        rules: LossRules = DEFAULT_LOSS_RULES,
    ) -> list[TokenizedExample]:
        """The training examples of a conversation: before each answer exactly the prompt that it is served with.

        That is one example if the template only ever appends, and several if it rewrites earlier turns (leaves out
        old reasoning, say); see `answer_spans`. Nothing is returned if no answer carries loss.

        Args:
            messages: The turns.
            tools: Tools that the assistant may call.
            where: Name of the record, for messages.
            rules: What carries loss.

        Raises:
            TemplateRefusal: If the template has no form for the turns.
            UserError: If the turns are out of order, or an answer would not learn to stop.
        """
        check_order(messages, False, where)
        cached = self._cached_ids(messages, tools)
        if cached is not None and learns_all_answers(messages, rules):
            return [TokenizedExample(*cached)]
        return self._training_examples(messages, tools, where, rules, cached)

    def _cached_ids(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> tuple[list[int], bytes] | None:
        """Ids and the mask of all answers if the roles alone tell how the turns are rendered, else None."""
        return None if tools or self._renderer.thinking_switches else self._renderer.cache.render_ids(messages)

    def _training_examples(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        where: str | None,
        rules: LossRules,
        cached: tuple[list[int], bytes] | None,
    ) -> list[TokenizedExample]:
        """The training examples of turns of which not every answer surely carries loss, or that no cache has."""
        learned = learned_answers(messages, rules)
        if not learned:
            return []
        if cached is not None:
            ids, loss_mask = cached
            answers = assistant_indices(messages)
            if len(learned) < len(answers):
                loss_mask = mask_answers(loss_mask, [index in learned for index in answers])
            return [TokenizedExample(ids, loss_mask)]
        marked = self._training_texts(messages, tools, where, learned, rules)
        return [self._encode(text, True, where) for text in marked]

    def check(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        where: str | None = None,
        rules: LossRules = DEFAULT_LOSS_RULES,
    ) -> None:
        """Raise what `render_examples` raises for the turns, without encoding their text.

        Raises:
            TemplateRefusal: If the template has no form for the turns.
            UserError: If the turns are out of order.
        """
        check_order(messages, False, where)
        if learned := learned_answers(messages, rules):
            self._training_texts(messages, tools, where, learned, rules)

    def render_batch(
        self,
        turns: Sequence[Sequence[Message]],
        names: Sequence[str],
        rules: LossRules = DEFAULT_LOSS_RULES,
    ) -> Iterator[list[TokenizedExample] | TemplateRefusal]:
        """`render_examples` of many conversations without tools; `names` are their names in messages.

        A refusal comes in place of the examples. The texts of some conversations are encoded together, by the
        tokenizers library on every core, while those of the next are rendered. With a fast encoder, one thread is
        faster than two.
        """
        if self.tokenizer.uses_fast_encoder:
            for messages, name in zip(turns, names, strict=True):
                try:
                    yield self.render_examples(messages, (), name, rules)
                except TemplateRefusal as refusal:
                    yield refusal
            return
        conversations = (self._render_spans(*named, rules) for named in zip(turns, names, strict=True))
        for (examples, name), encode in encode_batches(self.tokenizer, conversations):
            if isinstance(examples, TemplateRefusal):
                yield examples
            else:
                yield [self._join_spans(spans, True, name, encode) for spans in examples]

    def _training_texts(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        where: str | None,
        learned: Sequence[int],
        rules: LossRules,
    ) -> list[MarkedText]:
        return training_texts(self._renderer, messages, tools, where, learned, rules, self._is_packaged)

    def _render_spans(self, messages: Sequence[Message], name: str, rules: LossRules) -> RenderedConversation:
        check_order(messages, False, name)
        learned = learned_answers(messages, rules)
        try:
            texts = self._training_texts(messages, (), name, learned, rules) if learned else []
        except TemplateRefusal as refusal:
            return RenderedConversation(refusal, name)
        return RenderedConversation([list(self._renderer.special_tokens.split(*text)) for text in texts], name)

    def render_unshielded(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        prompt: bool = False,
        thinking: bool | None = None,
        last_answer: bool = False,
    ) -> TokenizedExample:
        """Render as most programs do: the template's whole text is encoded with special tokens on.

        A special token that a user typed is then one. This is for comparing with such programs, never for training or
        serving. The order of turns is not checked.

        Args:
            messages: The turns.
            tools: JSON schemas of the functions that may be called.
            prompt: Whether the text ends where an answer begins; then nothing carries loss.
            thinking: Whether the model shall think, for templates that have such a switch.
            last_answer: Whether the last answer alone carries loss.

        Returns:
            Ids, begin tokens that were typed included, and the loss mask, which is known only if the template marks it
            itself.

        Raises:
            UserError: The template has no form for the turns, or an answer in it ends with text.
        """
        marked = self._renderer.render_text(messages, tools, prompt, None, shield=False, thinking=thinking)
        if last_answer and not prompt:
            text, markers = marked
            before, start, answer = text.rpartition(markers.start)
            marked = MarkedText(_without_markers(before, markers) + start + answer, markers)
        if prompt:
            marked = MarkedText(_without_markers(*marked), marked.markers)
        else:
            marked = end_marks_at_stop(marked, self._renderer.special_token_ends)
        spans = self._renderer.special_tokens.split(*marked)
        # A second begin token may be one that a user typed: no fault of the template, and not looked for.
        return join_spans(spans, self._encode_text, not prompt, None, self.origin, None)

    def render_text(self, messages: Sequence[Message]) -> str:
        """The text that the template writes for turns. Raises UserError if it has no form for them."""
        return _without_markers(*self._renderer.render_text(messages, (), False, None, shield=False))

    def render_conversation(
        self,
        conversation: Conversation,
        rules: LossRules = DEFAULT_LOSS_RULES,
    ) -> list[TokenizedExample]:
        """`render_examples` of a record, which is named in messages."""
        where = f"{conversation.source}#{conversation.id}" if conversation.source else conversation.id
        return self.render_examples(conversation.messages, conversation.tools, where, rules)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """All ids that end an answer, ascending: of the template, the tokenizer and `generation_config.json`."""
        eos = self.tokenizer.eos_id
        stop_ids = {*self.turn_end_ids, *self._extra_stop_ids, *(() if eos is None else (eos,))}
        if not stop_ids:
            raise UserError(
                tr("neither the chat template nor the tokenizer ends an answer"),
                self.origin,
                tr("name an eos_token in tokenizer_config.json"),
            )
        return tuple(sorted(stop_ids))

    @cached_property
    def turn_end_ids(self) -> tuple[int, ...]:
        """The ids that the template ends assistant turns with, found by rendering two short conversations."""
        call = Message("assistant", "", tool_calls=(ToolCall("f", {}),))
        plain = [Message("user", "?"), Message("assistant", "!")]
        end_ids: set[int] = set()
        for messages in (plain, [plain[0], call, Message("tool", "1", name="f"), plain[1]]):
            try:
                rendered = self.render(messages)
            except UserError:
                continue
            ends = [*rendered.loss_mask[1:], 0]
            end_ids |= {
                row[0] for row in zip(rendered.ids, rendered.loss_mask, ends, strict=True) if row[1] and not row[2]
            }
        return tuple(sorted(end_ids))

    def save(self, folder: Path) -> None:
        """Write tokenizer, template and stop ids to a model folder, as other programs read them."""
        self.tokenizer.save(folder)
        write_text(folder / TEMPLATE_FILE, self.source)
        config = self.tokenizer.build_config()
        if not config.get("eos_token"):
            config["eos_token"] = self.tokenizer.backend.id_to_token(self.turn_end_ids[0])
            write_sorted_json(folder / CONFIG_FILE, config)
        generation = read_json(folder / GENERATION_FILE)
        special_ids = {"bos_token_id": self.tokenizer.bos_id, "pad_token_id": self.tokenizer.pad_id}
        generation.update({name: token_id for name, token_id in special_ids.items() if token_id is not None})
        stops = list(self.stop_ids)
        generation["eos_token_id"] = stops[0] if len(stops) == 1 else stops
        write_sorted_json(folder / GENERATION_FILE, generation)

    # -------------------------------------------------------------------------------------------- marked text to ids

    def _encode_prompt(self, marked: MarkedText) -> TokenizedExample:
        """The ids of a prompt. Its earlier answers are encoded with what is around them, as every program does."""
        return self._encode(MarkedText(_without_markers(*marked), marked.markers), False)

    def _encode(self, marked: MarkedText, with_loss: bool, where: str | None = None) -> TokenizedExample:
        return self._join_spans(self._renderer.special_tokens.split(*marked), with_loss, where, self._encode_text)

    def _encode_text(self, text: str, continuation: bool) -> list[int]:
        return self.tokenizer.encode(text, continuation=continuation)

    def _join_spans(
        self, spans: Iterable[Span], with_loss: bool, where: str | None, ids_of: Callable[[str, bool], list[int]]
    ) -> TokenizedExample:
        return join_spans(spans, ids_of, with_loss, self.tokenizer.bos_id, self.origin, where)

    def _compile(self, source: str) -> TemplateRenderer:
        def spans(messages: Sequence[Message]) -> list[Span]:
            learned = assistant_indices(messages)
            texts = training_texts(renderer, messages, (), None, learned, LossRules(), self._is_packaged)
            if len(texts) != 1:
                raise renderer.rewrites_turns(learned[-1], None)
            split = list(renderer.special_tokens.split(*texts[0]))
            self._join_spans(split, True, None, self._encode_text)  # raises if it cannot be trained on
            return split

        renderer = TemplateRenderer(source, self.tokenizer, self.origin, self._strips_inline, spans)
        return renderer

    def _writes_bos(self) -> bool:
        try:
            marked = self._renderer.render_text([Message("user", "?")], (), True, None)
        except UserError:  # it wants other turns; then its own word is taken
            return True
        return any(span.token_id == self.tokenizer.bos_id for span in self._renderer.special_tokens.split(*marked))


def _without_markers(text: str, markers: Markers) -> str:
    return text.replace(markers.start, "").replace(markers.end, "")
