"""The one renderer: a conversation to token ids, which of them are learned, and the ids that end an answer.

Owns what a chat template means. Does not own the language it is written in (`template_language`) or text without turns
(`tokenizer`).
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

from hanlin.chat.jinja import FIRST_MARKS, Marks, Template, portable
from hanlin.chat.packaged import packaged, packaged_source, packaged_sources, template_tokens
from hanlin.chat.special_tokens import LEARNT, Controls, Part
from hanlin.chat.template_cache import Forms
from hanlin.chat.template_data import as_template_data, texts_of, tools_as_template_data
from hanlin.chat.turn_order import check_order
from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_sorted_json, write_text
from hanlin.core.i18n import say
from hanlin.core.records import Conversation, Message, ToolCall
from hanlin.tokenizer.file_names import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import NAMED_TOKENS, Tokenizer

TOGETHER = 256
"""Conversations whose texts are encoded together."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Token ids of a conversation; `learn[i]` is 1 where the model is taught to write `ids[i]`, and 0 elsewhere."""

    ids: list[int]
    learn: bytes


class _Marked(NamedTuple):
    """Rendered text with the marks that stand in it."""

    text: str
    marks: Marks


class ChatTemplate:
    """A Jinja chat template bound to a tokenizer.

    A conversation is rendered once, as text in which every special token that a person typed is broken by a character
    that occurs nowhere else. What is then still a special token was written by the template and becomes its id; the
    text between is encoded as plain text, each assistant turn on its own. So nobody can type a special token, and the
    ids before an answer in training are the ids of the prompt in use.
    """

    def __init__(self, source: str, tokenizer: Tokenizer, place: str | Path, answers_end: Sequence[int] = ()) -> None:
        """`place` names the template in messages; `answers_end` are more ids that end an answer.

        Raises UserError when `source` is not Jinja.
        """
        self.tokenizer = tokenizer
        self.place = place
        self._answers_end = tuple(answers_end)
        self._own = source in packaged_sources()
        self._take(source)
        if tokenizer.adds_bos and not self._writes_bos():
            self._take("{{- bos_token -}}\n" + source)

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer | None = None) -> ChatTemplate:
        """The chat template that lies in a model or tokenizer folder, with the stop ids of its generation settings.

        Raises UserError when the folder has no template, or one that is not Jinja.
        """
        tokenizer = tokenizer or Tokenizer.load(folder)
        file = folder / TEMPLATE_FILE
        place: Path = file
        if file.is_file():
            source: Any = _read(file)
        else:
            place = folder / CONFIG_FILE
            source = read_json(place).get("chat_template")
            if isinstance(source, list):  # an older form: several templates, each with a name
                named = {row.get("name"): row.get("template") for row in source}
                source = named.get("default")
        if not isinstance(source, str) or not source.strip():
            names = ", ".join(packaged())
            raise UserError(
                say("there is no chat template here", "这里没有对话模板"),
                folder,
                say(
                    f"a base model has none: set `template` to one of {names}",
                    f"基座模型没有模板：请将 template 设为 {names} 之一",
                ),
            )
        return cls(source, tokenizer, place, read_eos_token_ids(folder))

    @classmethod
    def named(cls, name: str, tokenizer: Tokenizer) -> ChatTemplate:
        """A packaged template. Raises UserError when there is none of the name or the tokenizer lacks its tokens."""
        source = packaged_source(name)
        wanted = list(template_tokens(name))
        wanted += [name for name in ("bos_token", "eos_token") if name in source and f"{name} is defined" not in source]
        known = {kind: tokenizer.config.get(kind) for kind in NAMED_TOKENS}
        missing = [token for token in wanted if tokenizer.token_id(known.get(token, token) or "") is None]
        if missing:
            raise UserError(
                say(
                    f"the tokenizer has no {', '.join(missing)}, which the chat template {name!r} writes",
                    f"分词器缺少对话模板 {name!r} 所用的 {'、'.join(missing)}",
                ),
                tokenizer.folder,
                say("choose the template of the model's own family", "请选用与模型同一系列的模板"),
            )
        return cls(source, tokenizer, name)

    @property
    def source(self) -> str:
        return self._template.source

    def portable(self) -> ChatTemplate:
        """The template to train with and to export: one that other programs' Jinja reads alike
        (`template_language.portable`). Packaged templates are such."""
        source = portable(self.source)
        return self if source == self.source else ChatTemplate(source, self.tokenizer, self.place, self._answers_end)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        prompt: bool = False,
        where: str | None = None,
    ) -> Rendered:
        """Ids of a conversation, and which are learned: what the assistant says, its end of turn included.

        With `prompt` the ids end where the assistant's next answer begins, and none is learned. `where` names the
        record in messages. Raises UserError when the turns are out of order, when the template refuses them, or when
        an answer would not learn to stop.
        """
        check_order(messages, prompt, where)
        if not (tools or prompt) and (found := self._forms.ids(messages)) is not None:
            return Rendered(*found)
        return self._encoded(self._written(messages, tools, prompt, where), not prompt, where)

    def render_many(self, turns: Sequence[Sequence[Message]], names: Sequence[str]) -> Iterator[Rendered]:
        """`render` of many conversations without tools; `names` names each in messages.

        Texts of some conversations are encoded together, by the tokenizers library on every core, while those of the
        next are written here. With a quickened tokenizer one thread is faster than the two.
        """
        if self.tokenizer.is_quick:
            yield from (self.render(messages, where=name) for messages, name in zip(turns, names, strict=True))
            return
        with ThreadPoolExecutor(1) as encoder:
            waiting: deque[tuple[list[tuple[list[Part], str]], Future[dict[tuple[str, bool], list[int]]]]] = deque()
            for start in range(0, len(turns), TOGETHER):
                drafts = []
                for messages, name in zip(
                    turns[start : start + TOGETHER], names[start : start + TOGETHER], strict=True
                ):
                    check_order(messages, False, name)
                    drafts.append((list(self._controls.parts(*self._written(messages, (), False, name))), name))
                waiting.append((drafts, encoder.submit(self._ids_of_texts, [parts for parts, _ in drafts])))
                if len(waiting) > 1:
                    yield from self._joined_many(*waiting.popleft())
            while waiting:
                yield from self._joined_many(*waiting.popleft())

    def _ids_of_texts(self, drafts: Sequence[Sequence[Part]]) -> dict[tuple[str, bool], list[int]]:
        """The ids of every plain text, each encoded once."""
        found = {(part.text, part.inside): [0] for parts in drafts for part in parts if part.token_id is None}
        for inside in (False, True):
            texts = [text for text, within in found if within == inside]
            for text, ids in zip(texts, self.tokenizer.encode_many(texts, inside=inside), strict=True):
                found[text, inside] = ids
        return found

    def _joined_many(
        self, drafts: Sequence[tuple[list[Part], str]], ids: Future[dict[tuple[str, bool], list[int]]]
    ) -> Iterator[Rendered]:
        known = ids.result()
        for parts, name in drafts:
            yield self._joined(parts, True, name, lambda text, inside: known[text, inside])

    def _written(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], prompt: bool, where: str | None
    ) -> _Marked:
        """The text of a conversation, whose order was checked, with marks around what is generated, proven to be
        learnable."""
        self._check_tools(messages, tools, where)
        marked = self._text(messages, tools, prompt, where)
        if self._template.marks_generation:
            if not (prompt or self._own):
                self._prove(marked, messages, tools, where)
        else:
            try:
                marked = self._with_derived_marks(marked, messages, tools, prompt, where)
            except UserError:
                if not prompt:
                    raise
        return marked

    def read_as_text(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), prompt: bool = False
    ) -> Rendered:
        """What a program gets that encodes the template's whole text, special tokens on, as most others do: there, a
        special token that a person typed is one. For comparing with such programs; never for training or serving.

        The order of turns is not checked, and what is learned is known only where the template itself marks it."""
        return self._encoded(self._text(messages, tools, prompt, None, shielding=False), not prompt)

    def render_conversation(self, conversation: Conversation) -> Rendered:
        """`render` of a record, which is named in what goes wrong."""
        where = f"{conversation.source}#{conversation.id}" if conversation.source else conversation.id
        return self.render(conversation.messages, conversation.tools, where=where)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: what the template closes the assistant's turns with, the tokenizer's end of
        text, and those of the model's generation settings."""
        eos = self.tokenizer.eos_id
        found = {*self.turn_end_ids, *self._answers_end, *(() if eos is None else (eos,))}
        if not found:
            raise UserError(
                say("neither the chat template nor the tokenizer ends an answer", "对话模板与分词器都没有结束符"),
                self.place,
                say("name an eos_token in tokenizer_config.json", "请在 tokenizer_config.json 中写明 eos_token"),
            )
        return tuple(sorted(found))

    @cached_property
    def turn_end_ids(self) -> tuple[int, ...]:
        """The ids that the template itself closes the assistant's turns with: the ones an answer learns.

        Found by rendering two small conversations, one of them with a tool, as far as the template knows them.
        """
        call = Message("assistant", "", tool_calls=(ToolCall("f", {}),))
        plain = [Message("user", "?"), Message("assistant", "!")]
        found: set[int] = set()
        for messages in (plain, [plain[0], call, Message("tool", "1", name="f"), plain[1]]):
            try:
                rendered = self.render(messages)
            except UserError:
                continue
            ends = [*rendered.learn[1:], 0]
            found |= {row[0] for row in zip(rendered.ids, rendered.learn, ends, strict=True) if row[1] and not row[2]}
        return tuple(sorted(found))

    def save(self, folder: Path) -> None:
        """Write a folder that other programs serve alike: tokenizer, template and every id that ends an answer."""
        self.tokenizer.save(folder)
        write_text(folder / TEMPLATE_FILE, self.source)
        config = self.tokenizer.saved_config()
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

    def _text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
        marks: Marks | None = None,
        shielding: bool = True,
    ) -> _Marked:
        """The template's text for these turns, typed special tokens shielded, generated stretches marked."""
        if shielding and not tools and marks in (None, FIRST_MARKS):
            outlined = self._forms.text(messages, prompt)
            if outlined is not None:
                return _Marked(outlined, FIRST_MARKS)
        turns, offered = as_template_data(messages), tools_as_template_data(tools)
        marks = marks or Marks.free_in([self.source, *texts_of(turns), *texts_of(offered)])
        if shielding:
            turns, offered = self._controls.shielded(turns, marks), self._controls.shielded(offered, marks)
        try:
            return _Marked(self._template.render(marks, self._variables(turns, offered, prompt)), marks)
        except jinja2.TemplateError as error:
            what = say(
                f"the chat template {self.place} refuses these turns: {error.message}",
                f"对话模板 {self.place} 不接受这些轮次：{error.message}",
            )
            hint = say("change the turns as it says, or choose another template", "请按提示修改对话，或换用其他模板")
            raise UserError(what, where, hint) from error

    def _variables(self, turns: Any, offered: Any, prompt: bool) -> dict[str, Any]:
        named = {name: self.tokenizer.config[name] for name in NAMED_TOKENS if self.tokenizer.config.get(name)}
        return {**named, "messages": turns, "tools": offered, "documents": None, "add_generation_prompt": prompt}

    def _with_derived_marks(
        self,
        whole: _Marked,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]],
        prompt: bool,
        where: str | None,
    ) -> _Marked:
        """The marks that a template without `{% generation %}` leaves out, derived and proven on this conversation.

        An answer begins where the prompt for it ends, and it ends with the last special token that its own turn
        writes. Both are prefixes of the whole text, or the template cannot be learned from turn by turn.
        """
        text, marks = whole
        spans: list[tuple[int, int]] = []
        for place in _answers(messages):
            before = self._text(messages[:place], tools, True, where, marks).text
            last = not prompt and place == len(messages) - 1  # then what stands up to its end is the whole
            after = text if last else self._text(messages[: place + 1], tools, False, where, marks).text
            if not (text.startswith(after) and after.startswith(before) and len(before) < len(after)):
                raise self._differs(place, where)
            ends = [found.end() for found in self._controls.pattern.finditer(after, len(before))]
            spans.append((len(before), ends[-1] if ends else len(after)))
        for start, end in reversed(spans):
            text = text[:start] + marks.start + text[start:end] + marks.end + text[end:]
        return _Marked(text, marks)

    def _prove(
        self, whole: _Marked, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], where: str | None
    ) -> None:
        """Check a template's own marks: one stretch for each answer, begun where the prompt for that answer ends."""
        text, marks = whole
        answers = _answers(messages)
        starts = [found.end() for found in re.finditer(marks.start, text)]
        if len(starts) != len(answers):
            raise UserError(
                say(
                    f"the chat template {self.place} marks {len(starts)} of {len(answers)} answers as generated",
                    f"对话模板 {self.place} 标出 {len(answers)} 个回答中的 {len(starts)} 个",
                ),
                where,
                say(
                    "put {% generation %} around what every assistant turn writes",
                    "请把每个助手轮写出的内容放进 {% generation %}",
                ),
            )
        for place, start in zip(answers, starts, strict=True):
            before = self._text(messages[:place], tools, True, where, marks).text
            if before != text[: start - 1]:
                raise self._differs(place, where)

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], where: str | None) -> None:
        """Refuse tools and calls that the template would leave out in silence."""
        unread = self._unread
        if (tools and "tools" in unread) or (
            "tool_calls" in unread and any(message.tool_calls for message in messages)
        ):
            raise UserError(
                say(
                    f"the chat template {self.place} has no form for tools and their calls",
                    f"对话模板 {self.place} 不支持工具及其调用",
                ),
                where,
                say("choose one that has, llama3.1 for one", "请选用支持工具的模板，例如 llama3.1"),
            )

    @cached_property
    def _unread(self) -> list[str]:
        return [name for name in ("tools", "tool_calls") if not re.search(rf"\b{name}\b", self.source)]

    def _differs(self, place: int, where: str | None) -> UserError:
        return UserError(
            say(
                f"the chat template {self.place} writes the turns before message {place + 1} otherwise in a prompt",
                f"对话模板 {self.place} 在提示中对第 {place + 1} 条消息之前的轮次写法不同",
            ),
            where,
            say(
                "it rewrites earlier turns; train such conversations up to one answer each, or choose another template",
                "该模板会改写历史轮次；请把对话拆成各含一个回答，或换用其他模板",
            ),
        )

    # -------------------------------------------------------------------------------------------- marked text to ids

    def _encoded(self, marked: _Marked, learning: bool, where: str | None = None) -> Rendered:
        return self._joined(self._controls.parts(*marked), learning, where, self._ids_of)

    def _ids_of(self, text: str, inside: bool) -> list[int]:
        return self.tokenizer.encode(text, inside=inside)

    def _joined(
        self, parts: Iterable[Part], learning: bool, where: str | None, ids_of: Callable[[str, bool], list[int]]
    ) -> Rendered:
        ids: list[int] = []
        learn = bytearray()
        last: Part | None = None
        for part in parts:
            if learning and last is not None and last.learned and not part.learned:
                self._stops(last, where)
            found = ids_of(part.text, part.inside) if part.token_id is None else [part.token_id]
            ids += found
            learn += LEARNT[part.learned and learning] * len(found)
            last = part
        if learning and last is not None and last.learned:
            self._stops(last, where)
        bos = self.tokenizer.bos_id
        if bos is not None and ids[:2] == [bos, bos]:
            raise UserError(
                say(
                    f"the chat template {self.place} begins with two begin tokens",
                    f"对话模板 {self.place} 开头有两个起始符",
                ),
                where,
                say("take one of them out of the template", "请从模板中去掉一个"),
            )
        return Rendered(ids, bytes(learn))

    def _stops(self, last: Part, where: str | None) -> None:
        if last.token_id is None:
            raise UserError(
                say(
                    f"an answer of the chat template {self.place} ends with text, so that a model never learns to stop",
                    f"对话模板 {self.place} 的回答以普通文本结尾，模型学不会停止",
                ),
                where,
                say("let the template write an end token after every answer", "请让模板在每个回答后写出结束符"),
            )

    # --------------------------------------------------------------------------------------------------- what it knows

    def _take(self, source: str) -> None:
        """Render by this source from now on."""

        def parts(messages: Sequence[Message]) -> list[Part]:
            found = list(self._controls.parts(*self._written(messages, (), False, None)))
            self._joined(found, True, None, self._ids_of)  # raises where such a conversation cannot be learned from
            return found

        self._template = self._compiled(source)
        self._forms = Forms(self._template, self._controls, self.tokenizer, self._variables, parts)

    def _compiled(self, source: str) -> Template:
        try:
            return Template(source)
        except jinja2.TemplateSyntaxError as error:
            hint = say("it must be Jinja as transformers reads it", "须为 transformers 所用的 Jinja 语法")
            raise UserError(
                say(f"the chat template is not Jinja: {error.message}", f"对话模板不是合法的 Jinja：{error.message}"),
                f"{self.place}:{error.lineno}",
                hint,
            ) from error

    @cached_property
    def _controls(self) -> Controls:
        return Controls(self.tokenizer, self._template.words)

    def _writes_bos(self) -> bool:
        try:
            marked = self._text([Message("user", "?")], (), True, None)
        except UserError:  # it wants other turns; then its own word is taken
            return True
        first = next(self._controls.parts(*marked), None)
        return first is not None and first.token_id == self.tokenizer.bos_id


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(say(f"cannot be read as text: {error}", f"无法作为文本读取：{error}"), file) from error


def _answers(messages: Sequence[Message]) -> list[int]:
    return [place for place, message in enumerate(messages) if message.role == "assistant"]
