"""What cleaning rules would do to files, rule by rule, without writing anything.

Owns the counting and the samples. The rules are `clean`'s, `conversations`' and `blocklists`'; what else a stage does
(lengths, copies, the held-out share) is not tried here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from hanlin.config.settings.data import Conversations, Corpus, Preferences, Reading, UnpairedPreferences
from hanlin.config.settings.rules import Rule
from hanlin.core.context import Inputs
from hanlin.core.records import Message
from hanlin.data.dedup.decontaminate import Questions
from hanlin.data.filters.blocklist import word_list_rules
from hanlin.data.filters.conversation import TURN_RULES, read_aloud
from hanlin.data.filters.rules import TextRule, text_rules
from hanlin.data.formats.base import Format, Found
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.documents import DOCUMENT_FORMATS, FoundText
from hanlin.data.formats.preferences import PAIR_FORMATS, Pair
from hanlin.data.formats.turns import Chat
from hanlin.data.formats.unpaired_preferences import JUDGED_FORMATS, Judged
from hanlin.data.io.encodings import Tape
from hanlin.data.io.sources import listing
from hanlin.data.ledger import Drop
from hanlin.data.report.preview import ANY_FORMATS

Turns = tuple[Message, ...]
_EXCERPT = 80
_AROUND = 20
_FORMATS: dict[type[Reading], Sequence[Format[Any]]] = {
    Corpus: DOCUMENT_FORMATS,
    Conversations: CHAT_FORMATS,
    Preferences: PAIR_FORMATS,
    UnpairedPreferences: JUDGED_FORMATS,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A record that a rule would drop or change: where it stands, what was found, and a piece of the text (of a change
    the place where it begins, before and after)."""

    place: str
    detail: str
    text: str
    after: str = ""


@dataclass(slots=True)
class Verdict:
    """What one rule would do: records changed, records dropped, and those among them that no earlier rule drops."""

    rule: str
    changes: int = 0
    drops: int = 0
    drops_first: int = 0
    changed: list[Sample] = field(default_factory=list)
    dropped: list[Sample] = field(default_factory=list)


@dataclass(slots=True)
class DryRun:
    """`unread` are rows that hold no record, by reason; `kept` those that no rule drops."""

    rows: int = 0
    kept: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    verdicts: dict[str, Verdict] = field(default_factory=dict)


def dry_run(
    settings: Reading, inputs: Inputs, *, known: bool = True, limit: int | None = None, samples: int = 3
) -> DryRun:
    """Try the rules of a stage's settings on its sources.

    Every rule sees every record, as the rules before it left it: one that an earlier rule would drop is still shown to
    the later ones, so that each rule's own effect is seen. `known` False tries the formats of all stages, and rules on
    turns apply to chats alone. Raises UserError for what cannot be read.
    """
    formats = _FORMATS[type(settings)] if known else ANY_FORMATS
    questions = None if settings.decontaminate is None else Questions.read(settings.decontaminate, inputs)
    steps = _steps(settings, inputs, questions)
    result = DryRun(verdicts={name: Verdict(name) for name, _ in steps})
    for found, place in _rows(settings, inputs, formats, limit):
        result.rows += 1
        if isinstance(found.item, Drop):
            result.unread[found.item.reason] += 1
            continue
        _try(_Record(*_turns(found.item)), steps, place, result, samples)
    return result


def _rows(
    settings: Reading, inputs: Inputs, formats: Sequence[Format[Any]], limit: int | None
) -> Iterator[tuple[Found[Any], str]]:
    for file in listing(settings.sources, inputs).files:
        with Tape(file.path) as tape:
            finds: Iterable[Found[Any]] = open_records(file, tape, formats, {}).finds
            for found in islice(finds, limit):
                yield found, f"{file.name}:{found.line}"


@dataclass(frozen=True, slots=True)
class _Record:
    """The turns of a record (a document is one), and whether they are a conversation that rules on turns judge."""

    turns: Turns
    conversation: bool


_Step = tuple[str, Callable[[_Record], Turns | Drop]]


def _turns(item: Any) -> tuple[Turns, bool]:
    if isinstance(item, FoundText):
        return (Message("user", item.text),), False
    if isinstance(item, Chat):
        return item.messages, True
    if isinstance(item, Pair):
        return (*item.prompt, item.chosen, item.rejected), False
    assert isinstance(item, Judged)
    return (*item.prompt, item.answer), False


def _steps(settings: Reading, inputs: Inputs, questions: Questions | None) -> list[_Step]:
    """Every rule as a function of turns, in the order in which the stages apply them."""
    rules: tuple[Rule, ...] = getattr(settings, "rules", ())
    texts = [*text_rules(rules), *word_list_rules(settings.blocklists, inputs)]
    steps: list[_Step] = [(name, partial(_on_text, rule)) for name, rule in texts]
    for rule in rules:
        if rule.name in TURN_RULES:
            steps.append((rule.name, partial(_on_turns, partial(TURN_RULES[rule.name], **rule.parameters))))
    if questions is not None:
        steps.append(("contaminated", partial(_on_questions, questions)))
    return steps


def _on_text(rule: TextRule, record: _Record) -> Turns | Drop:
    turns = []
    for turn in record.turns:
        after = rule(turn.text) if turn.text else turn.text
        if isinstance(after, Drop):
            return after
        turns.append(replace(turn, text=after))
    return tuple(turns)


def _on_turns(rule: Callable[[Turns], Turns | Drop], record: _Record) -> Turns | Drop:
    return rule(record.turns) if record.conversation else record.turns


def _on_questions(questions: Questions, record: _Record) -> Turns | Drop:
    held = questions.found(read_aloud(record.turns))
    return Drop("contaminated", "、".join(question.id for question in held[:5])) if held else record.turns


def _try(record: _Record, steps: Sequence[_Step], place: str, result: DryRun, samples: int) -> None:
    try:
        read_aloud(record.turns).encode("utf-8")
    except UnicodeEncodeError:
        result.unread["broken_characters"] += 1
        return
    lost = False
    for name, rule in steps:
        verdict = result.verdicts[name]
        after = rule(record)
        if isinstance(after, Drop):
            verdict.drops += 1
            verdict.drops_first += not lost
            lost = True
            if len(verdict.dropped) < samples:
                verdict.dropped.append(Sample(place, after.detail, _excerpt(read_aloud(record.turns))))
        elif after != record.turns:
            verdict.changes += 1
            if len(verdict.changed) < samples:
                verdict.changed.append(_change(place, read_aloud(record.turns), read_aloud(after)))
            record = replace(record, turns=after)
    result.kept += not lost


def _change(place: str, before: str, after: str) -> Sample:
    same = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, same - _AROUND)
    return Sample(place, "", _excerpt(before[start:]), _excerpt(after[start:]))


def _excerpt(text: str) -> str:
    """The beginning of a text on one line, with what cannot be seen written out."""
    shown = text[:_EXCERPT].replace("\n", "⏎")
    shown = "".join(char if char.isprintable() else f"<U+{ord(char):04X}>" for char in shown)
    return shown + "…" * (len(text) > _EXCERPT)
