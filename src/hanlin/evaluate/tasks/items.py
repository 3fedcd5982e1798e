"""Questions of a task, read from local files in their original layouts."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from hanlin.config.reasons import describe_reason
from hanlin.config.settings.sources import Source
from hanlin.core.discover import list_files
from hanlin.core.errors import UserError
from hanlin.core.i18n import join_list, tr
from hanlin.core.records import Message
from hanlin.data.formats.content.cells import decode_cells
from hanlin.data.formats.look_alike import is_exam
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from hanlin.evaluate.tasks import subjects as subject_tables
from hanlin.evaluate.tasks.definition import LETTERS, RowLayout, Task
from hanlin.evaluate.tasks.exam_files import ExamFolder, ExamQuestion, read_gaokao_rows
from hanlin.evaluate.tasks.ifeval import INSTRUCTIONS, check_instructions
from hanlin.evaluate.tasks.question_files import find_others, read_choice_question, read_question

_DRAW_SEED = 1234


class _Missing(Exception):
    """A part of a question that a row lacks."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question.

    Attributes:
        id: Unique in its task.
        subject: The part of the task; empty if it has none.
        fields: What templates name.
        choices: Texts of the choices; empty for open answers.
        gold: Numbers of the right choices from 0; empty if they are secret.
        answers: Accepted open answers.
        match: How an open answer is compared, if the question says so itself.
        messages: Of a question that is a conversation: its turns, the last of which is asked.
        row: The row of the file, for metrics that need more of it.
    """

    id: str
    subject: str
    fields: Mapping[str, str]
    choices: tuple[str, ...] = ()
    gold: tuple[int, ...] = ()
    answers: tuple[str, ...] = ()
    match: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()

    @property
    def target(self) -> str | list[str] | None:
        """The right answer: a letter, accepted texts; None if it is secret."""
        if self.choices:
            letters = [LETTERS[index] for index in self.gold]
            return (letters[0] if len(letters) == 1 else letters) if letters else None
        return list(self.answers) or None

    @property
    def asked(self) -> tuple[Any, ...]:
        """What is asked, whatever the id and the order of the choices: two files may number their questions alike, and
        hold the same question under two ids.
        """
        return frozenset(self.fields.items()), tuple(sorted(self.choices)), tuple(turn.text for turn in self.messages)


@dataclass(frozen=True, slots=True)
class Items:
    """The questions of a task, and the worked examples of each subject (under "": of every subject).

    `drawn` holds worked examples by the id of their question, see `draw_examples`; `unread` counts, by name, fields of
    one's own questions that are no part of them.
    """

    questions: Sequence[Item]
    examples: Mapping[str, Sequence[Item]]
    drawn: Mapping[str, Sequence[Item]] = field(default_factory=dict)
    unread: Mapping[str, int] = field(default_factory=dict)

    def pool_of(self, item: Item) -> Sequence[Item]:
        """All worked examples of a question's subject."""
        return self.examples.get(item.subject, self.examples.get("", ()))

    def examples_of(self, item: Item, count: int) -> list[Item]:
        """The worked examples that were drawn for a question, or the first ones of its subject; never itself.

        Fewer if the examples hold the question under other ids and no others are left.
        """
        pool, asked = self.drawn.get(item.id) or self.pool_of(item), item.asked
        return list(islice((example for example in pool if example.asked != asked), count))


def draw_examples(items: Items, count: int) -> Items:
    """Draw worked examples for each question in turn from all of its subject.

    The seed and the order of the draws are those of lm-evaluation-harness (`api/samplers.py`, `ContextSampler`; seed
    1234): over the same questions and the same worked examples both take the same ones. It draws one more where the
    examples are the questions themselves, and leaves out what is the question that is asked.

    Args:
        items: The questions and all worked examples.
        count: Worked examples for each question.
    """
    generators: dict[str, random.Random] = {}
    pools = {subject: {example.id: example for example in pool} for subject, pool in items.examples.items()}
    drawn: dict[str, Sequence[Item]] = {}
    for item in items.questions:
        subject = item.subject if item.subject in items.examples else ""
        pool = items.examples.get(subject, ())
        size = count + (pools.get(subject, {}).get(item.id) == item)  # another file may number its questions alike
        if count and size <= len(pool):
            drawn[item.id] = generators.setdefault(subject, random.Random(_DRAW_SEED)).sample(list(pool), size)
    return replace(items, drawn=drawn)


def read_items(name: str, task: Task, data: Path, *, split: str = "", subjects: Sequence[str] = ()) -> Items:
    """Read a task's questions and its worked examples.

    Args:
        name: The task's name.
        task: Its definition.
        data: The data folder.
        split: The part of an exam to ask; empty: the task's own.
        subjects: Only these subjects; empty: all.

    Raises:
        UserError: Its files are not there, a row is no question of the task (with file and line), or there is no such
            subject.
    """
    if task.reader == "exam":
        return _read_exam(name, task, data, split or task.split, subjects)
    # one's own file is that one, and none of its name in a folder below
    files = [data / file for file in task.files] if task.reader == "own" else _find_files(name, task.files, data)
    labels = _read_labels(task, data) if task.labels_file else None
    unread: Counter[str] = Counter()
    questions = [item for file in files for item in _read_file(name, task, file, labels, unread)]
    if subjects:
        known = sorted({item.subject for item in questions if item.subject})
        for subject in subjects:
            if subject not in known:
                what = tr("the task {task} has no subject '{subject}'", task=name, subject=subject)
                raise UserError(what, data, tr("it has {names}", names=join_list(known[:20]) or "–"))
        questions = [item for item in questions if item.subject in subjects]
    if not questions:
        raise UserError(tr("there is no question in these files"), files[0])
    seen: set[str] = set()
    for index, item in enumerate(questions):
        if item.id in seen:  # ids of several files
            questions[index] = replace(item, id=f"{item.id}/{index}")
        seen.add(questions[index].id)
    shots_files = [file for pattern in task.shots_files for file in _match_files(data, pattern)][:1]
    if not shots_files and task.shots_files and _is_hub_snapshot(data):
        names = [pattern.rpartition("/")[2] for pattern in task.shots_files if "/" in pattern]
        shots_files = [file for name in names for file in _match_files(data, name)][:1]
    if shots_files:
        examples = list(_read_file(name, task, shots_files[0], None))
        by_subject = {subject: [item for item in examples if item.subject == subject] for subject in
                      {item.subject for item in examples}}  # fmt: skip
        return Items(questions, {"": examples, **by_subject})
    if not task.own_examples:
        return Items(questions, {}, unread=unread)
    return Items(questions, {"": questions[::-1]}, unread=unread)  # of a file without examples: its last questions


def shuffle_choices(item: Item, seed: int) -> Item:
    """The question with its choices in a random order that depends on the seed and its id alone."""
    if len(item.choices) < 2:
        return item
    order = list(range(len(item.choices)))
    random.Random(f"{seed}/{item.id}").shuffle(order)
    choices = tuple(item.choices[index] for index in order)
    return replace(item, choices=choices, gold=tuple(order.index(index) for index in item.gold))


_ROW_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".gz")


def _is_hub_snapshot(folder: Path) -> bool:
    """Whether a folder is a data set in the cache of a hub: `datasets--OWNER--NAME/snapshots/REVISION` of Hugging Face,
    `datasets/OWNER--NAME/snapshots/REVISION` of ModelScope.
    """
    repository = folder.parent.parent
    is_dataset = repository.name.startswith("datasets--") or repository.parent.name == "datasets"
    return folder.parent.name == "snapshots" and is_dataset


def _match_files(data: Path, pattern: str) -> list[Path]:
    """The files anywhere below the data folder that a pattern matches, sorted."""
    return list_files(data, pattern) if data.is_dir() else []


def _find_files(name: str, patterns: Sequence[str], data: Path) -> list[Path]:
    """The files of the first pattern that matches, anywhere below the data folder."""
    for pattern in patterns:
        files = [data] if data.is_file() and data.match(pattern) else []
        files += _match_files(data, pattern)
        if files:
            return files
    if _is_hub_snapshot(data):  # a data set of the hub is its own folder: its files lie in `data/`, or in its parts
        for pattern in patterns:
            names = pattern.rpartition("/")[2]
            files = [path for path in _match_files(data, names) if path.suffix in _ROW_SUFFIXES]
            if "/" in pattern and files:  # of several configurations the first: `main` of GSM8K
                return [path for path in files if path.parent == files[0].parent]
    what = tr("the files of the task {task} are not here", task=name)
    raise UserError(what, data, tr("looked for {names}", names=join_list(list(patterns))))


# --- exams ------------------------------------------------------------------------------------------------------------


def _read_exam(name: str, task: Task, data: Path, split: str, wanted: Sequence[str]) -> Items:
    folders = [data / pattern for pattern in task.files if (data / pattern).is_dir()]
    folders += [path for pattern in task.files for path in sorted(data.glob(f"*/{pattern}")) if path.is_dir()]
    if not folders and (data / "dev").is_dir():  # the exam's own folder
        folders = [data]
    if not folders:
        what = tr("the files of the task {task} are not here", task=name)
        raise UserError(what, data, tr("looked for {names}", names=join_list([f"{file}/" for file in task.files])))
    folder = ExamFolder(task.columns, folders[0])
    names: Mapping[str, str] = {"cmmlu": subject_tables.CMMLU, "ceval": subject_tables.CEVAL, "": {}}[
        task.subject_names
    ]
    questions: list[Item] = []
    examples: dict[str, list[Item]] = {}
    for subject in folder.subjects(split, wanted):
        title = names.get(subject, subject.replace("_", " "))
        questions += [_exam_item(question, title) for question in folder.read(split, subject)]
        examples[subject] = [_exam_item(question, title) for question in folder.read("dev", subject)]
    if not questions:
        raise UserError(tr("there is no question in these files"), folder.folder)
    unanswered = sorted({item.subject for item in questions if not item.gold})
    if unanswered and any(item.gold for item in questions):
        what = tr("these subjects have no answers, others have: {subjects}", subjects=join_list(unanswered[:12]))
        raise UserError(what, folder.folder, tr("name the subjects to ask in `subjects`"))
    return Items(questions, examples)


def _exam_item(question: ExamQuestion, title: str) -> Item:
    gold = (LETTERS.index(question.answer),) if question.answer else ()
    fields = {"question": question.text.strip(), "subject": title}
    return Item(question.id, question.subject, fields, question.choices, gold)


# --- rows -------------------------------------------------------------------------------------------------------------


def _read_file(
    name: str, task: Task, file: Path, labels: Sequence[str] | None, unread: Counter[str] | None = None
) -> Iterator[Item]:
    source = SourceFile(file, file.name, 0, Source(path=str(file)))
    index = 0
    with InputFile(file) as input_file:
        for row in read_rows(source, detect_layout(source), input_file):
            location = f"{file}:{row.line}"
            if isinstance(row.value, Drop):
                raise UserError(f"{describe_reason(row.value.reason)} ({row.value.detail})", location)
            if task.reader == "own":
                yield _own_item(decode_cells(row.value), f"{file.stem}#{index + 1}", location, unread)
                index += 1
                continue
            for value in _nested_rows(row.value, task, file):
                if labels is not None:
                    if index >= len(labels):
                        raise UserError(tr("there are fewer right answers than questions"), location)
                    value = {**value, "label": labels[index]}
                index += 1
                if any(_is_skipped(layout, value) for layout in task.layouts):
                    continue
                if INSTRUCTIONS in value:
                    check_instructions(value, location)
                yield _item(name, task, {**value, "_file": file.name.partition(".")[0]}, index, location)


def _read_labels(task: Task, data: Path) -> list[str]:
    (file, *_) = _find_files(task.labels_file, (task.labels_file,), data)
    return file.read_text(encoding="utf-8").split()


def _nested_rows(row: Any, task: Task, file: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of questions in a row of the file."""
    kind = task.layouts[0].rows if task.layouts else ""
    if kind == "c3" and isinstance(row, list) and len(row) == 3:
        passage, questions, name = row
        part = "dialogue" if "-d-" in file.name else "mixed"
        for number, question in enumerate(questions):
            yield {**question, "passage": "\n".join(passage), "id": f"{part}/{name}/{number}", "part": part}
    elif kind == "squad" and isinstance(row, Mapping):
        for article in row.get("data", [row]):
            for paragraph in article.get("paragraphs", [article]):
                for question in paragraph.get("qas", ()):
                    texts = [
                        answer["text"] if isinstance(answer, Mapping) else answer for answer in question["answers"]
                    ]
                    yield {**question, "context": paragraph.get("context", ""), "answers": texts}
    elif kind == "gaokao" and isinstance(row, Mapping):
        examples = row["example"] if isinstance(row.get("example"), list) else [row]
        for number, example in enumerate(examples):
            yield from read_gaokao_rows(example, file, number)
    elif isinstance(row, Mapping):
        yield row
    else:
        yield {}


def _item(name: str, task: Task, row: Mapping[str, Any], index: int, location: str) -> Item:
    problem = ""
    for layout in task.layouts:
        try:
            return _read_row(layout, row, f"{row['_file']}#{index}")
        except _Missing as missing:
            problem = problem or str(missing)
    shown = join_list([key for key in row if key != "_file"][:12])
    what = tr(
        "not a question of the task {task}: no {part} in a row with {columns}", task=name, part=problem, columns=shown
    )
    raise UserError(what, location)


def _read_row(layout: RowLayout, row: Mapping[str, Any], default_id: str) -> Item:
    fields = {name: _text(row, path) for name, path in layout.fields.items()}
    for name, pattern in layout.find.items():
        match = re.search(pattern, fields[name])
        if match is None:
            raise _Missing(f"`{name}`")
        fields[name] = match[1]
    for name, pattern in layout.remove.items():
        if name in fields:
            fields[name] = re.sub(pattern, "", fields[name])
    for name, texts in layout.values.items():
        if fields[name] not in texts:
            raise _Missing(f"`{name}`")
        fields[name] = texts[fields[name]]
    choices = _choices(layout, row)
    gold = _gold(layout, row, choices) if choices else ()
    answers: list[str] = []
    for path in (layout.answers,) if isinstance(layout.answers, str) and layout.answers else layout.answers:
        value = fields[path] if path in fields else _value(row, path)
        answers += [str(item) for item in (value if isinstance(value, list) else [value])]
    subject = _text(row, layout.subject) if layout.subject else ""
    fields.setdefault("subject", subject)
    item_id = str(_value(row, layout.id)) if layout.id else default_id
    return Item(item_id, subject, fields, choices, gold, tuple(dict.fromkeys(answers)), row=row)


def _is_skipped(layout: RowLayout, row: Mapping[str, Any]) -> bool:
    return any(row.get(name) == value for name, value in layout.skip.items())


def _choices(layout: RowLayout, row: Mapping[str, Any]) -> tuple[str, ...]:
    if layout.choice_texts:
        return layout.choice_texts
    if not layout.choices:
        return ()
    if isinstance(layout.choices, str):
        value = _value(row, layout.choices)
        if isinstance(value, str) and layout.split_choices:
            value = re.split(layout.split_choices, value)
            value = value[not value[0] : len(value) - (not value[-1])]  # what stands around the choices is none
        if not isinstance(value, list) or len(value) < 2:
            raise _Missing(f"`{layout.choices}`")
        texts = [str(text) for text in value]
    else:
        texts = [_text(row, path) for path in layout.choices]
    pattern = layout.remove.get("choices", "")
    return tuple(re.sub(pattern, "", text).strip() if pattern else text for text in texts)


def _gold(layout: RowLayout, row: Mapping[str, Any], choices: Sequence[str]) -> tuple[int, ...]:
    """The numbers of the right choices: one, or several where a row has several letters."""
    if layout.gold_index is not None:
        return (layout.gold_index,)
    value = _value(row, layout.gold)
    if layout.labels:
        labels = _value(row, layout.labels) if isinstance(layout.labels, str) else list(layout.labels)
        texts = [str(label) for label in labels]
        if str(value) in texts:
            return (texts.index(str(value)),)
        raise _Missing(f"`{layout.gold}`")
    if isinstance(value, bool):
        return (int(value),)
    text = str(value).strip()
    if text.isdecimal() and int(text) < len(choices):
        return (int(text),)
    if text in choices:
        return (choices.index(text),)
    letters, several = LETTERS[: len(choices)], re.sub(r"[\s,、]+", "", unicodedata.normalize("NFKC", text))
    if several and all(letter in letters for letter in several) and len(set(several)) == len(several):
        return tuple(letters.index(letter) for letter in several)
    pattern = layout.remove.get("choices", "")
    if pattern and re.sub(pattern, "", text).strip() in choices:
        return (choices.index(re.sub(pattern, "", text).strip()),)
    raise _Missing(
        tr(
            "right answer among {count} choices (`{name}` is {value!r})",
            count=len(choices),
            name=layout.gold,
            value=text[:40],
        )
    )


def _value(row: Mapping[str, Any], path: str) -> Any:
    value: Any = row
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise _Missing(f"`{path}`")
    return value


def _text(row: Mapping[str, Any], path: str) -> str:
    value = _value(row, path)
    if value is None:
        return ""
    if not isinstance(value, str | int | float):
        raise _Missing(f"`{path}`")
    return str(value)


# --- questions of a user ----------------------------------------------------------------------------------------------

_MATCHES = ("exact", "contains", "number", "regex", "judge")


def _own_item(row: Any, default_id: str, location: str, unread: Counter[str] | None) -> Item:
    """A question of one's own: with choices, else as `read_question` reads it, and perhaps `match`."""
    choice = read_choice_question(row, default_id, location, unread)
    if choice is not None:
        asked = {"question": choice.text, "subject": choice.subject}
        return Item(choice.id, choice.subject, asked, choice.choices, choice.gold, match="choice")
    if is_exam(row):
        what, hint = tr("the choices of this question are not read"), tr("a row has `question`, `choices` and `answer`")
        raise UserError(what, location, hint)
    if isinstance(row, Mapping) and INSTRUCTIONS in row:
        raise UserError(tr("this is a row of IFEval"), location, tr("ask the task `ifeval`"))
    if isinstance(row, Mapping) and row.get("match") == "judge":
        return _judged_item(row, default_id, location, unread)
    read = read_question(row, default_id, location, unread)
    match = row.get("match", "exact")
    if match not in _MATCHES:
        what = tr("`match` is {value!r}, not one of {names}", value=match, names=join_list(list(_MATCHES)))
        raise UserError(what, location)
    if match == "regex":
        for text in read.answers:
            try:
                re.compile(text)
            except re.error as error:
                what = tr("{pattern!r} is no regular expression: {error}", pattern=text, error=error)
                raise UserError(what, location) from error
    fields = {"question": "\n".join(message.text for message in read.messages), "subject": read.topic}
    turns = read.messages if len(read.messages) > 1 else ()
    return Item(read.id, read.topic, fields, (), (), read.answers, match, messages=turns)


def _judged_item(row: Mapping[str, Any], default_id: str, location: str, unread: Counter[str] | None) -> Item:
    """A question whose answer has no score: a judge compares it with that of another model."""
    question = row.get("question")
    if not isinstance(question, str) or not question.strip():
        raise UserError(tr("a question with `match: judge` needs `question`"), location)
    if row.get("answer") is not None or row.get("answers") is not None:
        what = tr("a question with `match: judge` has no right answer")
        raise UserError(what, location, tr("leave out `answer`, or name another `match`"))
    if unread is not None:
        unread.update(find_others(row, ("question", "match", "subject", "id")))
    subject = str(row.get("subject", ""))
    fields = {"question": question.strip(), "subject": subject}
    return Item(str(row.get("id", default_id)), subject, fields, match="judge")
