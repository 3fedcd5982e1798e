"""Prompts of tasks: templates filled with a question and its worked examples, plain or through a chat template."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.evaluate.results import Control
from hanlin.evaluate.tasks.definition import LETTERS, Metric, Profile, Task
from hanlin.evaluate.tasks.items import Item, Items
from hanlin.tokenizer.tokenizer import Tokenizer

_FIELD = re.compile(r"\{(\w+)\}")
_LETTER_ONLY = {"zh": "请只回答正确选项的字母。", "en": "Answer with the letter of the correct choice only."}


@dataclass(frozen=True, slots=True)
class TaskRun:
    """How a task is asked in this run.

    Attributes:
        name: The task's name.
        task: Its definition.
        profile_name: The profile.
        profile: Its description.
        method: How answers are found: the profile's method, or `generate` instead of `choices`.
        chat: Whether questions are turns of a conversation.
        thinking: Whether the template is asked to think; None leaves it to the template.
        shots: Worked examples.
        max_new_tokens: The longest answer.
        control: Which control of the task this is (`format_control`); empty: the task itself.
    """

    name: str
    task: Task
    profile_name: str
    profile: Profile
    method: Literal["choices", "target", "generate"]
    chat: bool
    thinking: bool | None
    shots: int
    max_new_tokens: int
    control: Control = ""

    @property
    def by_letters(self) -> bool:
        """Whether the model sees the choices with their letters and answers with one of these."""
        return "{letter}" in self.profile.continuation or (self.chat and self.method != "target")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the answers: of letters that a model writes itself, whether they are right."""
        asks_letters = self.method == "generate" and self.profile.method == "choices"
        if asks_letters or (self.chat and self.method == "choices"):
            return (Metric(name="acc", compare="choice"),)
        return self.profile.metrics


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as it is asked.

    Attributes:
        item: The question.
        text: The prompt as text; of a conversation, its turns one after another.
        pairs: Of scored continuations: (prefix ids, continuation ids) for each choice, or for the target alone.
        texts: The same as texts, for a server that encodes them itself.
        ids: Of a generated answer: the prompt's ids.
        messages: Of a conversation: its turns.
        shots: Worked examples that fitted; None if not even the question alone did.
    """

    item: Item
    text: str
    pairs: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()
    texts: tuple[tuple[str, str], ...] = ()
    ids: tuple[int, ...] = ()
    messages: tuple[Message, ...] = field(default_factory=tuple)
    shots: int | None = None

    @property
    def sha256(self) -> str:
        """Hash of the prompt's text."""
        return hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).hexdigest()


def fill(template: str, item: Item, where: str, choice: int | None = None, by_letters: bool = False) -> str:
    """Fill a template with a question.

    Args:
        template: The template, fields in braces.
        item: The question.
        where: The task, for messages.
        choice: The number of the choice that `{choice}` and `{letter}` stand for.
        by_letters: Whether `{answer}` is the letter of the right choice, not its text.

    Raises:
        UserError: It names a field that the question does not have.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name == "choices":
            lines = zip(LETTERS, item.choices, strict=False)
            return "\n".join(f"{letter}. {text}" for letter, text in lines)
        if name == "choice" and choice is not None:
            return item.choices[choice]
        if name == "letter" and choice is not None:
            return LETTERS[choice]
        if name == "answer":
            if item.choices:
                return LETTERS[item.gold[0]] if by_letters else item.choices[item.gold[0]]
            return item.answers[0]
        if name not in item.fields:
            raise UserError(tr("its template names `{name}`, which its questions lack", name=name), where)
        return item.fields[name]

    return _FIELD.sub(value, template)


def has_chat_form(profile: Profile) -> bool:
    """Whether a profile asks what can be a turn of a conversation; else it continues a text."""
    return profile.method != "target" and "{choice}" not in profile.prompt and bool(profile.prompt)


class PromptBuilder:
    """Builds the prompts of one task for one model.

    Args:
        task_run: How the task is asked.
        tokenizer: The model's tokenizer; None for an address, which takes text.
        template: Its chat template, if questions are asked as a conversation.
        context_length: The most ids of prompt and answer.
        count_tokens: Of an address: counts the tokens of a text; None if the server refuses it.
    """

    def __init__(
        self,
        task_run: TaskRun,
        tokenizer: Tokenizer | None,
        template: ChatTemplate | None,
        context_length: int,
        count_tokens: Callable[[str], int | None] | None = None,
    ) -> None:
        self._asking, self._tokenizer, self._template = task_run, tokenizer, template
        self._limit, self._count_tokens = context_length, count_tokens
        self._where = task_run.name
        self._last: tuple[str, tuple[int, ...]] = ("", ())
        if task_run.chat:
            self._check_chat()

    def build(self, item: Item, items: Items) -> Prompt:
        """The prompt of a question with as many worked examples as fit, the last ones; itself is none of them.

        Raises:
            UserError: There are fewer worked examples than asked for, or they have no answers.
        """
        examples, pool = items.examples_of(item, self._asking.shots), items.pool_of(item)
        if len(pool) < self._asking.shots:
            what = tr(
                "{shots} worked examples are wanted, but there are {count} for {subject}",
                shots=self._asking.shots,
                count=len(pool),
                subject=item.subject or self._where,
            )
            raise UserError(what, self._where, tr("lower `shots`"))
        if not all(example.gold or example.answers for example in examples):
            what = tr("the worked examples of {subject} have no answers", subject=item.subject or self._where)
            raise UserError(what, self._where, tr("ask without them: `shots: 0`"))
        first = None
        for left_out in range(len(examples) + 1):
            prompt = self._encode(item, examples[left_out:])
            first = first or prompt
            if prompt.shots is not None:
                return prompt
        assert first is not None
        return first

    def _encode(self, item: Item, examples: Sequence[Item]) -> Prompt:
        """The prompt with these worked examples; its `shots` are None if it does not fit."""
        if self._asking.chat:
            return self._encode_chat(item, examples)
        task_run, profile = self._asking, self._asking.profile
        before = fill(profile.heading, item, self._where) + "".join(
            self._example(example) + profile.separator for example in examples
        )
        if task_run.method == "generate":
            text = before + (self._chat_question(item) if item.match else self._fill(profile.prompt, item))
            room = min(task_run.max_new_tokens, self._limit // 2)
            if self._tokenizer is None:
                return Prompt(item, text, shots=len(examples) if self._fits(text, room) else None)
            ids = self._ids(text)
            fits = len(ids) + room <= self._limit
            return Prompt(item, text, ids=ids, shots=len(examples) if fits else None)
        numbers: Sequence[int | None] = range(len(item.choices)) if task_run.method == "choices" else (None,)
        texts = [
            (before + self._fill(profile.prompt, item, number), self._fill(profile.continuation, item, number))
            for number in numbers
        ]
        shown = texts[0][0] if len({prompt for prompt, _ in texts}) == 1 else "\n".join("".join(pair) for pair in texts)
        if self._tokenizer is None:
            fits = all(self._fits(prompt + continuation, 0) for prompt, continuation in texts)
            return Prompt(item, shown, texts=tuple(texts), shots=len(examples) if fits else None)
        pairs = tuple(self._pair(prompt, continuation) for prompt, continuation in texts)
        fits = max(len(prefix) + len(continuation) for prefix, continuation in pairs) <= self._limit
        return Prompt(item, shown, pairs=pairs, shots=len(examples) if fits else None)

    def _fits(self, text: str, room: int) -> bool:
        """Whether a server's context holds a text. No text has more tokens than bytes, but for a begin token, so that
        the server is asked of long ones only.
        """
        if self._count_tokens is None or len(text.encode("utf-8", "surrogatepass")) + 1 + room <= self._limit:
            return True
        count = self._count_tokens(text)
        return count is not None and count + room <= self._limit

    def _example(self, example: Item) -> str:
        profile = self._asking.profile
        number = example.gold[0] if example.gold else None
        prompt = self._fill(profile.example_prompt or profile.prompt, example, number)
        return prompt + self._fill(profile.answer, example, number)

    def _fill(self, template: str, item: Item, choice: int | None = None) -> str:
        return fill(template, item, self._where, choice, self._asking.by_letters)

    # --- plain text ---

    def _ids(self, text: str) -> tuple[int, ...]:
        """A plain prompt as ids, with the begin token if the tokenizer adds one; the last one is remembered."""
        if text != self._last[0] or not text:
            tokenizer = self._tokenizer
            assert tokenizer is not None
            begin = (tokenizer.bos_id,) if tokenizer.adds_bos and tokenizer.bos_id is not None else ()
            self._last = (text, (*begin, *tokenizer.encode(text)))
        return self._last[1]

    def _pair(self, prompt: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt and continuation as ids, encoded together and cut where the prompt alone ends.

        White space at the end of the prompt goes to the continuation, as in lm-evaluation-harness
        (`TemplateLM._encode_pair`). A prompt without a token is the begin token, or the end token without one.
        """
        tokenizer = self._tokenizer
        assert tokenizer is not None
        if self._asking.profile.letter_token:
            return self._ids(prompt), tuple(tokenizer.encode(continuation)[:1])
        kept = prompt.rstrip()
        continuation = prompt[len(kept) :] + continuation
        if not kept:
            begin = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
            if begin is None:
                raise UserError(tr("the tokenizer has no token to begin a text with"), tokenizer.folder)
            return (begin,), tuple(tokenizer.encode(continuation))
        prefix = self._ids(kept)
        begin_count = int(tokenizer.adds_bos and tokenizer.bos_id is not None)
        whole = tokenizer.encode(kept + continuation)
        return prefix, tuple(whole[len(prefix) - begin_count :])

    # --- conversation ---

    def _check_chat(self) -> None:
        if not has_chat_form(self._asking.profile):
            what = tr("the task {task} continues texts and has no form as a conversation", task=self._where)
            raise UserError(what, "chat", tr("ask it as plain text"))
        template, thinking = self._template, self._asking.thinking
        if template is None:  # the server's own template, which nobody here can look at
            return
        if thinking is not None and not template.thinking_switches:
            raise UserError(tr("the chat template of this model has no switch for thinking"), "thinking")
        if self._asking.method == "choices" and (thinking or (thinking is None and template.opens_thinking)):
            what = tr("a model that thinks first does not begin its answer with a letter")
            raise UserError(what, "method", tr("set `method: generate`, or `thinking: false`"))

    def _chat_question(self, item: Item) -> str:
        """A question as a turn: of choices that its template does not show, with them; asked for the letter."""
        text = self._fill(self._asking.profile.prompt, item)
        if item.choices and "{choices}" not in self._asking.profile.prompt:
            lines = zip(LETTERS, item.choices, strict=False)
            text = "\n".join([text, *(f"{letter}. {choice}" for letter, choice in lines)])
        if item.choices and (self._asking.profile.method == "choices" or item.match == "choice"):
            text = f"{text}\n{_LETTER_ONLY[self._asking.task.language]}"
        return text

    def _encode_chat(self, item: Item, examples: Sequence[Item]) -> Prompt:
        task_run, profile = self._asking, self._asking.profile
        turns: list[Message] = []
        for example in examples:
            turns.append(Message("user", self._chat_question(example)))
            if example.choices and profile.method == "choices":
                turns.append(Message("assistant", LETTERS[example.gold[0]]))
            else:
                number = example.gold[0] if example.gold else None
                answer = fill(profile.answer, example, self._where, number, bool(example.choices))
                turns.append(Message("assistant", answer.strip()))
        if item.messages:
            *before, last = item.messages
            asked = replace(item, fields={**item.fields, "question": last.text})
            num_systems = next((index for index, turn in enumerate(before) if turn.role != "system"), len(before))
            asking = replace(last, text=self._chat_question(asked))
            turns = [*before[:num_systems], *turns, *before[num_systems:], asking]
        else:
            turns.append(Message("user", self._chat_question(item)))
        heading = fill(profile.heading, item, self._where)
        if heading:
            turns[0] = Message("user", heading + turns[0].text)
        text = "\n\n".join(turn.text for turn in turns)
        if self._template is None:  # an address renders itself
            return Prompt(item, text, messages=tuple(turns), shots=len(examples))
        ids = tuple(self._template.render(turns, prompt=True, thinking=task_run.thinking).ids)
        if task_run.method == "generate":
            fits = len(ids) + min(task_run.max_new_tokens, self._limit // 2) <= self._limit
            return Prompt(item, text, ids=ids, messages=tuple(turns), shots=len(examples) if fits else None)
        assert self._tokenizer is not None
        letters = [tuple(self._tokenizer.encode(letter, continuation=True)) for letter in LETTERS[: len(item.choices)]]
        fits = len(ids) + max(map(len, letters)) <= self._limit
        pairs = tuple((ids, letter) for letter in letters)
        return Prompt(item, text, pairs=pairs, messages=tuple(turns), shots=len(examples) if fits else None)
