"""Records to token ids and loss masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hanlin.chat.examples import render_answer, render_documents
from hanlin.chat.template import ChatTemplate, Rendered
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Conversation, Document, Message, Preference, UnpairedPreference
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.encoded import Encoded, Example


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Documents with their begin and end tokens; a text of which no token can be learned is refused."""
    for rendered in render_documents([document.text for document in documents], tokenizer):
        whole = Example(rendered.ids, rendered.learn)
        yield Encoded((whole,)) if len(whole.ids) > 1 else Encoded(reason="empty")


@dataclass(frozen=True, slots=True)
class ChatEncoder:
    """Conversations, preference pairs and judged answers as examples, through the chat template, with each answer
    learned.

    `max_seq_length` is the most positions that an example may take. `overlong` says what is done with a longer one.
    """

    template: ChatTemplate
    max_seq_length: int
    overlong: str

    def conversations(self, records: Sequence[Conversation]) -> Iterator[Encoded]:
        plain = [record for record in records if not record.tools]
        whole = self.template.render_many([record.messages for record in plain], [record.id for record in plain])
        for record in records:
            yield self._conversation(record, None if record.tools else next(whole))

    def preferences(self, records: Sequence[Preference]) -> Iterator[Encoded]:
        for record in records:
            yield self._preference(record)

    def unpaired_preferences(self, records: Sequence[UnpairedPreference]) -> Iterator[Encoded]:
        for record in records:
            yield self._judgement(record)

    def _conversation(self, record: Conversation, whole: Rendered | None) -> Encoded:
        messages = record.messages
        changed = ""
        while True:
            rendered, whole = whole or self.template.render(messages, record.tools, where=record.id), None
            example = _trimmed(rendered)
            if len(example.ids) - 1 <= self.max_seq_length:
                break
            messages = _without_last_answer(messages) if self.overlong == "truncate_turns" else ()
            if not messages:
                return self._too_long(len(example.ids), record.id)
            changed = "truncate_turns"
        answers = sum(message.role == "assistant" for message in messages)
        _each_answer_is_learnt(rendered, answers, record.id)
        return Encoded((example,), changed)

    def _preference(self, record: Preference) -> Encoded:
        if record.chosen == record.rejected:
            return Encoded(reason="identical_answers")
        found = self._answered(record.prompt, ((record.chosen, True), (record.rejected, False)), record.id)
        if found.examples and found.examples[0].ids == found.examples[1].ids:
            return Encoded(reason="identical_answers")
        return found

    def _judgement(self, record: UnpairedPreference) -> Encoded:
        return self._answered(record.prompt, ((record.answer, record.good),), record.id)

    def _answered(self, turns: Sequence[Message], answers: Sequence[tuple[Message, bool]], record_id: str) -> Encoded:
        """An example for each answer to the same turns: of these nothing is learned."""
        if any(not answer.text.strip() and not answer.tool_calls for answer, _ in answers):
            return Encoded(reason="empty_answer")
        examples = []
        for answer, good in answers:
            rendered = render_answer(turns, answer, self.template, record_id)
            _each_answer_is_learnt(rendered, 1, record_id)
            examples.append(_trimmed(rendered, good))
        longest = max(len(example.ids) for example in examples)
        if longest - 1 > self.max_seq_length:
            return self._too_long(longest, record_id)
        return Encoded(tuple(examples))

    def _too_long(self, tokens: int, record_id: str) -> Encoded:
        if self.overlong != "error":
            return Encoded(reason="too_long")
        raise UserError(
            say(
                f"{tokens} tokens do not fit into a row of {self.max_seq_length}",
                f"{tokens} 个词元放不进 {self.max_seq_length} 的行",
            ),
            record_id,
            say("raise max_seq_length, or set overlong: drop", "增大 max_seq_length，或设 overlong: drop"),
        )


def _each_answer_is_learnt(rendered: Rendered, answers: int, record_id: str) -> None:
    """As many learned stretches as answers: the one rule that only the record can tell. The others are `contract`'s."""
    found = (rendered.learn + b"\0").count(b"\1\0")
    if found != answers:
        what = say(f"{found} of {answers} answers are learned", f"{answers} 个回答中只有 {found} 个被学习")
        hint = say(
            "the chat template cannot be trained with: choose a packaged one", "该对话模板不能用于训练：请换用内置模板"
        )
        raise UserError(what, record_id, hint)


def _trimmed(rendered: Rendered, good: bool = True) -> Example:
    """Without what comes after the last learned token: nothing would be learned from it."""
    end = rendered.learn.rfind(b"\1") + 1
    if end == len(rendered.ids):
        return Example(rendered.ids, rendered.learn, good)
    return Example(rendered.ids[:end], rendered.learn[:end], good)


def _without_last_answer(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns up to the answer before the last; none when there is no such answer. A call of tools without its result
    is no answer to end with."""
    for place in range(len(messages) - 2, -1, -1):
        if messages[place].role == "assistant" and not messages[place].tool_calls:
            return tuple(messages[: place + 1])
    return ()
