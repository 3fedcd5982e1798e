"""A judge of open answers: a model behind an address says which of two answers is better, each pair in both orders.

Judges prefer the answer that they read first, and the longer one (Zheng et al. 2023, arXiv:2306.05685, section 3.3).
Therefore an answer wins only if it does so in both orders; how often the orders agree, and how often the longer answer
won, is shown beside the result.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hanlin.config.settings.probe import Judge
from hanlin.core.context import StageContext
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.core.resumable import Row, process_in_chunks
from hanlin.evaluate.bootstrap import percentile_interval, resample
from hanlin.evaluate.comparison.results import OpenAnswer
from hanlin.evaluate.scoring import wilson_interval
from hanlin.inference.chat_server import ChatServer

_AT_ONCE = 4
"""Requests to the judge at once; what a chunk holds, so that at most these are asked again when it breaks off."""
INSTRUCTIONS = {
    "zh": "你是公正的评审。下面是一个问题和两个助手的回答。请比较哪个回答对提问者更有帮助：是否切题、正确、完整、通顺，"
    "用的语言是否合适。回答的长短和先后与好坏无关。先用两三句话说明理由，最后单独一行写“结论：A”“结论：B”或“结论：平”。",
    "en": "You are an impartial judge. Below are a question and the answers of two assistants. Decide which of them "
    "helps the person who asked more: to the point, correct, complete, well written, in the right language. Neither "
    "length nor order makes an answer better. Give your reason in two or three sentences, then write `Verdict: A`, "
    "`Verdict: B` or `Verdict: tie` on a line of its own.",
}
_LABELS = {"zh": ("问题", "回答 A", "回答 B"), "en": ("Question", "Answer A", "Answer B")}
_VERDICT = re.compile(r"(?:verdict|结论)\W{0,6}(?:an?\s+(?=tie))?(A|B|tie|平)(?![A-Za-z])", re.I)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two answers to one question: the baseline's and another model's; `swapped` shows the latter first."""

    model: str
    old: OpenAnswer
    new: OpenAnswer
    swapped: bool


def judge_answers(
    settings: Judge,
    answers: Mapping[str, Sequence[OpenAnswer]],
    seed: int,
    resamples: int,
    scratch: Path,
    context: StageContext,
    key: str,
) -> dict[str, Any] | None:
    """Have a judge compare the open answers of each model with those of the first.

    Args:
        settings: The judge.
        answers: The open answers of each model; the first model is the baseline.
        seed: Seed of the bootstrap.
        resamples: Draws of the bootstrap.
        scratch: Folder in which finished judgments survive a judge that breaks off.
        context: Reports progress.
        key: The judge's key.

    Returns:
        The judge's name, and for each model its share of wins with interval, agreement and bias; None if no two models
        answered the same open question.

    Raises:
        UserError: The judge cannot be reached or breaks off; judgments until then are kept for the next run.
    """
    pairs = _pairs(answers, settings.questions)
    if not pairs:
        return None
    server = ChatServer(settings.address, settings.model, settings.max_new_tokens, key)
    try:

        def work(chunk: Sequence[_Pair]) -> list[Row]:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                return list(threads.map(lambda pair: _judge(server, pair, settings.max_new_tokens), chunk))

        rows = process_in_chunks(pairs, _AT_ONCE, scratch, work, context.progress, unit=tr("judgments"))
        name = server.name
    finally:
        server.close()
    by_model = {model: [row for row in rows if row["model"] == model] for model in answers}
    return {
        "address": settings.address,
        "model": name,
        "judgments": rows,
        "models": [
            {"model": model, **summarize(some, seed, resamples)} for model, some in by_model.items() if some
        ],
    }  # fmt: skip


def _pairs(answers: Mapping[str, Sequence[OpenAnswer]], limit: int) -> list[_Pair]:
    baseline, *others = answers
    old = {answer.id: answer for answer in answers[baseline]}
    pairs = []
    for model in others:
        shared = [answer for answer in answers[model] if answer.id in old][:limit]
        pairs += [_Pair(model, old[new.id], new, swapped) for new in shared for swapped in (False, True)]
    return pairs


def _judge(server: ChatServer, pair: _Pair, max_tokens: int) -> Row:
    first, second = (pair.new, pair.old) if pair.swapped else (pair.old, pair.new)
    question, label_a, label_b = _LABELS[pair.old.language]
    text = (
        f"{INSTRUCTIONS[pair.old.language]}\n\n## {question}\n{pair.old.question}"
        f"\n\n## {label_a}\n{first.answer}\n\n## {label_b}\n{second.answer}"
    )
    with server.open_answer([Message("user", text)], {"temperature": 0, "max_tokens": max_tokens}) as pieces:
        reply = "".join(pieces)
    return {
        "id": pair.old.id,
        "model": pair.model,
        "swapped": pair.swapped,
        "verdict": read_verdict(reply),
        "lengths": [len(pair.old.answer), len(pair.new.answer)],
        "reply": reply,
    }


def read_verdict(reply: str) -> str:
    """The last verdict of a reply: `first`, `second` or `tie`; empty if it gives none."""
    found = _VERDICT.findall(reply)
    names = {"a": "first", "b": "second", "tie": "tie", "平": "tie"}
    return names[found[-1].lower()] if found else ""


def summarize(rows: Sequence[Mapping[str, Any]], seed: int, resamples: int) -> dict[str, Any]:
    """What two judgments of each pair say: a model wins if it does in both orders, otherwise it is a tie.

    Returns:
        `wins`, `losses`, `ties`, `unread` (questions of which a verdict could not be read), `share` of wins with ties
        as half and its 95 % interval, `agreement` (both orders say the same, of those read), `first` (verdicts for the
        answer that was read first) and `longer` (wins of the longer answer), each None if there is nothing to count.
    """
    by_question: dict[str, dict[bool, Mapping[str, Any]]] = {}
    for row in rows:
        by_question.setdefault(row["id"], {})[row["swapped"]] = row
    points: list[float] = []
    agreed, longer = [], []
    unread = 0
    for orders in by_question.values():
        straight, turned = orders[False]["verdict"], orders[True]["verdict"]
        if not straight or not turned:
            unread += 1
            continue
        for_new = (_for_new(straight, False), _for_new(turned, True))
        agreed.append(for_new[0] == for_new[1])
        points.append(for_new[0] if agreed[-1] else 0.5)
        old_length, new_length = orders[False]["lengths"]
        if points[-1] != 0.5 and old_length != new_length:
            longer.append((points[-1] == 1.0) == (new_length > old_length))
    positions = [row["verdict"] == "first" for row in rows if row["verdict"] in ("first", "second")]
    result: dict[str, Any] = {
        "questions": len(by_question),
        "wins": points.count(1.0),
        "losses": points.count(0.0),
        "ties": points.count(0.5),
        "unread": unread,
        "share": None,
        "agreement": sum(agreed) / len(agreed) if agreed else None,
        "first": sum(positions) / len(positions) if positions else None,
        "longer": sum(longer) / len(longer) if longer else None,
    }
    if points:
        values = np.array([points])
        draws = resample(
            values, np.ones_like(values), np.zeros(len(points), dtype=np.intp), "micro", resamples=resamples, seed=seed
        )
        interval = percentile_interval(draws[:, 0])
        if interval.low == interval.high:  # all questions alike: drawing them again tells nothing
            interval = wilson_interval(sum(points), len(points))
        result |= {"share": sum(points) / len(points), "low": interval.low, "high": interval.high}
    return result


def _for_new(verdict: str, swapped: bool) -> float:
    """A verdict as points of the new model: 1 for a win, 0 for a loss, ½ for a tie."""
    if verdict == "tie":
        return 0.5
    return float((verdict == "first") == swapped)
