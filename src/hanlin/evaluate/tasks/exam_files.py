"""Exams in folders of CSV files: `dev/anatomy.csv`, `test/anatomy_test.csv`, with a heading (CMMLU, C-Eval) or six
columns without one (MMLU).
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import join_list, tr

LETTERS = ("A", "B", "C", "D")

_CHOICE_LINE = re.compile(r"(?:^|(?<=\s))\(?([A-G])\s*[．.、)]\s*")


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


class ExamFolder:
    """An exam's folder: CSV files `test/anatomy.csv`, `test/anatomy_test.csv`, or both without the inner folder.

    Args:
        columns: The columns of question, four choices and answer; empty: the files have no heading.
        folder: The folder.
    """

    def __init__(self, columns: Sequence[str], folder: Path) -> None:
        self.columns, self.folder = tuple(columns), folder

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
                columns = self._places(path, next(reader, [])) if self.columns else None
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
        missing = [name for name in self.columns if name not in header]
        if missing and missing != [self.columns[-1]]:
            names = ", ".join(missing)
            what = tr("the heading lacks {names}", names=names)
            hint = tr("expected columns: {columns}", columns=join_list(self.columns))
            raise UserError(what, f"{path}:1", hint)
        return tuple(header.index(name) for name in self.columns if name in header)


def _question(row: list[str], columns: tuple[int, ...] | None, subject: str, name: str, where: str) -> ExamQuestion:
    used_columns = columns or tuple(range(6))
    if len(row) <= max(used_columns) or (columns is None and len(row) != 6):
        what = tr("a question has 6 columns, this row has {count}", count=len(row))
        raise UserError(what, where)
    text, a, b, c, d, *answers = (row[column] for column in used_columns)
    if not answers:
        return ExamQuestion(subject, name, text, (a, b, c, d), "")
    answer = unicodedata.normalize("NFKC", answers[0]).strip().upper()
    if answer not in LETTERS:
        what = tr("the answer is {answer!r}, not one of A, B, C, D", answer=answer)
        hint = None if answer else tr("choose a split that has answers")
        raise UserError(what, where, hint)
    return ExamQuestion(subject, name, text, (a, b, c, d), answer)


def read_gaokao_rows(example: Mapping[str, Any], file: Path, number: int) -> Iterator[Mapping[str, Any]]:
    """The questions with one right letter and all their choices in the text; others cannot be scored by letters."""
    text, answers = str(example.get("question", "")), example.get("answer", [])
    if not isinstance(answers, list) or len(answers) != 1:
        return
    marks = list(_CHOICE_LINE.finditer(text))
    start = next((index for index in range(len(marks) - 1, -1, -1) if marks[index][1] == "A"), None)
    if start is None:
        return
    marks = marks[start:]
    letters = "".join(mark[1] for mark in marks)
    if len(letters) < 3 or letters != LETTERS[: len(letters)] or str(answers[0]) not in letters:
        return
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    choices = [" ".join(text[mark.end() : end].split()) for mark, end in zip(marks, ends, strict=True)]
    if not all(choices):  # pictures
        return
    subject = file.stem.partition("_")[2].removesuffix("_MCQs")
    yield {
        "question": text[: marks[0].start()].strip(),
        "choices": choices,
        "answer": answers[0],
        "subject": subject,
        "id": f"{subject}/{example.get('index', number)}",
    }
