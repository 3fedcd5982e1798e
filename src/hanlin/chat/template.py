"""The chat template: renders a conversation to token ids and their loss mask, and knows the ids that end an answer.

Training, evaluation, the server and the HTML pages all render with it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from hanlin.chat.jinja import DEFAULT_MARKERS, JinjaTemplate, Markers, make_portable
from hanlin.chat.packaged import (
    packaged_names,
    packaged_special_tokens,
    packaged_template_sources,
    read_template_source,
)
from hanlin.chat.special_tokens import MASK_BYTE, Span, SpecialTokens
from hanlin.chat.template_cache import TemplateCache
from hanlin.chat.template_data import iter_texts, to_template_messages, to_template_tools
from hanlin.chat.turn_order import check_order
from hanlin.core.errors import UnsupportedToolsError, UserError
from hanlin.core.files import read_json, write_sorted_json, write_text
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Conversation, Message, ToolCall
from hanlin.tokenizer.file_names import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import SPECIAL_TOKEN_NAMES, Tokenizer

EncodedTexts = dict[tuple[str, bool], list[int]]
"""Token ids of texts, by the text and whether other text precedes it (`Span.continuation`)."""
ENCODE_BATCH_SIZE = 256
"""Conversations whose texts `render_batch` encodes together."""


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of a conversation and their loss mask.

        tokens       <user> hi </user> <assistant> hello <eot>
        loss_mask      0    0     0         0        1     1

    `loss_mask` has one byte for each of `ids`, 1 if it is a target.
    """

    ids: list[int]
    loss_mask: bytes


class _MarkedText(NamedTuple):
    """Rendered text with marker characters around answers and inside typed special tokens, and the markers."""

    text: str
    markers: Markers


class ChatTemplate:
    """A Jinja chat template bound to a tokenizer.

    Special tokens in the messages are shielded: before rendering, each is broken by a marker character that occurs
    nowhere else. The special tokens that remain in the rendered text were written by the template and become their ids;
    the text between them is encoded as plain text, each assistant turn separately. So nobody can inject a special
    token, and the ids before an answer in training equal those of the prompt at inference.

    Args:
        source: The Jinja source.
        tokenizer: The tokenizer.
        origin: File or name of the template, for messages.
        extra_stop_ids: Further ids that end an answer, as in `generation_config.json`.

    Raises:
        UserError: The source is not Jinja.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, origin: str | Path, extra_stop_ids: Sequence[int] = ()
    ) -> None:
        self.tokenizer = tokenizer
        self.origin = origin
        self._extra_stop_ids = tuple(extra_stop_ids)
        self._is_packaged = source in packaged_template_sources()
        self._set_source(source)
        if tokenizer.adds_bos and not self._writes_bos():
            self._set_source("{{- bos_token -}}\n" + source)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer | None = None) -> ChatTemplate:
        """Load the chat template and the stop ids of a model folder.

        The template is in a file of its own or in `tokenizer_config.json`. `tokenizer` is that of the folder, if it is
        loaded already. Raises UserError if there is no template, or it is not Jinja.
        """
        folder = Path(folder)
        tokenizer = tokenizer or Tokenizer.load(folder)
        file = folder / TEMPLATE_FILE
        origin: Path = file
        if file.is_file():
            source: Any = _read_text(file)
        else:
            origin = folder / CONFIG_FILE
            source = read_json(origin).get("chat_template")
            if isinstance(source, list):  # the older format of transformers: several named templates
                templates = {row.get("name"): row.get("template") for row in source}
                source = templates.get("default")
        if not isinstance(source, str) or not source.strip():
            names = ", ".join(packaged_names())
            raise UserError(
                tr("there is no chat template here"),
                folder,
                tr("a base model has none: set `template` to one of {names}", names=names),
            )
        return cls(source, tokenizer, origin, read_eos_token_ids(folder))

    @classmethod
    def from_packaged(cls, name: str, tokenizer: Tokenizer) -> ChatTemplate:
        """Load a template that is packaged with Hanlin, or a Jinja file of your own.

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
        return cls(source, tokenizer, name)

    @property
    def source(self) -> str:
        """The Jinja source."""
        return self._template.source

    def to_portable(self) -> ChatTemplate:
        """Return the template to train with and to export, which other programs render alike (see `make_portable`)."""
        source = make_portable(self.source)
        return (
            self if source == self.source else ChatTemplate(source, self.tokenizer, self.origin, self._extra_stop_ids)
        )

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        prompt: bool = False,
        where: str | None = None,
    ) -> TokenizedExample:
        """Render a conversation to token ids and their loss mask: 1 in assistant turns, end tokens included.

        Args:
            messages: The turns.
            tools: Tools that the assistant may call.
            prompt: Add the generation prompt, which the assistant's next answer follows; the loss mask is all 0.
            where: Name of the record, for messages.

        Raises:
            UserError: The turns are out of order, the template refuses them, or an answer has no end token.
        """
        check_order(messages, prompt, where)
        if not (tools or prompt) and (cached := self._cache.render_ids(messages)) is not None:
            return TokenizedExample(*cached)
        return self._encode(self._render_marked(messages, tools, prompt, where), not prompt, where)

    def render_batch(self, chats: Sequence[Sequence[Message]], names: Sequence[str]) -> Iterator[TokenizedExample]:
        """Yield what `render` returns for each of many conversations without tools.

        The texts of a batch are encoded by the tokenizers library on every core, while the next batch is rendered. With
        the fast encoder, one thread is faster than two. `names` are those of the records, for messages.
        """
        if self.tokenizer.uses_fast_encoder:
            yield from (self.render(messages, where=name) for messages, name in zip(chats, names, strict=True))
            return
        with ThreadPoolExecutor(1) as encoder:
            pending: deque[tuple[list[tuple[list[Span], str]], Future[EncodedTexts]]] = deque()
            for start in range(0, len(chats), ENCODE_BATCH_SIZE):
                batch = []
                for messages, name in zip(
                    chats[start : start + ENCODE_BATCH_SIZE], names[start : start + ENCODE_BATCH_SIZE], strict=True
                ):
                    check_order(messages, False, name)
                    batch.append(
                        (list(self._special_tokens.split(*self._render_marked(messages, (), False, name))), name)
                    )
                pending.append((batch, encoder.submit(self._encode_texts, [spans for spans, _ in batch])))
                if len(pending) > 1:
                    yield from self._join_batch(*pending.popleft())
            while pending:
                yield from self._join_batch(*pending.popleft())

    def _encode_texts(self, batch: Sequence[Sequence[Span]]) -> EncodedTexts:
        """Encode the plain text of all spans, equal ones once."""
        encoded = {(span.text, span.continuation): [0] for spans in batch for span in spans if span.token_id is None}
        for continuation in (False, True):
            texts = [text for text, is_continuation in encoded if is_continuation == continuation]
            for text, ids in zip(texts, self.tokenizer.encode_batch(texts, continuation=continuation), strict=True):
                encoded[text, continuation] = ids
        return encoded

    def _join_batch(
        self, batch: Sequence[tuple[list[Span], str]], encoding: Future[EncodedTexts]
    ) -> Iterator[TokenizedExample]:
        encoded = encoding.result()
        for spans, name in batch:
            yield self._join_spans(spans, True, name, lambda text, continuation: encoded[text, continuation])

    def _render_marked(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], prompt: bool, where: str | None
    ) -> _MarkedText:
        """Render turns to text with markers around answers; unless it is a prompt, check that it can be trained on."""
        self._check_tools(messages, tools, where)
        marked = self._render_text(messages, tools, prompt, where)
        if self._template.has_generation_blocks:
            if not (prompt or self._is_packaged):
                self._check_markers(marked, messages, tools, where)
        else:
            try:
                marked = self._derive_markers(marked, messages, tools, prompt, where)
            except UserError:
                if not prompt:
                    raise
        return marked

    def render_unshielded(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), prompt: bool = False
    ) -> TokenizedExample:
        """Render as most programs do: the whole text of the template is encoded at once, special tokens included.

        A special token that a user typed becomes its id. This is for comparison with such programs, never for training
        or serving. The order of turns is not checked, and without `{% generation %}` blocks the loss mask is 0.
        """
        return self._encode(self._render_text(messages, tools, prompt, None, shield=False), not prompt)

    def render_conversation(self, conversation: Conversation) -> TokenizedExample:
        """Render a record for training; messages name it by its source and id."""
        where = f"{conversation.source}#{conversation.id}" if conversation.source else conversation.id
        return self.render(conversation.messages, conversation.tools, where=where)

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
            next_mask = [*rendered.loss_mask[1:], 0]
            end_ids |= {
                token_id
                for token_id, mask, following in zip(rendered.ids, rendered.loss_mask, next_mask, strict=True)
                if mask and not following
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
        stop_ids = list(self.stop_ids)
        generation["eos_token_id"] = stop_ids[0] if len(stop_ids) == 1 else stop_ids
        write_sorted_json(folder / GENERATION_FILE, generation)

    # ------------------------------------------------------------------------------------------ text with markers

    def _render_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
        markers: Markers | None = None,
        shield: bool = True,
    ) -> _MarkedText:
        """Render the turns to text, typed special tokens shielded and `{% generation %}` blocks between markers."""
        if shield and not tools and markers in (None, DEFAULT_MARKERS):
            cached = self._cache.render_text(messages, prompt)
            if cached is not None:
                return _MarkedText(cached, DEFAULT_MARKERS)
        turns, tool_data = to_template_messages(messages), to_template_tools(tools)
        markers = markers or Markers.choose_unused([self.source, *iter_texts(turns), *iter_texts(tool_data)])
        if shield:
            turns, tool_data = (
                self._special_tokens.shield(turns, markers),
                self._special_tokens.shield(tool_data, markers),
            )
        try:
            return _MarkedText(self._template.render(markers, self._variables(turns, tool_data, prompt)), markers)
        except jinja2.TemplateError as error:
            what = tr(
                "the chat template {origin} refuses these turns: {reason}", origin=self.origin, reason=error.message
            )
            hint = tr("change the turns as it says, or choose another template")
            raise UserError(what, where, hint) from error

    def _variables(self, turns: Any, tool_data: Any, prompt: bool) -> dict[str, Any]:
        special = {name: self.tokenizer.config[name] for name in SPECIAL_TOKEN_NAMES if self.tokenizer.config.get(name)}
        return {**special, "messages": turns, "tools": tool_data, "documents": None, "add_generation_prompt": prompt}

    def _derive_markers(
        self,
        full: _MarkedText,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
    ) -> _MarkedText:
        """Insert markers around the answers, for a template without `{% generation %}` blocks.

        An answer begins where the prompt for it ends, and ends with the last special token of its turn. Raises
        UserError if the prompt for an answer, or the text up to its end, is not a prefix of the full text.
        """
        text, markers = full
        spans: list[tuple[int, int]] = []
        for index in _assistant_indices(messages):
            before = self._render_text(messages[:index], tools, True, where, markers).text
            is_last = not prompt and index == len(messages) - 1
            after = text if is_last else self._render_text(messages[: index + 1], tools, False, where, markers).text
            if not (text.startswith(after) and after.startswith(before) and len(before) < len(after)):
                raise self._prefix_error(index, where)
            ends = [match.end() for match in self._special_tokens.pattern.finditer(after, len(before))]
            spans.append((len(before), ends[-1] if ends else len(after)))
        for start, end in reversed(spans):
            text = text[:start] + markers.start + text[start:end] + markers.end + text[end:]
        return _MarkedText(text, markers)

    def _check_markers(
        self, full: _MarkedText, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], where: str | None
    ) -> None:
        """Check that a template has one `{% generation %}` block for each answer, beginning where its prompt ends."""
        text, markers = full
        answers = _assistant_indices(messages)
        starts = [match.end() for match in re.finditer(markers.start, text)]
        if len(starts) != len(answers):
            raise UserError(
                tr(
                    "the chat template {origin} marks {count} of {total} answers as generated",
                    origin=self.origin,
                    count=len(starts),
                    total=len(answers),
                ),
                where,
                tr("put {% generation %} around what every assistant turn writes"),
            )
        for index, start in zip(answers, starts, strict=True):
            before = self._render_text(messages[:index], tools, True, where, markers).text
            if before != text[: start - 1]:
                raise self._prefix_error(index, where)

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], where: str | None) -> None:
        """Raise UserError for tools and tool calls that the template would silently omit."""
        unsupported = self._unsupported_fields
        if (tools and "tools" in unsupported) or (
            "tool_calls" in unsupported and any(message.tool_calls for message in messages)
        ):
            raise UnsupportedToolsError(
                tr("the chat template {origin} has no form for tools and their calls", origin=self.origin),
                where,
                tr("choose one that has, llama3.1 for one"),
            )

    @cached_property
    def _unsupported_fields(self) -> list[str]:
        """Which of `tools` and `tool_calls` the template never reads."""
        return [name for name in ("tools", "tool_calls") if not re.search(rf"\b{name}\b", self.source)]

    def _prefix_error(self, index: int, where: str | None) -> UserError:
        return UserError(
            tr(
                "the chat template {origin} renders the turns before message {index} differently in a prompt",
                origin=self.origin,
                index=index + 1,
            ),
            where,
            tr("it rewrites earlier turns; train such conversations up to one answer each, or choose another template"),
        )

    # -------------------------------------------------------------------------------------------- marked text to ids

    def _encode(self, marked: _MarkedText, with_loss: bool, where: str | None = None) -> TokenizedExample:
        return self._join_spans(self._special_tokens.split(*marked), with_loss, where, self._encode_text)

    def _encode_text(self, text: str, continuation: bool) -> list[int]:
        return self.tokenizer.encode(text, continuation=continuation)

    def _join_spans(
        self, spans: Iterable[Span], with_loss: bool, where: str | None, ids_of: Callable[[str, bool], list[int]]
    ) -> TokenizedExample:
        """Concatenate the ids of spans; `ids_of` encodes a plain text, and `with_loss` false makes the loss mask all 0.

        Raises UserError if an answer ends without a special token, or the text begins with two begin tokens.
        """
        ids: list[int] = []
        loss_mask = bytearray()
        previous: Span | None = None
        for span in spans:
            if with_loss and previous is not None and previous.in_loss and not span.in_loss:
                self._check_ends_with_token(previous, where)
            span_ids = ids_of(span.text, span.continuation) if span.token_id is None else [span.token_id]
            ids += span_ids
            loss_mask += MASK_BYTE[span.in_loss and with_loss] * len(span_ids)
            previous = span
        if with_loss and previous is not None and previous.in_loss:
            self._check_ends_with_token(previous, where)
        bos = self.tokenizer.bos_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(
                tr("the chat template {origin} begins with two begin tokens", origin=self.origin),
                where,
                tr("take one of them out of the template"),
            )
        return TokenizedExample(ids, bytes(loss_mask))

    def _check_ends_with_token(self, last: Span, where: str | None) -> None:
        if last.token_id is None:
            raise UserError(
                tr(
                    "an answer of the chat template {origin} ends with text: a model never learns to stop",
                    origin=self.origin,
                ),
                where,
                tr("let the template write an end token after every answer"),
            )

    # --------------------------------------------------------------------------------------------------- the source

    def _set_source(self, source: str) -> None:
        """Compile a source and prepare the cache for it. Raises UserError if it is not Jinja."""

        def split_spans(messages: Sequence[Message]) -> list[Span]:
            spans = list(self._special_tokens.split(*self._render_marked(messages, (), False, None)))
            self._join_spans(spans, True, None, self._encode_text)  # raises if it cannot be trained on
            return spans

        self._template = self._compile(source)
        self._cache = TemplateCache(self._template, self._special_tokens, self.tokenizer, self._variables, split_spans)

    def _compile(self, source: str) -> JinjaTemplate:
        try:
            return JinjaTemplate(source)
        except jinja2.TemplateSyntaxError as error:
            hint = tr("it must be Jinja as transformers reads it")
            raise UserError(
                tr("the chat template is not Jinja: {reason}", reason=error.message),
                f"{self.origin}:{error.lineno}",
                hint,
            ) from error

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        return SpecialTokens(self.tokenizer, self._template.literal_text)

    def _writes_bos(self) -> bool:
        """Whether the text of the template begins with the begin token."""
        try:
            marked = self._render_text([Message("user", "?")], (), True, None)
        except UserError:  # it refuses a single question; then it is left as it is
            return True
        first = next(self._special_tokens.split(*marked), None)
        return first is not None and first.token_id == self.tokenizer.bos_id


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(tr("cannot be read as text: {error}", error=error), file) from error


def _assistant_indices(messages: Sequence[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if message.role == "assistant"]
