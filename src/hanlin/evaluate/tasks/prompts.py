"""Exams and their prompts: which files hold a subject's questions, in which layout, and how a question is asked.

A profile is a named, versioned way to ask, since scores of one exam under two of them are two different figures.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr
from hanlin.evaluate.tasks import subjects as exam_subjects

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True, slots=True)
class ExamQuestion:
    """One question with four choices.

    `answer` is the letter of the right one, or empty in a split whose answers its authors keep. `id` is subject, split
    and row.
    """

    subject: str
    id: str
    text: str
    choices: tuple[str, str, str, str]
    answer: str


@dataclass(frozen=True, slots=True)
class Profile:
    """How questions are asked: a heading, each question with `question` before it and `cue` after its choices, then
    `gap` and the letter. `{subject}` in the heading is the subject's name as the exam writes it.
    """

    name: str
    heading: str
    question: str
    cue: str
    gap: str

    def format_question(self, question: ExamQuestion) -> str:
        """A question up to where the gap and the letter follow."""
        lines = [f"{self.question}{question.text.strip()}"]
        lines += [f"{letter}. {choice}" for letter, choice in zip(LETTERS, question.choices, strict=True)]
        return "\n".join([*lines, self.cue])

    def prompt(self, name: str, shots: Sequence[ExamQuestion], question: ExamQuestion) -> str:
        """Heading, worked examples and the question, blank lines between."""
        examples = [f"{self.format_question(shot)}{self.gap}{shot.answer}" for shot in shots]
        return "\n\n".join([self.heading.format(subject=name), *examples, self.format_question(question)])


@dataclass(frozen=True, slots=True)
class ExamFormat:
    """An exam: how its files are laid out, which split is asked by default, what its subjects are called.

    `average` is how its authors sum it up: over subjects (macro) or over questions (micro). `columns` None: no heading.
    """

    columns: tuple[str, ...] | None
    split: str
    average: Literal["macro", "micro"]
    subject_name: Callable[[str], str]
    profiles: dict[str, Profile]


_CMMLU_HEADING = "以下是关于{subject}的单项选择题，请直接给出正确答案的选项。"
_MMLU_HEADING = "The following are multiple choice questions (with answers) about {subject}."

# Sources: CMMLU, haonan-li/CMMLU src/mp_utils.py; C-Eval, arXiv:2305.08322 figure 4; MMLU, arXiv:2009.03300 section 4;
# lm_eval: EleutherAI/lm-evaluation-harness 0.4.13, tasks cmmlu, ceval-valid, mmlu (its gap before a letter is a space)
EXAMS: dict[str, ExamFormat] = {
    "cmmlu": ExamFormat(
        columns=("Question", *LETTERS, "Answer"),
        split="test",
        average="macro",
        subject_name=lambda subject: exam_subjects.CMMLU.get(subject, subject.replace("_", " ")),
        profiles={
            "paper": Profile("cmmlu/paper/1", _CMMLU_HEADING, "题目：", "答案是：", ""),
            "lm_eval": Profile("cmmlu/lm_eval/0.4", _CMMLU_HEADING, "", "答案：", " "),
        },
    ),
    "ceval": ExamFormat(
        columns=("question", *LETTERS, "answer"),
        split="val",
        average="macro",
        subject_name=lambda subject: exam_subjects.CEVAL.get(subject, subject.replace("_", " ")),
        profiles={
            "paper": Profile(
                "ceval/paper/1", "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。", "", "答案：", ""
            ),
            "lm_eval": Profile(
                "ceval/lm_eval/0.4", "以下是中国关于{subject}的单项选择题，请选出其中的正确答案。", "", "答案：", " "
            ),
        },
    ),
    "mmlu": ExamFormat(
        columns=None,
        split="test",
        average="micro",
        subject_name=lambda subject: subject.replace("_", " "),
        profiles={
            "paper": Profile("mmlu/paper/1", _MMLU_HEADING, "", "Answer:", " "),
            "lm_eval": Profile("mmlu/lm_eval/0.4", _MMLU_HEADING, "", "Answer:", " "),
        },
    ),
}


class ExamFolder:
    """An exam's folder: CSV files `test/anatomy.csv`, `test/anatomy_test.csv`, or both without the inner folder."""

    def __init__(self, kind: ExamFormat, folder: Path) -> None:
        self.kind, self.folder = kind, folder

    def subjects(self, split: str, names: Sequence[str] = ()) -> list[str]:
        """The subjects with a file in `split`, sorted; only the `names` ones where some are named.

        Raises UserError when there is no file, or a wanted subject has none.
        """
        subjects = sorted(self._files(split))
        if not subjects:
            what = tr("there is no {split} part of the exam here", split=split)
            hint = tr("CSV files are looked for as {split}/NAME.csv", split=split)
            raise UserError(what, self.folder, hint)
        for subject in names:
            if subject not in subjects:
                what = tr("there is no subject '{subject}'", subject=subject)
                raise UserError(what, self.folder, did_you_mean(subject, subjects))
        return [subject for subject in subjects if not names or subject in names]

    def read(self, split: str, subject: str) -> list[ExamQuestion]:
        """The questions of a subject in the order of the file; none where `split` has no such file.

        In a file whose heading has no column for it, the answer is empty.

        Raises UserError with file and line for a row that is not a question with four choices and its answer.
        """
        path = self._files(split).get(subject)
        if path is None:
            return []
        questions = []
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                columns = self._places(path, next(reader, [])) if self.kind.columns else None
                for index, row in enumerate(filter(None, reader)):
                    where = f"{path}:{reader.line_num}"
                    questions.append(_question(row, columns, subject, f"{subject}/{split}/{index}", where))
        except (csv.Error, UnicodeDecodeError) as error:
            raise UserError(tr("not CSV in UTF-8: {error}", error=error), path) from error
        except OSError as error:
            raise UserError(tr("cannot be read: {strerror}", strerror=error.strerror), path) from error
        return questions

    def _files(self, split: str) -> dict[str, Path]:
        split_folder, suffix = self.folder / split, f"_{split}"
        is_flat = not split_folder.is_dir()
        files = {}
        for path in sorted((self.folder if is_flat else split_folder).glob("*.csv")):
            if path.stem.endswith(suffix) or not is_flat:
                files[path.stem.removesuffix(suffix)] = path
        return files

    def _places(self, path: Path, header: list[str]) -> tuple[int, ...]:
        """Where the columns of a question stand in files that have a heading."""
        assert self.kind.columns is not None
        missing = [name for name in self.kind.columns if name not in header]
        if missing and missing != [self.kind.columns[-1]]:
            names = ", ".join(missing)
            what = tr("the heading lacks {names}", names=names)
            hint = tr("expected columns: {columns}", columns=join_list(self.kind.columns))
            raise UserError(what, f"{path}:1", hint)
        return tuple(header.index(name) for name in self.kind.columns if name in header)


def _question(row: list[str], columns: tuple[int, ...] | None, subject: str, name: str, where: str) -> ExamQuestion:
    used_columns = columns or tuple(range(6))
    if len(row) <= max(used_columns) or (columns is None and len(row) != 6):
        what = tr("a question has 6 columns, this row has {count}", count=len(row))
        raise UserError(what, where)
    text, a, b, c, d, *answers = (row[column] for column in used_columns)
    if not answers:
        return ExamQuestion(subject, name, text, (a, b, c, d), "")
    answer = answers[0].strip().upper()
    if answer not in LETTERS:
        what = tr("the answer is {answer!r}, not one of A, B, C, D", answer=answer)
        hint = tr("choose a split that has answers")
        raise UserError(what, where, hint)
    return ExamQuestion(subject, name, text, (a, b, c, d), answer)
