"""What an answer is worth: extraction of the answer from what a model wrote, and metrics from 0 to 1."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hanlin.chat.reasoning import BEGIN_TAG, END_TAG
from hanlin.evaluate.scoring import is_correct, normalize_answer
from hanlin.evaluate.tasks.definition import LETTERS, Metric
from hanlin.evaluate.tasks.ifeval import follows
from hanlin.evaluate.tasks.items import Item

_NUMBER = re.compile(r"(?:(?<![\d.])[-−])?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?(?:\s?%)?")
_FRACTION = re.compile(r"\(*\s*(\d+)\s*/\s*(\d+)\s*\)*")
_STATED = (
    r"答案\s*(?:应该?|可能)?(?:是|为|选|：|:)*\s*[（(\[【*“\"]*({0})(?![A-Za-z])",
    r"(?:故|应|因此|所以|正确的?是?)\s*(?:选择?|选项)?\s*(?:是|为|：|:)?\s*[（(\[【*“\"]*({0})(?![A-Za-z])",
    r"选(?:择|项)?\s*(?:是|为|：|:)?\s*[（(\[【*“\"]*({0})(?![A-Za-z])",
    r"(?i:answer|choice|option)\s*(?i:is|would be|:)?\s*(?i:option|choice)?\s*[(\[*\"]*({0})(?![A-Za-z])",
    r"\\boxed\{{\s*(?:\\text\{{)?\s*({0})(?![A-Za-z])",
)
_LEADING = r"^[\s（(\[【*“\"]*({0})(?:[\s.．。,，、:：;；)）\]】*”\"]|$)"

_LISTED = re.compile(r"[(\[]?([A-Z])\s*[.。、:)\]]*\s*(.*)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model made of a question.

    Attributes:
        logprobs: Log probability of each choice, or of the target alone.
        greedy: Whether greedy decoding gives the target.
        output: What was written, without special tokens; `finish` and `tokens` say why it ended and its length.
    """

    logprobs: tuple[float, ...] = ()
    greedy: bool = False
    output: str = ""
    finish: str = ""
    tokens: int = 0


def chosen(item: Item, outcome: Outcome, by_length: bool = False) -> int:
    """The number of the likeliest choice; of equals the first. `by_length`: per character of the choice."""
    lengths = [max(1, len(choice)) if by_length else 1 for choice in item.choices]
    values = [logprob / length for logprob, length in zip(outcome.logprobs, lengths, strict=True)]
    return max(range(len(values)), key=lambda index: (values[index], -index))


_THOUGHT = re.compile(f"{BEGIN_TAG}.*?(?:{END_TAG}|$)", re.DOTALL)


def answer_part(output: str) -> str:
    """What a model wrote beside its reasoning.

    Blocks of reasoning are left out, wherever they are, and what is before an end of one whose begin is not there. Of
    a block that never ends nothing counts: the model did not come to an answer.
    """
    return _THOUGHT.sub("", output).rpartition(END_TAG)[2]


def find_end(output: str, until: Sequence[str]) -> int | None:
    """Where the first text that ends an answer begins, after the reasoning; None if there is none yet."""
    start = output.rfind(END_TAG) + len(END_TAG) if END_TAG in output else 0
    if BEGIN_TAG in output[start:]:
        return None
    return min((at for stop in until if (at := output.find(stop, start)) >= 0), default=None)


def extract_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that an open answer chooses: that of the choice whose text is the whole answer, a stated one, a
    leading one, the only one, or that of the only choice whose text it holds; None if there is none. Who repeats the
    list of choices has chosen none of them yet.
    """
    text = unicodedata.normalize("NFKC", answer_part(text)).strip()
    equal = [index for index, choice in enumerate(choices) if _bare(choice) == _bare(text)]
    if len(equal) == 1 and not re.fullmatch("[a-z]", _bare(text)):  # "Vitamin C", "A cat": no letters
        return LETTERS[equal[0]]
    letters = f"[{LETTERS[: len(choices)]}]"
    for pattern in _STATED:
        matches = re.findall(pattern.format(letters), text)
        if matches:
            return str(matches[-1])
    text = _leave_out_lists(text, choices)
    match = re.search(_LEADING.format(letters), text)
    if match:
        return match[1]
    alone = set(re.findall(rf"(?<![A-Za-z])({letters})(?![A-Za-z'])", text))
    if len(alone) == 1:
        return str(alone.pop())
    held = [index for index, choice in enumerate(choices) if choice.strip() and choice.strip() in text]
    return LETTERS[held[0]] if len(held) == 1 else None


def _leave_out_lists(text: str, choices: Sequence[str]) -> str:
    """A text without the lines that repeat the first choices, two or more, each behind its letter."""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    kept: list[str] = []
    while lines:
        count = 0
        for line, letter, choice in zip(lines, LETTERS, choices, strict=False):
            match = _LISTED.fullmatch(line)
            is_cut = count + 1 == len(lines) and match is not None and _bare(choice).startswith(_bare(match[2]))
            if match is None or match[1] != letter or (_bare(match[2]) != _bare(choice) and not is_cut):
                break
            count += 1
        kept += [] if count > 1 else lines[:1]
        del lines[: count if count > 1 else 1]
    return "\n".join(kept)


def _bare(text: str) -> str:
    """A text as it is compared with a choice: without the stop at its end, and with small letters."""
    return unicodedata.normalize("NFKC", text).strip().rstrip(".。 ").casefold()


def extract_answer(item: Item, metric: Metric, output: str) -> str | None:
    """What of an output is compared with the target; None if no answer is found."""
    if item.choices and metric.compare in ("choice", "row"):
        return extract_letter(output, item.choices)
    text = answer_part(output)
    if metric.compare != "ifeval":
        text = text.strip()
    if not metric.extract:
        return text if text.strip() else None
    matches = [next((group for group in match.groups() if group), "") for match in re.finditer(metric.extract, text)]
    if not matches:
        return None
    return (matches[0] if metric.pick == "first" else matches[-1]).strip()


def score(item: Item, metric: Metric, outcome: Outcome, answer: str | None) -> float:
    """A metric's value for one question, from 0 to 1.

    Args:
        item: The question, whose right answer is known.
        metric: The metric.
        outcome: What the model made of it.
        answer: What was extracted, of an open answer.
    """
    if metric.compare in ("choice", "choice_norm") and outcome.logprobs:
        return float(chosen(item, outcome, metric.compare == "choice_norm") in item.gold)
    if metric.compare == "greedy":
        return float(outcome.greedy)
    if answer is None:
        return 0.0
    compare = item.match if metric.compare == "row" else metric.compare
    if item.choices:
        if compare == "exact":
            return float(normalize_answer(answer) in {LETTERS[index] for index in item.gold})
        return float(answer in {LETTERS[index] for index in item.gold})
    if compare == "ifeval":
        return _ifeval(item.row, answer, metric.variant)
    targets = item.answers
    if compare == "contains":
        plain = normalize_answer(answer).casefold()
        return float(any(normalize_answer(target).casefold() in plain for target in targets))
    if compare == "number":
        value = last_number(answer)
        return float(value is not None and any(_same_number(value, last_number(target)) for target in targets))
    if compare == "regex":
        return float(any(re.search(target, answer) for target in targets))
    if compare == "f1":
        return max(f1(answer, target) for target in targets)
    if metric.compare == "row":
        return float(is_correct(answer, targets))
    plain = _reduced(answer, metric)
    return float(any(plain == _reduced(target, metric) for target in targets))


def _reduced(text: str, metric: Metric) -> str:
    """A text as it is compared: patterns removed, then capitals, then punctuation."""
    for pattern in metric.remove:
        text = re.sub(pattern, "", text)
    if metric.ignore_case:
        text = text.lower()
    if metric.ignore_punctuation:
        text = text.translate(str.maketrans("", "", string.punctuation))
    return text


def last_number(text: str) -> float | None:
    """The last number of a text: decimals, thousands with commas, per cent, and fractions such as `3/4`.

    A comma of Chinese text stands between two numbers (`3，500`: 3 and 500), one of ASCII within a number if three
    digits follow it. A hyphen behind a digit (`2-3`) is no sign.
    """
    text = unicodedata.normalize("NFKC", text.replace("，", "、"))
    fractions = list(_FRACTION.finditer(text))
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    if fractions and fractions[-1].end() >= numbers[-1].end() and int(fractions[-1][2]):
        return int(fractions[-1][1]) / int(fractions[-1][2])
    found = numbers[-1].group().replace(",", "").replace("−", "-")
    scale = 0.01 if found.endswith("%") else 1.0
    return float(found.rstrip("%").partition("/")[0].strip()) * scale


def _same_number(first: float, second: float | None) -> bool:
    return second is not None and abs(first - second) <= 1e-4 * max(1.0, abs(second))


def f1(answer: str, target: str) -> float:
    """F1 of the characters of Chinese and the words of other text, without white space and punctuation."""
    first, second = _units(answer), _units(target)
    common = sum((Counter(first) & Counter(second)).values())
    return 2 * common / (len(first) + len(second)) if common else 0.0


def _units(text: str) -> list[str]:
    return re.findall(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+", unicodedata.normalize("NFKC", text).lower())


def _ifeval(row: Mapping[str, Any], answer: str, variant: str) -> float:
    ids, arguments = row.get("instruction_id_list", []), row.get("kwargs", [])
    followed = [
        follows(str(name), dict(values or {}), str(row.get("prompt", "")), answer, loose=variant == "loose")
        for name, values in zip(ids, arguments, strict=False)
    ]
    if not followed:
        return 0.0
    return float(all(followed)) if variant else sum(followed) / len(followed)
