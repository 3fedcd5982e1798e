"""The stage `exam`: multiple-choice questions, answered with the most likely letter, and how certain the score is."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.config.settings.evaluate import Exam
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import write_json
from hanlin.core.i18n import join_list, tr
from hanlin.core.resumable import Row, process_in_chunks, write_rows
from hanlin.evaluate.contamination import split_by_contamination
from hanlin.evaluate.scoring import fraction, standard_error, wilson_interval
from hanlin.evaluate.tasks.prompts import EXAMS, LETTERS, ExamFolder, ExamQuestion, Profile
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.tokenizer.tokenizer import Tokenizer

SUBMISSION_FILE = "submission.json"
CHANCE = 1 / len(LETTERS)
_CHUNK_SIZE = 64


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its full prompt for each number of shots that may fit, most shots first."""

    question: ExamQuestion
    prompts: tuple[str, ...]


def run(settings: Exam, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Answer every question and write `answers.jsonl`; return the scores that `score_exam` describes.

    `accuracy` is the average that the exam's own authors report. Of a split without answers nothing is scored: the
    answers are also written to `submission.json`, as C-Eval's site takes them.

    Raises UserError when the folder does not hold the exam in its layout, or dev has fewer questions than `shots`.
    """
    kind = EXAMS[settings.exam]
    profile = kind.profiles[settings.profile]
    split = kind.split if settings.split == "auto" else settings.split
    exam_folder = ExamFolder(kind, inputs.path("folder"))
    subjects = exam_folder.subjects(split, settings.subjects)
    _check_groups(settings.groups, subjects)
    items = [
        item for subject in subjects for item in _items(exam_folder, split, subject, settings, context.seed)
    ]  # fmt: skip
    if not items:
        raise UserError(tr("there is no question in these files"), exam_folder.folder)
    is_scored = _have_answers(items, exam_folder.folder)
    opened = load_engine(inputs.path("model"), settings.file, settings.engine, dtype=settings.dtype)
    try:

        def answered(chunk: Sequence[Item]) -> list[Row]:
            return answer(opened, profile, chunk)

        rows = process_in_chunks(
            items, _CHUNK_SIZE, context.scratch_folder(out), answered, context.progress, unit=tr("questions")
        )
        engine_name = opened.engine.name
    finally:
        opened.engine.close()
    description = {
        "engine": engine_name,
        "profile": profile.name,
        "split": split,
        "shots": settings.shots,
        "prompts_sha256": _prompts_hash(profile, items),
    }
    if not is_scored:
        write_rows(out / "answers.jsonl", rows)
        write_json(out / SUBMISSION_FILE, build_submission(rows))
        return {"questions": len(rows), "submission": SUBMISSION_FILE, **description, **count_letters(rows)}
    average = f"{kind.average}_accuracy"
    apart = split_by_contamination(
        rows, inputs.paths("contamination"), "accuracy", lambda some: float(score_exam(some)[average])
    )
    write_rows(out / "answers.jsonl", rows)
    scores = score_exam(rows, settings.groups)
    return {
        "accuracy": scores[average],
        **apart,
        "average": kind.average,
        **description,
        **scores,
    }


def build_submission(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The answers in the form that C-Eval's site scores: {subject: {row of the file: letter}}.

    A question that does not fit the model's context gets the first letter.
    """
    submission: dict[str, dict[str, str]] = {}
    for row in rows:
        submission.setdefault(row["subject"], {})[row["id"].rpartition("/")[2]] = row["given"] or LETTERS[0]
    return submission


def _have_answers(items: Sequence[Item], folder: Path) -> bool:
    """Whether the questions have answers to score by. Raises UserError if only some subjects have."""
    unanswered = sorted({item.question.subject for item in items if not item.question.answer})
    if unanswered and any(item.question.answer for item in items):
        what = tr("these subjects have no answers, others have: {subjects}", subjects=join_list(unanswered[:12]))
        raise UserError(what, folder, tr("name the subjects to ask in `subjects`"))
    return not unanswered


def letter_ids(tokenizer: Tokenizer, prompt: str, gap: str) -> tuple[list[int], list[list[int]]]:
    """The ids that all four continuations of a prompt share, and what each letter adds.

    Prompt and letter are encoded together and cut where the four begin to differ, so that the letter is the token
    that really follows: `A` after `答案：`, ` A` after `Answer:`. One begin token stands first where the tokenizer has
    one.
    """
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    encoded = [tokenizer.encode(f"{prompt}{gap}{letter}") for letter in LETTERS]
    num_shared = 0
    while all(len(ids) > num_shared + 1 for ids in encoded) and len({ids[num_shared] for ids in encoded}) == 1:
        num_shared += 1
    if not begin and not num_shared:
        raise UserError(tr("the prompt has no token before the letter"))
    return begin + encoded[0][:num_shared], [ids[num_shared:] for ids in encoded]


def answer(opened: LoadedEngine, profile: Profile, items: Sequence[Item]) -> list[Row]:
    """One row for each question: the log probability of each letter (natural, summed over its ids) and the likeliest.

    Worked examples are left out from the first on until the prompt fits the model's context; a question that does not
    fit even alone has no answer and counts as wrong.
    """
    pairs: list[tuple[Sequence[int], Sequence[int]]] = []
    shots: list[int | None] = []
    for item in items:
        for num_dropped, prompt in enumerate(item.prompts):
            prefix, letters = letter_ids(opened.tokenizer, prompt, profile.gap)
            if len(prefix) + max(map(len, letters)) <= opened.engine.context_length:
                pairs += [(prefix, ids) for ids in letters]
                shots.append(len(item.prompts) - 1 - num_dropped)
                break
        else:
            shots.append(None)
    scores = iter(opened.engine.score(pairs) if pairs else [])
    rows = []
    for item, num_shots in zip(items, shots, strict=True):
        row: Row = {"id": item.question.id, "subject": item.question.subject, "answer": item.question.answer}
        if num_shots is None:
            right = False if item.question.answer else None
            row |= {"given": None, "right": right, "shots": None, "logprobs": None}
        else:
            logprobs = {choice: next(scores).logprob for choice in LETTERS}
            letter = max(LETTERS, key=lambda choice: logprobs[choice])
            right = letter == item.question.answer if item.question.answer else None
            row |= {"given": letter, "right": right, "shots": num_shots, "logprobs": logprobs}
        rows.append(row)
    return rows


def count_letters(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How often each letter was given, how many questions did not fit, and the fewest worked examples that did."""
    return {
        "given": {letter: sum(row["given"] == letter for row in rows) for letter in LETTERS},
        "too_long": sum(row["given"] is None for row in rows),
        "fewest_shots": min((row["shots"] for row in rows if row["shots"] is not None), default=None),
    }


def score_exam(rows: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Accuracy and how certain it is. `micro_accuracy` is over questions, `macro_accuracy` the mean of the subjects'.

    Each has its standard error (of the macro mean: √Σ se² / subjects). The 95 % interval is Wilson's, of the micro
    accuracy; `near_chance` says that it holds 25 %, the score of guessing. A group averages its subjects.
    """
    by_subject: dict[str, list[bool]] = {}
    for row in rows:
        by_subject.setdefault(row["subject"], []).append(row["right"])
    right = [row["right"] for row in rows]
    interval = wilson_interval(sum(right), len(right))
    accuracy = {subject: sum(hits) / len(hits) for subject, hits in by_subject.items()}
    errors = [standard_error(sum(hits), len(hits)) for hits in by_subject.values()]
    metrics: dict[str, Any] = {
        "questions": len(rows),
        "subjects": len(by_subject),
        "micro_accuracy": fraction(right),
        "micro_standard_error": standard_error(sum(right), len(right)),
        "macro_accuracy": sum(accuracy.values()) / len(accuracy),
        "macro_standard_error": math.sqrt(sum(error**2 for error in errors)) / len(errors),
        "accuracy_low": interval.low,
        "accuracy_high": interval.high,
        "near_chance": CHANCE in interval,
        **count_letters(rows),
        "by_subject": {
            subject: {"questions": len(hits), "accuracy": accuracy[subject]} for subject, hits in by_subject.items()
        },
    }
    if groups:
        metrics["by_group"] = {
            name: sum(accuracy[subject] for subject in members) / len(members) for name, members in groups.items()
        }
    return metrics


def _items(exam_folder: ExamFolder, split: str, subject: str, settings: Exam, seed: int) -> list[Item]:
    questions = exam_folder.read(split, subject)
    examples = exam_folder.read("dev", subject) if settings.shots else []
    if split == "dev":  # a question must not stand among its own examples
        pool = {question.id: [shot for shot in examples if shot.id != question.id] for question in questions}
    else:
        pool = {question.id: examples for question in questions}
    if settings.limit is not None and settings.limit < len(questions):
        indices = random.Random(f"{seed}/{subject}").sample(range(len(questions)), settings.limit)
        questions = [questions[index] for index in sorted(indices)]
    name, profile = exam_folder.kind.subject_name(subject), exam_folder.kind.profiles[settings.profile]
    items = []
    for question in questions:
        shots = pool[question.id][: settings.shots]
        if len(shots) < settings.shots:
            what = tr(
                "{shots} worked examples are wanted, but dev has {count} for {subject}",
                shots=settings.shots,
                count=len(shots),
                subject=subject,
            )
            raise UserError(what, exam_folder.folder, tr("lower `shots`"))
        if not all(shot.answer for shot in shots):
            what = tr("the worked examples of {subject} have no answers", subject=subject)
            raise UserError(what, exam_folder.folder, tr("ask without them: `shots: 0`"))
        prompts = tuple(profile.prompt(name, shots[left_out:], question) for left_out in range(len(shots) + 1))
        items.append(Item(question, prompts))
    return items


def _check_groups(groups: Mapping[str, Sequence[str]], subjects: Sequence[str]) -> None:
    for name, members in groups.items():
        for subject in members:
            if subject not in subjects:
                what = tr("group '{name}' names a subject that is not asked: '{subject}'", name=name, subject=subject)
                raise UserError(what, "groups", did_you_mean(subject, subjects))
        if not members:
            raise UserError(tr("group '{name}' is empty", name=name), "groups")


def _prompts_hash(profile: Profile, items: Sequence[Item]) -> str:
    """SHA-256 of every prompt in order, with what follows it: equal for two runs that asked the same."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(f"{item.prompts[0]}{profile.gap}\0{item.question.answer}\0".encode())
    return digest.hexdigest()
