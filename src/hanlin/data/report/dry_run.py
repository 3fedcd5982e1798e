"""What cleaning rules would do to files, rule by rule, without writing anything.

Rules on text, on turns, blocklists and decontamination are tried. What else a stage does (length limits, deduplication,
the validation split) is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

from hanlin.config.settings.data import Conversations, Corpus, Preferences, Reading, UnpairedPreferences
from hanlin.config.settings.rules import ALL_PREFERENCE_RULES, ANSWER_RULES, TEXT_RULES, Rule
from hanlin.core.context import Inputs
from hanlin.core.records import Message
from hanlin.data.dedup.decontaminate import QuestionIndex
from hanlin.data.filters.answers import AnswerRule, build_answer_rules, judge_answers
from hanlin.data.filters.blocklist import build_blocklist_rules
from hanlin.data.filters.conversation import TURN_RULES, join_texts
from hanlin.data.filters.rules import TextRule, build_quality_rules, build_text_rules
from hanlin.data.formats.base import Format, ParsedRow
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.documents import ParsedText
from hanlin.data.formats.preferences import ParsedPreference
from hanlin.data.formats.registry import ANY_FORMATS, FORMATS_BY_STAGE
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.unpaired_preferences import ParsedUnpaired
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import list_files
from hanlin.data.ledger import Drop

Turns = tuple[Message, ...]
_EXCERPT_CHARS = 80
_CONTEXT_CHARS = 20
_STAGES: dict[type[Reading], str] = {
    Corpus: "corpus",
    Conversations: "conversations",
    Preferences: "preferences",
    UnpairedPreferences: "unpaired_preferences",
}


@dataclass(frozen=True, slots=True)
class RuleExample:
    """A record that a rule would drop or change.

    Attributes:
        location: `file:line`.
        detail: What the rule found, for a dropped record.
        text: The beginning of the text; of a changed record from shortly before the change.
        after: The same part after the change.
    """

    location: str
    detail: str
    text: str
    after: str = ""


@dataclass(slots=True)
class RuleEffect:
    """What one rule would do: records changed, records dropped, and those of them that no earlier rule drops."""

    rule: str
    changes: int = 0
    drops: int = 0
    first_drops: int = 0
    changed: list[RuleExample] = field(default_factory=list)
    dropped: list[RuleExample] = field(default_factory=list)


@dataclass(slots=True)
class DryRun:
    """Counts over all rules.

    Attributes:
        rows: Rows read.
        kept: Records that no rule drops.
        unread: Rows that hold no record, by reason.
        effects: The effect of each rule by name.
    """

    rows: int = 0
    kept: int = 0
    unread: Counter[str] = field(default_factory=Counter)
    effects: dict[str, RuleEffect] = field(default_factory=dict)


def dry_run(
    settings: Reading, inputs: Inputs, *, stage_formats_only: bool = True, limit: int | None = None, samples: int = 3
) -> DryRun:
    """Try the rules of a stage's settings on its sources, without writing anything.

    Every rule sees every record as the rules before it left it. A record that an earlier rule would drop is still
    given to the later ones, so that each rule's own effect is counted.

    Args:
        settings: Settings of a reading stage: sources and rules.
        inputs: Paths of the sources, blocklists and evaluation sets.
        stage_formats_only: Detect only the formats of the stage; otherwise those of all stages, and rules on turns
            apply to conversations alone.
        limit: Rows read from each file; None for all.
        samples: Examples kept for each rule, of changes and of drops.

    Raises:
        UserError: A file cannot be read or has no known format.
    """
    formats = FORMATS_BY_STAGE[_STAGES[type(settings)]] if stage_formats_only else ANY_FORMATS
    questions = None if settings.decontaminate is None else QuestionIndex.read(settings.decontaminate, inputs)
    steps = _build_steps(settings, inputs, questions)
    result = DryRun(effects={name: RuleEffect(name) for name, _ in steps})
    for parsed, location in _read_rows(settings, inputs, formats, limit):
        result.rows += 1
        if isinstance(parsed.item, Drop):
            result.unread[parsed.item.reason] += 1
            continue
        _try_rules(_Record(*_record_turns(parsed.item)), steps, location, result, samples)
    return result


def _read_rows(
    settings: Reading, inputs: Inputs, formats: Sequence[Format[Any]], limit: int | None
) -> Iterator[tuple[ParsedRow[Any], str]]:
    for file in list_files(settings.sources, inputs).files:
        with InputFile(file.path) as input_file:
            rows: Iterable[ParsedRow[Any]] = open_records(file, input_file, formats).rows
            for parsed in islice(rows, limit):
                yield parsed, f"{file.name}:{parsed.line}"


@dataclass(frozen=True, slots=True)
class _Record:
    """The turns of a record (a document is one turn), and what it is: rules on turns apply to conversations alone."""

    turns: Turns
    conversation: bool
    document: bool = False


_Step = tuple[str, Callable[[_Record], Turns | Drop]]


def _record_turns(item: Any) -> tuple[Turns, bool, bool]:
    if isinstance(item, ParsedText):
        return (Message("user", item.text),), False, True
    if isinstance(item, ParsedChat):
        return item.messages, True, False
    if isinstance(item, ParsedPreference):
        return (*item.prompt, item.chosen, item.rejected), False, False
    assert isinstance(item, ParsedUnpaired)
    return (*item.prompt, item.answer), False, False


def _build_steps(settings: Reading, inputs: Inputs, questions: QuestionIndex | None) -> list[_Step]:
    """Build every rule as a function of turns, in the order in which the stages apply them."""
    rules: tuple[Rule, ...] = getattr(settings, "rules", ())
    texts = [*build_text_rules(rules, chats=True), *build_blocklist_rules(settings.blocklists, inputs)]
    if isinstance(settings, Corpus):
        blocklists = build_blocklist_rules(settings.blocklists, inputs)
        texts = [*build_text_rules(rules), *blocklists, *build_quality_rules(settings.quality, inputs)]
    steps: list[_Step] = [(name, partial(_apply_to_texts, rule)) for name, rule in texts]
    for rule in rules:
        if rule.name in ANSWER_RULES and not isinstance(settings, Corpus):
            steps.append((rule.name, partial(_judge_answers, rule, build_answer_rules([rule]))))
    for rule in rules:
        if rule.name in TURN_RULES:
            apply = _apply_to_answers if rule.name in ALL_PREFERENCE_RULES else _apply_to_turns
            steps.append((rule.name, partial(apply, partial(TURN_RULES[rule.name], **rule.parameters))))
    if questions is not None:
        steps.append(("contaminated", partial(_find_contamination, questions)))
    return steps


def _apply_to_texts(rule: TextRule, record: _Record) -> Turns | Drop:
    turns = []
    for turn in record.turns:
        after = rule(turn.text) if turn.text else turn.text
        if isinstance(after, Drop):
            return after
        turns.append(replace(turn, text=after))
    return tuple(turns)


def _judge_answers(rule: Rule, rules: Sequence[tuple[str, AnswerRule]], record: _Record) -> Turns | Drop:
    """Judge the answers of a record; a document as `corpus` does, with its defaults for what the rule does not set."""
    if record.document:
        defaults = ANSWER_RULES[rule.name]
        own = {key: rule.parameters[key] for key in TEXT_RULES[rule.name] if rule.parameters[key] != defaults[key]}
        (_, text_rule), *_ = build_text_rules([Rule(name=rule.name, parameters={**TEXT_RULES[rule.name], **own})])
        return _apply_to_texts(text_rule, record)
    return judge_answers(record.turns, rules) or record.turns


def _apply_to_turns(rule: Callable[[Turns], Turns | Drop], record: _Record) -> Turns | Drop:
    return rule(record.turns) if record.conversation else record.turns


def _apply_to_answers(rule: Callable[[Turns], Turns | Drop], record: _Record) -> Turns | Drop:
    return record.turns if record.document else rule(record.turns)


def _find_contamination(questions: QuestionIndex, record: _Record) -> Turns | Drop:
    matches = questions.find(join_texts(record.turns))
    return Drop("contaminated", "、".join(question.id for question in matches[:5])) if matches else record.turns


def _try_rules(record: _Record, steps: Sequence[_Step], location: str, result: DryRun, samples: int) -> None:
    try:
        join_texts(record.turns).encode("utf-8")
    except UnicodeEncodeError:
        result.unread["broken_characters"] += 1
        return
    is_dropped = False
    for name, rule in steps:
        effect = result.effects[name]
        after = rule(record)
        if isinstance(after, Drop):
            effect.drops += 1
            effect.first_drops += not is_dropped
            is_dropped = True
            if len(effect.dropped) < samples:
                effect.dropped.append(RuleExample(location, after.detail, _excerpt(join_texts(record.turns))))
        elif after != record.turns:
            effect.changes += 1
            if len(effect.changed) < samples:
                effect.changed.append(_show_change(location, join_texts(record.turns), join_texts(after)))
            record = replace(record, turns=after)
    result.kept += not is_dropped


def _show_change(location: str, before: str, after: str) -> RuleExample:
    first_difference = next(
        (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, first_difference - _CONTEXT_CHARS)
    return RuleExample(location, "", _excerpt(before[start:]), _excerpt(after[start:]))


def _excerpt(text: str) -> str:
    """The beginning of a text on one line, with invisible characters written as code points."""
    shown = text[:_EXCERPT_CHARS].replace("\n", "⏎")
    shown = "".join(char if char.isprintable() else f"<U+{ord(char):04X}>" for char in shown)
    return shown + "…" * (len(text) > _EXCERPT_CHARS)
