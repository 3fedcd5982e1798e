"""The stage `evaluate` with a file of questions: held-out questions, answered greedily and scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.chat.reasoning import split_reasoning
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import list_files
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.records import Question
from hanlin.core.resumable import Row, process_each, read_rows, write_rows
from hanlin.core.text import answer_language
from hanlin.data.ledger import describe_unread_fields
from hanlin.evaluate.contamination import split_by_contamination
from hanlin.evaluate.scoring import fraction, is_correct, wilson_interval
from hanlin.evaluate.tasks.question_files import read_questions
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.inference.protocol import Completion, GenerationRequest, SamplingParams

ANSWERS = "answers.jsonl"
_CHUNK_SIZE = 64
_MAX_NEW_TOKENS = 128


def run(settings: Evaluate, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Answer every question and write `answers.jsonl`; return the figures that `score_answers` describes.

    Raises UserError when there is no question, when a prompt does not fit the model's context, or when `compare_with`
    holds none of the questions.
    """
    file = _question_file(inputs.path("questions"))
    unread: Counter[str] = Counter()
    questions = read_questions(file, settings.limit, unread)
    if not questions:
        raise UserError(tr("there is no question in this file"), file)
    _check_unique_ids(questions, file)
    if unread:
        context.progress.log(describe_unread_fields(unread))
    earlier = _load_earlier_answers(inputs.optional_path("compare_with"))
    opened = load_engine(
        inputs.path("model"),
        settings.file,
        settings.engine,
        batch=settings.batch,
        dtype=settings.dtype,
        precision=settings.precision,
    )
    try:
        template = opened.load_template()

        def ask(chunk: Sequence[Question], keep: Callable[[int, Row], None]) -> None:
            ask_questions(opened, template, chunk, settings.max_new_tokens or _MAX_NEW_TOKENS, keep)

        rows = process_each(
            questions, _CHUNK_SIZE, context.scratch_folder(out), ask, context.progress, unit=tr("questions")
        )
        engine_name = opened.engine.name
    finally:
        opened.engine.close()
    metrics = {"engine": engine_name, **score_answers(rows)}
    if unread:
        metrics["unread_fields"] = dict(unread)
    metrics |= split_by_contamination(
        rows, inputs.paths("contamination"), "exact_match", lambda some: fraction([row["exact"] for row in some])
    )
    write_rows(out / ANSWERS, rows)
    if earlier is not None:
        metrics |= compare_answers(rows, earlier)
    return metrics


def ask_questions(
    opened: LoadedEngine,
    template: ChatTemplate,
    questions: Sequence[Question],
    max_new_tokens: int,
    keep: Callable[[int, Row], None],
) -> None:
    """Hand a row for each question to `keep`, with its index, as soon as it is answered: its greedy answer as text and
    ids, why it ended, whether it is right, its language. Reasoning is no part of the answer and has a field of its own.
    """
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    requests = []
    for question in questions:
        ids = template.render(question.messages, prompt=True).ids
        if len(ids) >= opened.engine.context_length:
            raise UserError(
                tr(
                    "the question is {count} tokens long, but the model's context holds {context_length} with the "
                    "answer",
                    count=len(ids),
                    context_length=opened.engine.context_length,
                ),
                question.id,
            )
        requests.append(GenerationRequest(tuple(ids), template.stop_ids, sampling))

    def on_completion(index: int, reply: Completion) -> None:
        question, written = questions[index], opened.tokenizer.decode(reply.ids)
        reasoning, text = split_reasoning(written, template.opens_thinking, is_complete=True)
        keep(
            index,
            {
                "id": question.id,
                "topic": question.topic,
                "question": question.messages[-1].text,
                "question_language": question.language,
                "answers": list(question.answers),
                "answer": text,
                **({"reasoning": reasoning} if reasoning else {}),
                "language": answer_language(text),
                "exact": is_correct(text, question.answers),
                "finish": reply.finish_reason,
                "ids": list(reply.ids),
            },
        )

    opened.engine.generate(requests, Progress(quiet=True), on_completion)


def score_answers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score the answers; each figure is a fraction of the answers that it is about, with their number beside it.

    `exact_match` has a 95 % Wilson interval. `chinese_answer_share` is over Chinese questions and
    `english_kept_share`, its mirror, over English ones; an answer of digits alone has no language and is left out of
    both, an empty answer counts against them.
    """
    right = [row["exact"] for row in rows]
    interval = wilson_interval(sum(right), len(right))
    metrics: dict[str, Any] = {
        "questions": len(rows),
        "exact_match": fraction(right),
        "exact_match_low": interval.low,
        "exact_match_high": interval.high,
    }
    for name, language in (("chinese_answer_share", "zh"), ("english_kept_share", "en")):
        asked = [row for row in rows if row["question_language"] == language]
        spoken = [
            row["language"] == language for row in asked if row["language"] != "none" or not row["answer"].strip()
        ]
        if asked:
            metrics |= {name: fraction(spoken), f"{language}_questions": len(asked)}
    metrics["stop_rate"] = fraction([row["finish"] == "stop" for row in rows])
    metrics["tokens_per_answer"] = sum(len(row["ids"]) for row in rows) / len(rows)
    topics = sorted({row["topic"] for row in rows if row["topic"]})
    if topics:
        by_topic = {topic: [row["exact"] for row in rows if row["topic"] == topic] for topic in topics}
        metrics["by_topic"] = {
            topic: {"questions": len(hits), "exact_match": fraction(hits)} for topic, hits in by_topic.items()
        }
    return metrics


def compare_answers(rows: Sequence[Mapping[str, Any]], earlier: Mapping[str, str]) -> dict[str, Any]:
    """How many answers are, letter for letter, those that `earlier` (question id → answer) holds."""
    same = [row["answer"] == earlier[row["id"]] for row in rows if row["id"] in earlier]
    if not same:
        what = tr("the evaluation to compare with holds none of these questions")
        raise UserError(what, "compare_with")
    return {"greedy_agreement": fraction(same), "compared": len(same)}


def _question_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    inside = sorted(file.relative_to(path).as_posix() for file in list_files(path, "*.jsonl"))
    names = ", ".join(inside[:5])
    hint = tr("name one of its files: {names}", names=names) if inside else None
    raise UserError(tr("this is a folder, not a file of questions"), path, hint)


def _check_unique_ids(questions: Sequence[Question], file: Path) -> None:
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(tr("two questions have the id {id!r}", id=question.id), file)
        seen.add(question.id)


def _load_earlier_answers(folder: Path | None) -> dict[str, str] | None:
    if folder is None:
        return None
    file = folder / ANSWERS if folder.is_dir() else folder
    rows = read_rows(file)
    if any("answer" not in row or "id" not in row for row in rows):
        what = tr("these are not answers to questions")
        raise UserError(what, file, tr("compare with a stage of kind evaluate"))
    return {row["id"]: row["answer"] for row in rows}
