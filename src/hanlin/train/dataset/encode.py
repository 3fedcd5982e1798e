"""Records to token ids and loss masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hanlin.chat.examples import render_answer, render_documents
from hanlin.chat.template import ChatTemplate, TokenizedExample
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Message, Preference, UnpairedPreference
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.encoded import EncodedRecord, Example


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[EncodedRecord]:
    """Encode documents with their begin and end tokens; a text without a token to learn is refused."""
    for rendered in render_documents([document.text for document in documents], tokenizer):
        example = Example(rendered.ids, rendered.loss_mask)
        yield EncodedRecord((example,)) if len(example.ids) > 1 else EncodedRecord(reason="empty")


@dataclass(frozen=True, slots=True)
class ChatEncoder:
    """Encodes conversations, preference pairs and unpaired answers through the chat template; answers are the targets.

    Attributes:
        template: The chat template.
        max_seq_length: The most positions of an example.
        overlong: What to do with a longer one: `truncate_turns`, `drop` or `error`.
    """

    template: ChatTemplate
    max_seq_length: int
    overlong: str

    def conversations(self, records: Sequence[Conversation]) -> Iterator[EncodedRecord]:
        """Encode conversations, one example each; all answers are targets."""
        plain = [record for record in records if not record.tools]
        rendered = self.template.render_batch([record.messages for record in plain], [record.id for record in plain])
        for record in records:
            yield self._encode_conversation(record, None if record.tools else next(rendered))

    def preferences(self, records: Sequence[Preference]) -> Iterator[EncodedRecord]:
        """Encode preference pairs, two examples each: the chosen answer, then the rejected one."""
        for record in records:
            yield self._encode_preference(record)

    def unpaired_preferences(self, records: Sequence[UnpairedPreference]) -> Iterator[EncodedRecord]:
        """Encode answers that are labeled good or bad, one example each."""
        for record in records:
            yield self._encode_answers(record.prompt, ((record.answer, record.good),), record.id)

    def _encode_conversation(self, record: Conversation, rendered: TokenizedExample | None) -> EncodedRecord:
        messages = record.messages
        changed = ""
        if rendered is None:
            rendered = self.template.render(messages, record.tools, where=record.id)
        while len((example := _trim(rendered)).ids) - 1 > self.max_seq_length:
            messages = _drop_last_answer(messages) if self.overlong == "truncate_turns" else ()
            if not messages:
                return self._refuse_overlong(len(example.ids), record.id)
            changed = "truncate_turns"
            rendered = self.template.render(messages, record.tools, where=record.id)
        answers = sum(message.role == "assistant" for message in messages)
        _check_answers_are_targets(rendered, answers, record.id)
        return EncodedRecord((example,), changed)

    def _encode_preference(self, record: Preference) -> EncodedRecord:
        if record.chosen == record.rejected:
            return EncodedRecord(reason="identical_answers")
        encoded = self._encode_answers(record.prompt, ((record.chosen, True), (record.rejected, False)), record.id)
        if encoded.examples and encoded.examples[0].ids == encoded.examples[1].ids:
            return EncodedRecord(reason="identical_answers")
        return encoded

    def _encode_answers(
        self, prompt: Sequence[Message], answers: Sequence[tuple[Message, bool]], record_id: str
    ) -> EncodedRecord:
        """An example for each answer to the prompt; the answer alone is a target."""
        if any(not answer.text.strip() and not answer.tool_calls for answer, _ in answers):
            return EncodedRecord(reason="empty_answer")
        examples = []
        for answer, desirable in answers:
            rendered = render_answer(prompt, answer, self.template, record_id)
            _check_answers_are_targets(rendered, 1, record_id)
            examples.append(_trim(rendered, desirable))
        longest = max(len(example.ids) for example in examples)
        if longest - 1 > self.max_seq_length:
            return self._refuse_overlong(longest, record_id)
        return EncodedRecord(tuple(examples))

    def _refuse_overlong(self, tokens: int, record_id: str) -> EncodedRecord:
        if self.overlong != "error":
            return EncodedRecord(reason="too_long")
        raise UserError(
            tr(
                "{tokens} tokens do not fit into a sequence of {max_seq_length}",
                tokens=tokens,
                max_seq_length=self.max_seq_length,
            ),
            record_id,
            tr("raise max_seq_length, or set overlong: drop"),
        )


def _check_answers_are_targets(rendered: TokenizedExample, answers: int, record_id: str) -> None:
    """Check that the loss mask has as many stretches as there are answers.

    It is the one rule that needs the record; the others are checked on the ids (`mask_checks`).
    """
    stretches = (rendered.loss_mask + b"\0").count(b"\1\0")
    if stretches != answers:
        message = tr(
            "the loss mask has {stretches} stretches for {answers} answers", stretches=stretches, answers=answers
        )
        hint = tr("this chat template cannot be trained with: use a packaged one")
        raise UserError(message, record_id, hint)


def _trim(rendered: TokenizedExample, desirable: bool = True) -> Example:
    """Cut what follows the last target: nothing would be learned from it."""
    end = rendered.loss_mask.rfind(b"\1") + 1
    if end == len(rendered.ids):
        return Example(rendered.ids, rendered.loss_mask, desirable)
    return Example(rendered.ids[:end], rendered.loss_mask[:end], desirable)


def _drop_last_answer(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns up to the answer before the last; none if there is no such answer. A conversation does not end with a
    tool call that has no result.
    """
    for index in range(len(messages) - 2, -1, -1):
        if messages[index].role == "assistant" and not messages[index].tool_calls:
            return tuple(messages[: index + 1])
    return ()
