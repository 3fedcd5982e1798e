"""Formats of preference pairs: a prompt, a chosen and a rejected answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import Format, collect_meta, strip_turn
from hanlin.data.formats.content.media import check_media
from hanlin.data.formats.questions import join_question
from hanlin.data.formats.tagged import parse_tagged_turns
from hanlin.data.formats.turns import finish_turns, read_turn, read_turns
from hanlin.data.ledger import Drop


@dataclass(frozen=True, slots=True)
class ParsedPreference:
    """A prompt, two answers to it, and their scores (chosen, rejected) if the row has them."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    scores: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


_SCORE_FIELDS = (
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen-rating", "rejected-rating"),
)
_ZH_ANSWER_FIELDS = ("answer_zh", "zh", "chinese", "response_zh", "output_zh", "chosen_zh", "中文", "中文回答")
_EN_ANSWER_FIELDS = ("answer_en", "en", "english", "response_en", "output_en", "rejected_en", "英文", "英文回答")
_QUESTION_FIELDS = ("prompt", "question", "query", "instruction", "input", "问题")
_CHOSEN_FIELDS = ("chosen", "response_j", "response_chosen", "chosen_response", "preferred", "good", "accepted")
_REJECTED_FIELDS = ("rejected", "response_k", "response_rejected", "rejected_response", "dispreferred", "bad")
_USED_FIELDS = (
    "chosen",
    "rejected",
    "prompt",
    "messages",
    "conversations",
    "system",
    "instruction",
    "input",
    "id",
    "source",
)


def _has_both_answers(row: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("chosen"), kind) and isinstance(row.get("rejected"), kind)


def _build_preference(
    row: Mapping[str, Any], prompt: Sequence[Message], chosen: Message, rejected: Message
) -> ParsedPreference | Drop:
    if not prompt or prompt[-1].role not in ("user", "tool") or not prompt[-1].text.strip():
        return Drop("no_question")
    system = row.get("system")
    if isinstance(system, str) and system.strip() and prompt[0].role != "system":
        prompt = (Message("system", strip_turn(system)), *prompt)
    media = check_media(row, (*prompt, chosen, rejected))
    finished = finish_turns(prompt)
    for part in (media, finished):
        if isinstance(part, Drop):
            return part
    assert not isinstance(finished, Drop)
    return ParsedPreference(finished, chosen, rejected, _read_scores(row), collect_meta(row, _USED_FIELDS))


def _read_scores(row: Mapping[str, Any]) -> tuple[float, float] | None:
    for chosen_field, rejected_field in _SCORE_FIELDS:
        if isinstance(row.get(chosen_field), int | float) and isinstance(row.get(rejected_field), int | float):
            return float(row[chosen_field]), float(row[rejected_field])
    return None


def _read_answer(value: Any) -> Message | Drop:
    """Read an answer written as a turn or as text."""
    turn = read_turn({"role": "assistant", "content": value} if isinstance(value, str) else value)
    return turn if isinstance(turn, Drop) or turn.role == "assistant" else Drop("unknown_role", turn.role)


def _read_preference(
    row: Mapping[str, Any], prompt: Sequence[Message] | Drop, chosen: Any, rejected: Any
) -> Iterator[ParsedPreference | Drop]:
    chosen_turn, rejected_turn = _read_answer(chosen), _read_answer(rejected)
    for part in (prompt, chosen_turn, rejected_turn):
        if isinstance(part, Drop):
            yield part
            return
    yield _build_preference(row, prompt, chosen_turn, rejected_turn)  # type: ignore[arg-type]


def _is_paired_messages(value: Any) -> bool:
    return _has_both_answers(value, list) and all(
        isinstance(turn, Mapping) for turn in [*value["chosen"], *value["rejected"]]
    )


def read_paired_messages(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read {prompt?, chosen: [turns], rejected: [turns]}: both lists begin with the same prompt, or hold one answer."""
    if not _has_both_answers(value, list) or not value["chosen"] or not value["rejected"]:
        yield Drop("no_answer" if isinstance(value, Mapping) else "other_format")
        return
    chosen, rejected = read_turns(value["chosen"]), read_turns(value["rejected"])
    prompt_field = value.get("prompt")
    prompt_turns = read_turns(prompt_field) if isinstance(prompt_field, list) else ()
    for part in (chosen, rejected, prompt_turns):
        if isinstance(part, Drop):
            yield part
            return
    assert not isinstance(chosen, Drop) and not isinstance(rejected, Drop) and not isinstance(prompt_turns, Drop)
    if chosen[:-1] != rejected[:-1]:
        yield Drop("different_prompts")
        return
    prompt = (
        chosen[:-1] if chosen[: len(prompt_turns)] == prompt_turns and len(chosen) > 1 else prompt_turns + chosen[:-1]
    )
    if not prompt and isinstance(prompt_field, str):
        prompt = (Message("user", strip_turn(prompt_field)),)
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        yield Drop("no_answer")
        return
    yield _build_preference(value, prompt, chosen[-1], rejected[-1])


def _find_prompt_turns(value: Any) -> list[Any] | None:
    if not isinstance(value, Mapping):
        return None
    return next(
        (value[name] for name in ("conversations", "messages", "prompt") if isinstance(value.get(name), list)), None
    )


def _is_paired_sharegpt(value: Any) -> bool:
    return (_has_both_answers(value, Mapping) or _has_both_answers(value, str)) and _find_prompt_turns(
        value
    ) is not None


def read_paired_sharegpt(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read {conversations: [turns], chosen: turn, rejected: turn}, also Hanlin's own {prompt, chosen, rejected}."""
    turns = _find_prompt_turns(value)
    if turns is None:
        yield Drop("other_format")
        return
    yield from _read_preference(value, read_turns(turns), value.get("chosen", ""), value.get("rejected", ""))


def _is_paired_alpaca(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("instruction"), str):
        return False
    return _has_both_answers(value, str) or _find_ranked_output(value) is not None


def _find_ranked_output(row: Mapping[str, Any]) -> list[str] | None:
    """Find the two answers of an older form of pairs: a list as output, the better one first."""
    output = row.get("output")
    both = isinstance(output, list) and len(output) == 2 and all(isinstance(text, str) for text in output)
    return output if both else None


def read_paired_alpaca(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read {instruction, input, chosen, rejected} with answers as text, or {instruction, input, output: [chosen,
    rejected]}.
    """
    if not isinstance(value, Mapping):
        yield Drop("other_format")
        return
    prompt = (Message("user", join_question(value, "instruction")),)
    chosen, rejected = _find_ranked_output(value) or (value.get("chosen", ""), value.get("rejected", ""))
    yield from _read_preference(value, prompt, chosen, rejected)


def _first_key(value: Any, names: Sequence[str]) -> str | None:
    if not isinstance(value, Mapping):
        return None
    return next((name for name in names if isinstance(value.get(name), str)), None)


def _is_language_pair(value: Any) -> bool:
    return bool(
        _first_key(value, _QUESTION_FIELDS)
        and _first_key(value, _ZH_ANSWER_FIELDS)
        and _first_key(value, _EN_ANSWER_FIELDS)
    )


def read_language_pair(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read a question with a Chinese answer, which is chosen, and an English one, which is rejected."""
    question, chosen, rejected = (
        _first_key(value, names) for names in (_QUESTION_FIELDS, _ZH_ANSWER_FIELDS, _EN_ANSWER_FIELDS)
    )
    if question is None or chosen is None or rejected is None:
        yield Drop("no_question" if question is None else "no_answer")
        return
    prompt = (Message("user", strip_turn(value[question])),)
    yield from _read_preference(value, prompt, value[chosen], value[rejected])


def _is_paired_answers(value: Any) -> bool:
    if _has_both_answers(value, str) and _first_key(value, _QUESTION_FIELDS) is None:
        return not isinstance(parse_tagged_turns(value["chosen"]), Drop)
    return bool(
        _first_key(value, _QUESTION_FIELDS)
        and _first_key(value, _CHOSEN_FIELDS)
        and _first_key(value, _REJECTED_FIELDS)
    )


def read_paired_answers(value: Any) -> Iterator[ParsedPreference | Drop]:
    """Read {prompt, chosen, rejected} as texts under any of their usual names; the prompt may be inside both texts
    (`Human: ... Assistant: ...`).
    """
    question, chosen, rejected = (
        _first_key(value, names) for names in (_QUESTION_FIELDS, _CHOSEN_FIELDS, _REJECTED_FIELDS)
    )
    if chosen is None or rejected is None:
        yield Drop("no_answer" if isinstance(value, Mapping) else "other_format")
        return
    if question is not None:
        more_fields = ("input",) if question == "prompt" else ()
        yield from _read_preference(
            value, (Message("user", join_question(value, question, more_fields)),), value[chosen], value[rejected]
        )
        return
    chosen_turns, rejected_turns = parse_tagged_turns(value[chosen]), parse_tagged_turns(value[rejected])
    if isinstance(chosen_turns, Drop) or isinstance(rejected_turns, Drop):
        yield Drop("no_question")
    elif chosen_turns[:-1] != rejected_turns[:-1]:
        yield Drop("different_prompts")
    elif chosen_turns[-1].role != "assistant" or rejected_turns[-1].role != "assistant":
        yield Drop("no_answer")
    else:
        yield from _read_preference(value, chosen_turns[:-1], chosen_turns[-1].text, rejected_turns[-1].text)


PREFERENCE_FORMATS: tuple[Format[ParsedPreference], ...] = (
    Format("paired_messages", _is_paired_messages, read_paired_messages),
    Format("paired_sharegpt", _is_paired_sharegpt, read_paired_sharegpt),
    Format("paired_alpaca", _is_paired_alpaca, read_paired_alpaca),
    Format("language_pairs", _is_language_pair, read_language_pair),
    Format("paired_answers", _is_paired_answers, read_paired_answers),
)
