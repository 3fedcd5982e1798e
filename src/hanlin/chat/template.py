"""The chat template: a conversation to token ids, the loss mask, and the ids that end an answer.

There is one renderer; training, evaluation, the server and the HTML pages all use it.
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
    read_packaged_template,
)
from hanlin.chat.special_tokens import MASK_BYTE, Span, SpecialTokens
from hanlin.chat.template_cache import TemplateCache
from hanlin.chat.template_data import iter_texts, to_template_messages, to_template_tools
from hanlin.chat.turn_order import check_order
from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_sorted_json, write_text
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Conversation, Message, ToolCall
from hanlin.tokenizer.file_names import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import SPECIAL_TOKEN_NAMES, Tokenizer

ENCODE_BATCH_SIZE = 256
"""Conversations whose texts are encoded together."""


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """Token ids of a conversation and their loss mask: `loss_mask[i]` is 1 if the model is trained to write `ids[i]`.

    text       <user> hi </user> <assistant> hello <eot>
    loss_mask    0    0     0         0        1     1
    """

    ids: list[int]
    loss_mask: bytes


class _MarkedText(NamedTuple):
    """Rendered text and the markers in it."""

    text: str
    markers: Markers


class ChatTemplate:
    """A Jinja chat template bound to a tokenizer.

    A conversation is rendered once, as text in which every special token that a user typed is broken by a character
    that occurs nowhere else. Whatever is still a special token was written by the template and becomes its id; the text
    between is encoded as plain text, each assistant turn on its own. So nobody can type a special token, and the ids
    before an answer in training are those of the prompt at inference.
    """

    def __init__(
        self, source: str, tokenizer: Tokenizer, origin: str | Path, extra_stop_ids: Sequence[int] = ()
    ) -> None:
        """Compile a Jinja `source`; raises UserError if it is not Jinja.

        `origin` is its file or name, for messages; `extra_stop_ids` are further ids that end an answer.
        """
        self.tokenizer = tokenizer
        self.origin = origin
        self._extra_stop_ids = tuple(extra_stop_ids)
        self._is_packaged = source in packaged_template_sources()
        self._set_source(source)
        if tokenizer.adds_bos and not self._writes_bos():
            self._set_source("{{- bos_token -}}\n" + source)

    @classmethod
    def load(cls, folder: str | Path, tokenizer: Tokenizer | None = None) -> ChatTemplate:
        """Load a folder's chat template and stop ids. Raises UserError if it has no template, or one that is not
        Jinja.
        """
        folder = Path(folder)
        tokenizer = tokenizer or Tokenizer.load(folder)
        file = folder / TEMPLATE_FILE
        origin: Path = file
        if file.is_file():
            source: Any = _read(file)
        else:
            origin = folder / CONFIG_FILE
            source = read_json(origin).get("chat_template")
            if isinstance(source, list):  # an older form: several templates, each with a name
                named = {row.get("name"): row.get("template") for row in source}
                source = named.get("default")
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
        """Load a template that comes with Hanlin.

        Raises UserError if it is unknown or the tokenizer lacks its tokens.
        """
        source = read_packaged_template(name)
        wanted = list(packaged_special_tokens(name))
        wanted += [name for name in ("bos_token", "eos_token") if name in source and f"{name} is defined" not in source]
        known = {kind: tokenizer.config.get(kind) for kind in SPECIAL_TOKEN_NAMES}
        missing = [token for token in wanted if tokenizer.token_id(known.get(token, token) or "") is None]
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
        return self._template.source

    def to_portable(self) -> ChatTemplate:
        """The template to train with and to export, which other programs render alike; see `make_portable`."""
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
        """Token ids of a conversation and their loss mask: the assistant's turns carry loss, their end tokens included.

        Args:
            messages: The turns.
            tools: Tools that the assistant may call.
            prompt: End where the assistant's next answer begins; then nothing carries loss.
            where: Name of the record, for messages.

        Raises:
            UserError: If the turns are out of order, the template refuses them, or an answer would not learn to stop.
        """
        check_order(messages, prompt, where)
        if not (tools or prompt) and (found := self._cache.render_ids(messages)) is not None:
            return TokenizedExample(*found)
        return self._encode(self._render_marked(messages, tools, prompt, where), not prompt, where)

    def render_batch(self, turns: Sequence[Sequence[Message]], names: Sequence[str]) -> Iterator[TokenizedExample]:
        """`render` of many conversations without tools; `names` are their names in messages.

        The texts of some conversations are encoded together, by the tokenizers library on every core, while those of
        the next are rendered. With a fast encoder, one thread is faster than two.
        """
        if self.tokenizer.uses_fast_encoder:
            yield from (self.render(messages, where=name) for messages, name in zip(turns, names, strict=True))
            return
        with ThreadPoolExecutor(1) as encoder:
            waiting: deque[tuple[list[tuple[list[Span], str]], Future[dict[tuple[str, bool], list[int]]]]] = deque()
            for start in range(0, len(turns), ENCODE_BATCH_SIZE):
                drafts = []
                for messages, name in zip(
                    turns[start : start + ENCODE_BATCH_SIZE], names[start : start + ENCODE_BATCH_SIZE], strict=True
                ):
                    check_order(messages, False, name)
                    drafts.append(
                        (list(self._special_tokens.split(*self._render_marked(messages, (), False, name))), name)
                    )
                waiting.append((drafts, encoder.submit(self._encode_texts, [spans for spans, _ in drafts])))
                if len(waiting) > 1:
                    yield from self._join_batch(*waiting.popleft())
            while waiting:
                yield from self._join_batch(*waiting.popleft())

    def _encode_texts(self, drafts: Sequence[Sequence[Span]]) -> dict[tuple[str, bool], list[int]]:
        """The ids of every plain text, each encoded once."""
        found = {(span.text, span.continuation): [0] for spans in drafts for span in spans if span.token_id is None}
        for continuation in (False, True):
            texts = [text for text, within in found if within == continuation]
            for text, ids in zip(texts, self.tokenizer.encode_batch(texts, continuation=continuation), strict=True):
                found[text, continuation] = ids
        return found

    def _join_batch(
        self, drafts: Sequence[tuple[list[Span], str]], ids: Future[dict[tuple[str, bool], list[int]]]
    ) -> Iterator[TokenizedExample]:
        known = ids.result()
        for spans, name in drafts:
            yield self._join_spans(spans, True, name, lambda text, continuation: known[text, continuation])

    def _render_marked(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], prompt: bool, where: str | None
    ) -> _MarkedText:
        """The text of a conversation whose order was checked, with markers around what is generated, checked for
        training.
        """
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
        """Render as most programs do: the template's whole text is encoded with special tokens on.

        A special token that a user typed is then one. This is for comparing with such programs, never for training or
        serving. The order of turns is not checked, and the loss mask is known only if the template marks it itself.
        """
        return self._encode(self._render_text(messages, tools, prompt, None, shield=False), not prompt)

    def render_conversation(self, conversation: Conversation) -> TokenizedExample:
        """`render` of a record, which is named in messages."""
        where = f"{conversation.source}#{conversation.id}" if conversation.source else conversation.id
        return self.render(conversation.messages, conversation.tools, where=where)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: those of the template, the tokenizer and the model's generation settings."""
        eos = self.tokenizer.eos_id
        found = {*self.turn_end_ids, *self._extra_stop_ids, *(() if eos is None else (eos,))}
        if not found:
            raise UserError(
                tr("neither the chat template nor the tokenizer ends an answer"),
                self.origin,
                tr("name an eos_token in tokenizer_config.json"),
            )
        return tuple(sorted(found))

    @cached_property
    def turn_end_ids(self) -> tuple[int, ...]:
        """The ids that the template closes assistant turns with, found by rendering two small conversations."""
        call = Message("assistant", "", tool_calls=(ToolCall("f", {}),))
        plain = [Message("user", "?"), Message("assistant", "!")]
        found: set[int] = set()
        for messages in (plain, [plain[0], call, Message("tool", "1", name="f"), plain[1]]):
            try:
                rendered = self.render(messages)
            except UserError:
                continue
            ends = [*rendered.loss_mask[1:], 0]
            found |= {
                row[0] for row in zip(rendered.ids, rendered.loss_mask, ends, strict=True) if row[1] and not row[2]
            }
        return tuple(sorted(found))

    def save(self, folder: Path) -> None:
        """Write a folder that other programs serve alike: tokenizer, template and every id that ends an answer."""
        self.tokenizer.save(folder)
        write_text(folder / TEMPLATE_FILE, self.source)
        config = self.tokenizer.build_config()
        if not config.get("eos_token"):
            config["eos_token"] = self.tokenizer.backend.id_to_token(self.turn_end_ids[0])
            write_sorted_json(folder / CONFIG_FILE, config)
        generation = read_json(folder / GENERATION_FILE)
        named = {"bos_token_id": self.tokenizer.bos_id, "pad_token_id": self.tokenizer.pad_id}
        generation.update({name: number for name, number in named.items() if number is not None})
        stops = list(self.stop_ids)
        generation["eos_token_id"] = stops[0] if len(stops) == 1 else stops
        write_sorted_json(folder / GENERATION_FILE, generation)

    # ------------------------------------------------------------------------------------------ text with marks

    def _render_text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
        markers: Markers | None = None,
        shield: bool = True,
    ) -> _MarkedText:
        """The template's text for these turns, typed special tokens shielded and generated stretches marked."""
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
                "the chat template {origin} refuses these turns: {value}", origin=self.origin, value=error.message
            )
            hint = tr("change the turns as it says, or choose another template")
            raise UserError(what, where, hint) from error

    def _variables(self, turns: Any, tool_data: Any, prompt: bool) -> dict[str, Any]:
        named = {name: self.tokenizer.config[name] for name in SPECIAL_TOKEN_NAMES if self.tokenizer.config.get(name)}
        return {**named, "messages": turns, "tools": tool_data, "documents": None, "add_generation_prompt": prompt}

    def _derive_markers(
        self,
        full: _MarkedText,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
    ) -> _MarkedText:
        """Derive the markers that a template without `{% generation %}` lacks, and check them on this conversation.

        An answer begins where the prompt for it ends, and it ends with the last special token of its own turn. Both
        must be prefixes of the full text; otherwise the template cannot be trained on turn by turn.
        """
        text, markers = full
        spans: list[tuple[int, int]] = []
        for index in _assistant_indices(messages):
            before = self._render_text(messages[:index], tools, True, where, markers).text
            last = not prompt and index == len(messages) - 1  # then what stands up to its end is the whole
            after = text if last else self._render_text(messages[: index + 1], tools, False, where, markers).text
            if not (text.startswith(after) and after.startswith(before) and len(before) < len(after)):
                raise self._prefix_error(index, where)
            ends = [found.end() for found in self._special_tokens.pattern.finditer(after, len(before))]
            spans.append((len(before), ends[-1] if ends else len(after)))
        for start, end in reversed(spans):
            text = text[:start] + markers.start + text[start:end] + markers.end + text[end:]
        return _MarkedText(text, markers)

    def _check_markers(
        self, full: _MarkedText, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], where: str | None
    ) -> None:
        """Check a template's own markers: one stretch for each answer, which begins where the prompt for that answer
        ends.
        """
        text, markers = full
        answers = _assistant_indices(messages)
        starts = [found.end() for found in re.finditer(markers.start, text)]
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
        """Refuse tools and tool calls that the template would silently leave out."""
        unread = self._unsupported_fields
        if (tools and "tools" in unread) or (
            "tool_calls" in unread and any(message.tool_calls for message in messages)
        ):
            raise UserError(
                tr("the chat template {origin} has no form for tools and their calls", origin=self.origin),
                where,
                tr("choose one that has, llama3.1 for one"),
            )

    @cached_property
    def _unsupported_fields(self) -> list[str]:
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
        ids: list[int] = []
        loss_mask = bytearray()
        last: Span | None = None
        for span in spans:
            if with_loss and last is not None and last.in_loss and not span.in_loss:
                self._check_ends_with_token(last, where)
            found = ids_of(span.text, span.continuation) if span.token_id is None else [span.token_id]
            ids += found
            loss_mask += MASK_BYTE[span.in_loss and with_loss] * len(found)
            last = span
        if with_loss and last is not None and last.in_loss:
            self._check_ends_with_token(last, where)
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

    # --------------------------------------------------------------------------------------------------- what it knows

    def _set_source(self, source: str) -> None:
        """Use this source from now on."""

        def spans(messages: Sequence[Message]) -> list[Span]:
            found = list(self._special_tokens.split(*self._render_marked(messages, (), False, None)))
            self._join_spans(
                found, True, None, self._encode_text
            )  # raises where such a conversation cannot be learned from
            return found

        self._template = self._compile(source)
        self._cache = TemplateCache(self._template, self._special_tokens, self.tokenizer, self._variables, spans)

    def _compile(self, source: str) -> JinjaTemplate:
        try:
            return JinjaTemplate(source)
        except jinja2.TemplateSyntaxError as error:
            hint = tr("it must be Jinja as transformers reads it")
            raise UserError(
                tr("the chat template is not Jinja: {value}", value=error.message),
                f"{self.origin}:{error.lineno}",
                hint,
            ) from error

    @cached_property
    def _special_tokens(self) -> SpecialTokens:
        return SpecialTokens(self.tokenizer, self._template.literal_text)

    def _writes_bos(self) -> bool:
        try:
            marked = self._render_text([Message("user", "?")], (), True, None)
        except UserError:  # it wants other turns; then its own word is taken
            return True
        first = next(self._special_tokens.split(*marked), None)
        return first is not None and first.token_id == self.tokenizer.bos_id


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(tr("cannot be read as text: {error}", error=error), file) from error


def _assistant_indices(messages: Sequence[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if message.role == "assistant"]
