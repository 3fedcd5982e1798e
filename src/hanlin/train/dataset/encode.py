"""Records to token ids and loss masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from hanlin.chat.examples import drop_reasoning, render_answer, render_documents, turns_thinking_off
from hanlin.chat.reasoning import spells_tags
from hanlin.chat.rendering.loss_rules import LossRules, learned_answers
from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, Message, Preference, UnpairedPreference
from hanlin.core.text import find_end_marks
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
        rules: What carries loss.
        drop_reasoning: Whether reasoning is left out: answers are learned without it, thinking turned off.
        on_refused: What to do with a record that the template has no form for: `drop` or `error`.
    """

    template: ChatTemplate
    max_seq_length: int
    overlong: str
    rules: LossRules = LossRules()  # noqa: RUF009 (immutable)
    drop_reasoning: bool = False
    on_refused: str = "error"

    def conversations(self, records: Sequence[Conversation]) -> Iterator[EncodedRecord]:
        """Encode conversations: one example each, or several if the template rewrites earlier turns."""
        drafts = [self._without_reasoning(record) for record in records]
        plain = [record for record, _ in drafts if not record.tools]
        rendered = self.template.render_batch(
            [record.messages for record in plain], [record.id for record in plain], self.rules
        )
        for record, notes in drafts:
            try:
                yield self._encode_conversation(record, None if record.tools else next(rendered), notes)
            except TemplateRefusal as refusal:
                yield self._refuse(refusal)

    def preferences(self, records: Sequence[Preference]) -> Iterator[EncodedRecord]:
        """Encode preference pairs, two examples each: the chosen answer, then the rejected one."""
        for record in records:
            try:
                yield self._encode_preference(record)
            except TemplateRefusal as refusal:
                yield self._refuse(refusal)

    def unpaired_preferences(self, records: Sequence[UnpairedPreference]) -> Iterator[EncodedRecord]:
        """Encode answers that are labeled good or bad, one example each."""
        for record in records:
            try:
                yield self._encode_answers(record, ((record.answer, record.good),))
            except TemplateRefusal as refusal:
                yield self._refuse(refusal)

    def _encode_conversation(
        self, record: Conversation, rendered: list[TokenizedExample] | TemplateRefusal | None, notes: tuple[str, ...]
    ) -> EncodedRecord:
        messages = record.messages
        changed = ""
        if isinstance(rendered, TemplateRefusal):
            raise rendered
        if rendered is None:
            rendered = self._render(record, messages)
        while (longest := _longest(examples := [_trim(one) for one in rendered])) - 1 > self.max_seq_length:
            messages = _drop_last_answer(messages) if self.overlong == "truncate_turns" else ()
            if not messages:
                return self._refuse_overlong(longest, record.id)
            changed = "truncate_turns"
            rendered = self._render(record, messages)
        if not examples:
            return EncodedRecord(reason="nothing_to_learn")
        _check_answers_are_targets(rendered, len(learned_answers(messages, self.rules)), record.id)
        if len(examples) > 1:
            notes = (*notes, "several_examples")
        return EncodedRecord(tuple(examples), changed, notes)

    def _render(self, record: Conversation, messages: Sequence[Message]) -> list[TokenizedExample]:
        return self.template.render_examples(messages, record.tools, record.id, self.rules)

    def _encode_preference(self, record: Preference) -> EncodedRecord:
        if record.chosen == record.rejected:
            return EncodedRecord(reason="identical_answers")
        thinks = bool(record.chosen.reasoning.strip()), bool(record.rejected.reasoning.strip())
        if self.template.thinking_switches and not self.drop_reasoning and thinks[0] != thinks[1]:
            return EncodedRecord(reason="one_answer_thinks")  # the two would follow different prompts
        encoded = self._encode_answers(record, ((record.chosen, True), (record.rejected, False)))
        if encoded.examples and encoded.examples[0].ids == encoded.examples[1].ids:
            return EncodedRecord(reason="identical_answers")
        return encoded

    def _encode_answers(
        self, record: Preference | UnpairedPreference, answers: Sequence[tuple[Message, bool]]
    ) -> EncodedRecord:
        """An example for each answer to the prompt; the answer alone is a target."""
        if any(not answer.text.strip() and not answer.tool_calls for answer, _ in answers):
            return EncodedRecord(reason="empty_answer")
        notes = _notes([answer for answer, _ in answers])
        examples = []
        for answer, desirable in answers:
            if self.drop_reasoning and answer.reasoning:
                answer, notes = replace(answer, reasoning=""), (*notes, "reasoning_dropped")
            rendered = render_answer(record.prompt, answer, self.template, record.id, record.tools, self.rules)
            _check_answers_are_targets([rendered], 1, record.id)
            examples.append(_trim(rendered, desirable))
        longest = _longest(examples)
        if longest - 1 > self.max_seq_length:
            return self._refuse_overlong(longest, record.id)
        return EncodedRecord(tuple(examples), "", tuple(dict.fromkeys(notes)))

    def _without_reasoning(self, record: Conversation) -> tuple[Conversation, tuple[str, ...]]:
        """A conversation as it is learned, and what is to be said of it.

        Its reasoning is left out if that is set, or if the row itself turns thinking off (`enable_thinking` false).
        """
        notes = _notes(record.messages)
        if not any(message.reasoning for message in record.messages):
            return record, notes
        if not (self.drop_reasoning or turns_thinking_off(record)):
            return record, notes
        return replace(record, messages=drop_reasoning(record.messages)), (*notes, "reasoning_dropped")

    def _refuse(self, refusal: TemplateRefusal) -> EncodedRecord:
        if self.on_refused == "error":
            raise UserError(refusal.what, refusal.where, tr("{hint}; or set on_refused: drop", hint=refusal.hint))
        return EncodedRecord(reason=refusal.reason, detail=str(refusal))

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


def _check_answers_are_targets(rendered: Sequence[TokenizedExample], answers: int, record_id: str) -> None:
    """Check that the loss mask has as many stretches as there are answers.

    It is the one rule that needs the record; the others are checked on the ids (`mask_checks`).
    """
    stretches = sum((example.loss_mask + b"\0").count(b"\1\0") for example in rendered)
    if stretches != answers:
        message = tr(
            "the loss mask has {stretches} stretches for {answers} answers", stretches=stretches, answers=answers
        )
        hint = tr("this chat template cannot be trained with: use a packaged one")
        raise UserError(message, record_id, hint)


def _notes(messages: Sequence[Message]) -> tuple[str, ...]:
    """What is to be said of a record before it is learned: what an answer spells as text that templates write."""
    answers = [message.text for message in messages if message.role == "assistant"]
    spelled = {
        "spells_thinking_tags": any(map(spells_tags, answers)),
        "ends_with_end_token": any(find_end_marks(text) >= 0 for text in answers),
    }
    return tuple(note for note, is_found in spelled.items() if is_found)


def _longest(examples: Sequence[Example]) -> int:
    return max((len(example.ids) for example in examples), default=0)


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
