"""The formats that hold preference pairs: a prompt, a chosen and a rejected answer.

Owns the way from a row to a pair. Does not judge the answers (`preferences`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanlin.core.records import Message
from hanlin.data.formats.base import Format, side_facts, tidy
from hanlin.data.formats.chats import question_of, tagged_turns
from hanlin.data.formats.turns import read_turn, read_turns
from hanlin.data.ledger import Drop


@dataclass(frozen=True, slots=True)
class Pair:
    """A prompt, two answers to it, and their scores where the file gives them."""

    prompt: tuple[Message, ...]
    chosen: Message
    rejected: Message
    scores: tuple[float, float] | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


_SCORES = (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score"), ("chosen-rating", "rejected-rating"))
_ZH_ANSWERS = ("answer_zh", "zh", "chinese", "response_zh", "output_zh", "chosen_zh", "中文", "中文回答")
_EN_ANSWERS = ("answer_en", "en", "english", "response_en", "output_en", "rejected_en", "英文", "英文回答")
_QUESTIONS = ("prompt", "question", "query", "instruction", "input", "问题")
_CHOSEN = ("chosen", "response_j", "response_chosen", "chosen_response", "preferred", "good", "accepted")
_REJECTED = ("rejected", "response_k", "response_rejected", "rejected_response", "dispreferred", "bad")
_USED = ("chosen", "rejected", "prompt", "messages", "conversations", "system", "instruction", "input", "id", "source")


def _two(row: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(row, Mapping) and isinstance(row.get("chosen"), kind) and isinstance(row.get("rejected"), kind)


def _pair(row: Mapping[str, Any], prompt: Sequence[Message], chosen: Message, rejected: Message) -> Pair | Drop:
    if not prompt or prompt[-1].role not in ("user", "tool") or not prompt[-1].text.strip():
        return Drop("no_question")
    system = row.get("system")
    if isinstance(system, str) and system.strip() and prompt[0].role != "system":
        prompt = (Message("system", tidy(system)), *prompt)
    return Pair(tuple(prompt), chosen, rejected, _scores(row), side_facts(row, _USED))


def _scores(row: Mapping[str, Any]) -> tuple[float, float] | None:
    for better, worse in _SCORES:
        if isinstance(row.get(better), int | float) and isinstance(row.get(worse), int | float):
            return float(row[better]), float(row[worse])
    return None


def _answer(value: Any) -> Message | Drop:
    """An answer written as a turn or as text."""
    turn = Message("assistant", tidy(value)) if isinstance(value, str) else read_turn(value)
    return turn if isinstance(turn, Drop) or turn.role == "assistant" else Drop("unknown_role", turn.role)


def _answered(
    row: Mapping[str, Any], prompt: Sequence[Message] | Drop, chosen: Any, rejected: Any
) -> Iterator[Pair | Drop]:
    better, worse = _answer(chosen), _answer(rejected)
    for part in (prompt, better, worse):
        if isinstance(part, Drop):
            yield part
            return
    yield _pair(row, prompt, better, worse)  # type: ignore[arg-type]


def _is_paired_messages(value: Any) -> bool:
    return _two(value, list) and all(isinstance(turn, Mapping) for turn in [*value["chosen"], *value["rejected"]])


def read_paired_messages(value: Any) -> Iterator[Pair | Drop]:
    """{prompt?, chosen: [turns], rejected: [turns]}: both lists hold the same prompt, or only their answer."""
    if not _two(value, list) or not value["chosen"] or not value["rejected"]:
        yield Drop("no_answer" if isinstance(value, Mapping) else "other_format")
        return
    chosen, rejected = read_turns(value["chosen"]), read_turns(value["rejected"])
    shown = value.get("prompt")
    given = read_turns(shown) if isinstance(shown, list) else ()
    for part in (chosen, rejected, given):
        if isinstance(part, Drop):
            yield part
            return
    assert not isinstance(chosen, Drop) and not isinstance(rejected, Drop) and not isinstance(given, Drop)
    if chosen[:-1] != rejected[:-1]:
        yield Drop("different_prompts")
        return
    prompt = chosen[:-1] if chosen[: len(given)] == given and len(chosen) > 1 else given + chosen[:-1]
    if not prompt and isinstance(shown, str):
        prompt = (Message("user", tidy(shown)),)
    if chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        yield Drop("no_answer")
        return
    yield _pair(value, prompt, chosen[-1], rejected[-1])


def _prompt_turns(value: Any) -> list[Any] | None:
    if not isinstance(value, Mapping):
        return None
    return next(
        (value[name] for name in ("conversations", "messages", "prompt") if isinstance(value.get(name), list)), None
    )


def _is_paired_sharegpt(value: Any) -> bool:
    return (_two(value, Mapping) or _two(value, str)) and _prompt_turns(value) is not None


def read_paired_sharegpt(value: Any) -> Iterator[Pair | Drop]:
    """{conversations: [turns], chosen: turn, rejected: turn}; Hanlin's own {prompt: [turns], chosen, rejected} too."""
    turns = _prompt_turns(value)
    if turns is None:
        yield Drop("other_format")
        return
    yield from _answered(value, read_turns(turns), value.get("chosen", ""), value.get("rejected", ""))


def _is_paired_alpaca(value: Any) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("instruction"), str):
        return False
    return _two(value, str) or _ranked(value) is not None


def _ranked(row: Mapping[str, Any]) -> list[str] | None:
    """The two answers of an older way to write pairs: a list as output, the better one first."""
    output = row.get("output")
    both = isinstance(output, list) and len(output) == 2 and all(isinstance(text, str) for text in output)
    return output if both else None


def read_paired_alpaca(value: Any) -> Iterator[Pair | Drop]:
    """{instruction, input, chosen, rejected}, the answers as text; or {instruction, input, output: [better, worse]}."""
    if not isinstance(value, Mapping):
        yield Drop("other_format")
        return
    prompt = (Message("user", question_of(value, "instruction")),)
    chosen, rejected = _ranked(value) or (value.get("chosen", ""), value.get("rejected", ""))
    yield from _answered(value, prompt, chosen, rejected)


def _named(value: Any, names: Sequence[str]) -> str | None:
    if not isinstance(value, Mapping):
        return None
    return next((name for name in names if isinstance(value.get(name), str)), None)


def _is_language_pair(value: Any) -> bool:
    return bool(_named(value, _QUESTIONS) and _named(value, _ZH_ANSWERS) and _named(value, _EN_ANSWERS))


def read_language_pair(value: Any) -> Iterator[Pair | Drop]:
    """One question with a Chinese answer, which is chosen, and an English one."""
    asked, chosen, rejected = (_named(value, names) for names in (_QUESTIONS, _ZH_ANSWERS, _EN_ANSWERS))
    if asked is None or chosen is None or rejected is None:
        yield Drop("no_question" if asked is None else "no_answer")
        return
    prompt = (Message("user", tidy(value[asked])),)
    yield from _answered(value, prompt, value[chosen], value[rejected])


def _is_paired_answers(value: Any) -> bool:
    if _two(value, str) and _named(value, _QUESTIONS) is None:
        return not isinstance(tagged_turns(value["chosen"]), Drop)
    return bool(_named(value, _QUESTIONS) and _named(value, _CHOSEN) and _named(value, _REJECTED))


def read_paired_answers(value: Any) -> Iterator[Pair | Drop]:
    """{prompt, chosen, rejected} as texts under any of their usual names, with or without the prompt inside both texts
    (`Human: ... Assistant: ...`)."""
    asked, chosen, rejected = (_named(value, names) for names in (_QUESTIONS, _CHOSEN, _REJECTED))
    if chosen is None or rejected is None:
        yield Drop("no_answer" if isinstance(value, Mapping) else "other_format")
        return
    if asked is not None:
        more = ("input",) if asked == "prompt" else ()
        yield from _answered(value, (Message("user", question_of(value, asked, more)),), value[chosen], value[rejected])
        return
    better, worse = tagged_turns(value[chosen]), tagged_turns(value[rejected])
    if isinstance(better, Drop) or isinstance(worse, Drop):
        yield Drop("no_question")
    elif better[:-1] != worse[:-1]:
        yield Drop("different_prompts")
    elif better[-1].role != "assistant" or worse[-1].role != "assistant":
        yield Drop("no_answer")
    else:
        yield _pair(value, better[:-1], better[-1], worse[-1])


PAIR_FORMATS: tuple[Format[Pair], ...] = (
    Format("paired_messages", _is_paired_messages, read_paired_messages),
    Format("paired_sharegpt", _is_paired_sharegpt, read_paired_sharegpt),
    Format("paired_alpaca", _is_paired_alpaca, read_paired_alpaca),
    Format("language_pairs", _is_language_pair, read_language_pair),
    Format("paired_answers", _is_paired_answers, read_paired_answers),
)
