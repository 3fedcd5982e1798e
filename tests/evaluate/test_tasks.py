"""Tasks in their original layouts: known answers score exactly that, guesses score chance, a kill costs nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.config.settings.probe import Compare, Judge
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.comparison import stage as compare_stage
from hanlin.evaluate.results import Results, read_results
from hanlin.evaluate.tasks import stage
from hanlin.evaluate.tasks.definition import LETTERS, find_tasks, packaged_tasks
from hanlin.evaluate.tasks.items import Item, Items, read_items, shuffle_choices
from hanlin.evaluate.tasks.respond import EngineRespondent
from scripted_chat_server import chat_server
from scripted_engine import ScriptedEngine, guesses

FAST = ["arc_easy", "piqa", "sciq", "winogrande", "chid", "tnews", "ekar", "xcopa_zh", "gsm8k", "cmrc2018", "mmlu"]
TASKS = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in packaged_tasks()
    if name not in ("own_questions", "cmath", "ifeval")
]
"""Those whose real files are at hand."""
MADE_UP: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "cmath": (
        "cmath_test.jsonl",
        [
            {"question": f"筐里有{row}个梨，又放进{row}个，共有几个？", "golden": 2 * row, "grade": row}
            for row in range(1, 8)
        ],
    ),
    "ifeval": (
        "ifeval_input_data.jsonl",
        [
            {
                "key": row,
                "prompt": f"Tell story {row}.",
                "instruction_id_list": ["punctuation:no_comma"],
                "kwargs": [{}],
            }
            for row in range(7)
        ],
    ),
    "own_questions": ("mine.jsonl", [{"question": f"第{row}个问题？", "answer": f"答案{row}"} for row in range(7)]),
}
"""The other packaged tasks: their file, and rows of it."""


def ask(name: str, items: Items, engine: ScriptedEngine, out: Path, task: Any = None, **settings: Any) -> Results:
    """Ask one task with an engine, as the stage does."""
    out.mkdir(exist_ok=True)
    loaded = engine.loaded()
    named = f"{name}.yaml" if task else name
    asked = Evaluate(model="m", tasks=(named,), data="d", chat=settings.pop("chat", False), **settings)
    task_runs = stage._task_runs(asked, name, task or packaged_tasks()[name])
    respondent = EngineRespondent(loaded, ())
    return stage.run_tasks(respondent, loaded, task_runs, {name: items}, asked, out, StageContext())


class Knows:
    """Knows the right answer to every question but each third one, of which it prefers a wrong answer."""

    def __init__(self, items: Items, goes_on: bool = False) -> None:
        self.items, self.goes_on = items.questions, goes_on
        self.expected = sum(index % 3 != 0 for index in range(len(self.items))) / len(self.items)

    def find(self, text: str) -> tuple[int, Item]:
        """The question that a prompt asks: of those that it holds, the one that begins last."""

        def place(item: Item) -> int:
            texts = [item.fields.get("question", ""), *item.fields.values(), *item.choices]
            return max((text.rfind(part) for part in texts if len(part) > 3 and part != item.subject), default=-1)

        def fit(item: Item) -> tuple[int, int]:
            parts = [part for name, part in item.fields.items() if name not in ("subject", "word") and part]
            return (sum(len(part) for part in parts if part in text), place(item))

        index = max(range(len(self.items)), key=lambda number: fit(self.items[number]))
        return index, self.items[index]

    def likes(self, before: str, after: str) -> float:
        index, item = self.find(before + after)
        if item.choices:
            letter = after.strip()
            is_letter = len(letter) == 1 and letter in LETTERS[: len(item.choices)] and letter not in item.choices
            right = LETTERS[item.gold[0]] if is_letter else item.choices[item.gold[0]].strip()
            longer = [
                text for text in item.choices if text.startswith(right) and letter.startswith(text) and text != right
            ]
            matches = (letter == right) if is_letter else letter.startswith(right) or before.endswith(right)
            matches = matches and (is_letter or not longer)
        else:
            matches = after.strip() == item.answers[0]
        return 0.0 if matches == (index % 3 != 0) else -100.0

    def says(self, prompt: str) -> str:
        index, item = self.find(prompt)
        if index % 3 == 0:
            return "？？"
        if item.choices:
            answer = f"I think the answer is ({LETTERS[item.gold[0]]})."
        else:
            answer = next((text for text in item.answers if not set(text) & set(".,\n")), item.answers[0])
        return f" {answer}\nQuestion: next" if self.goes_on else f" {answer}"


@pytest.mark.parametrize("name", TASKS)
def test_known_answers_score_exactly_what_is_known(name: str, shared_data: Path, tmp_path: Path) -> None:
    task = packaged_tasks()[name]
    read = read_items(name, task, shared_data)
    count = len(read.questions)
    items = Items(
        [read.questions[index * count // 7] for index in range(7)] if count >= 7 else read.questions, read.examples
    )
    for item in items.questions:
        assert item.gold or item.answers
        assert all(choice.strip() for choice in item.choices)
    knows = Knows(items, goes_on=all(profile.until for profile in task.profiles.values()))
    engine = ScriptedEngine(knows.likes, knows.says)
    shots = {"ceval": 1, "mmlu_pro": 0}.get(name)  # the samples have two worked examples, and none
    profiles = tuple(task.profiles)
    results = ask(name, items, engine, tmp_path / "out", profiles=profiles, shots=shots, max_new_tokens=4000)
    assert [row.profile for row in results.tasks] == list(task.profiles)
    for row in results.tasks:
        assert row.score is not None
        if row.average == "micro":
            assert row.score.value == pytest.approx(knows.expected), row.label
        samples = read_results(tmp_path / "out").read_samples(row)
        right = [sample["scores"][row.metric] for sample in samples]
        assert right == [float(index % 3 != 0) for index in range(len(right))], row.label
        assert row.not_extracted == (0 if row.method != "generate" else sum(s["answer"] is None for s in samples))


@pytest.mark.parametrize("name", MADE_UP)
def test_known_answers_to_made_up_questions_score_exactly_what_is_known(name: str, tmp_path: Path) -> None:
    file, rows = MADE_UP[name]
    (tmp_path / file).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    asked = file if name == "own_questions" else name
    ((found, task),) = find_tasks([asked], tmp_path).items()
    items = read_items(found, task, tmp_path)
    knows = Knows(items)

    def says(prompt: str) -> str:
        if name == "ifeval":
            return "No, never." if knows.find(prompt)[0] % 3 == 0 else "There was a town."
        return knows.says(prompt)

    (row,) = ask(found, items, ScriptedEngine(says=says), tmp_path / "out", task).tasks
    samples = read_results(tmp_path / "out").read_samples(row)
    assert [sample["scores"][row.metric] for sample in samples] == [float(index % 3 != 0) for index in range(7)]
    assert row.score is not None and row.score.value == pytest.approx(4 / 7)


def test_every_packaged_task_is_asked_with_known_answers() -> None:
    real = {param if isinstance(param, str) else param.values[0] for param in TASKS}
    assert real | MADE_UP.keys() == packaged_tasks().keys()


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """Two subjects of an exam in MMLU's layout, with two worked examples and 150 questions each."""
    for split, count in (("dev", 2), ("test", 150)):
        folder = tmp_path / "data" / "mmlu" / split
        folder.mkdir(parents=True)
        for subject in ("sums", "towns"):
            answers = ["ABCD"[row * 7 % 4] for row in range(count)]
            texts = [
                ",".join("right" if letter == answer else letter.lower() for letter in "ABCD") for answer in answers
            ]
            rows = [f"Is {split} {row} {subject}?,{texts[row]},{answers[row]}\n" for row in range(count)]
            (folder / f"{subject}_{split}.csv").write_text("".join(rows), encoding="utf-8")
    return tmp_path / "data"


def reads_right(before: str, after: str) -> float:
    """Prefers the letter before the text `right` in the last question."""
    line = before[before.rindex(". right") - 1 :]
    return 0.0 if line.startswith(after.strip()) else -100.0


def test_guessing_lands_in_the_binomial_interval_and_shuffled_choices_move_nothing(exam: Path, tmp_path: Path) -> None:
    items = read_items("mmlu", packaged_tasks()["mmlu"], exam)
    plain = ask("mmlu", items, ScriptedEngine(guesses()), tmp_path / "plain", shots=2).tasks[0]
    shuffled_items = Items([shuffle_choices(item, 42) for item in items.questions], items.examples)
    shuffled = ask("mmlu", shuffled_items, ScriptedEngine(guesses()), tmp_path / "shuffled", shots=2).tasks[0]
    assert plain.near_chance and shuffled.near_chance
    assert (plain.questions, plain.chance) == (300, 0.25)
    assert plain.score is not None and shuffled.score is not None
    assert plain.score.low <= shuffled.score.value <= plain.score.high


def test_a_model_that_knows_the_text_scores_the_same_with_shuffled_choices(exam: Path, tmp_path: Path) -> None:
    items = read_items("mmlu", packaged_tasks()["mmlu"], exam)
    shuffled = Items([shuffle_choices(item, 7) for item in items.questions], items.examples)
    for index, asked in enumerate((items, shuffled)):
        row = ask("mmlu", asked, ScriptedEngine(reads_right), tmp_path / str(index), shots=0).tasks[0]
        assert row.score is not None and row.score.value == 1
    moved = [a.gold != b.gold for a, b in zip(items.questions, shuffled.questions, strict=True)]
    assert sum(moved) > len(moved) / 2


def test_two_runs_write_the_same_bytes_and_a_killed_one_goes_on_at_the_question(exam: Path, tmp_path: Path) -> None:
    items = read_items("mmlu", packaged_tasks()["mmlu"], exam)
    whole = ScriptedEngine(guesses())
    ask("mmlu", items, whole, tmp_path / "whole", shots=2)
    for dies_at in (4 * 101 + 2, 4 * 60):
        with pytest.raises(KeyboardInterrupt):
            ask("mmlu", items, ScriptedEngine(guesses(), dies_at=dies_at), tmp_path / "killed", shots=2)
    rest = ScriptedEngine(guesses())
    ask("mmlu", items, rest, tmp_path / "killed", shots=2)
    assert rest.answered == whole.answered - 4 * (101 + 60)  # a question has four choices
    for name in ("results.json", "samples-mmlu.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_long_context_keeps_the_last_examples_that_fit_and_what_never_fits_is_wrong(
    exam: Path, tmp_path: Path
) -> None:
    items = read_items("mmlu", packaged_tasks()["mmlu"], exam)
    short = ask("mmlu", items, ScriptedEngine(reads_right, context_length=190), tmp_path / "a", shots=2).tasks[0]
    assert (short.fewest_shots, short.too_long) == (1, 0)
    none = ask("mmlu", items, ScriptedEngine(reads_right, context_length=20), tmp_path / "b", shots=2).tasks[0]
    assert (none.too_long, none.fewest_shots) == (300, None)
    assert none.score is not None and none.score.value == 0


def test_a_split_without_answers_writes_the_submission(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ceval"
    for split, rows in (("dev", "0,Dev?,a,b,c,d,A,why\n"), ("test", "0,One?,a,b,c,d\n1,Two?,a,b,c,d\n")):
        (folder / split).mkdir(parents=True)
        heading = "id,question,A,B,C,D" + (",answer,explanation" if split == "dev" else "")
        (folder / split / f"law_{split}.csv").write_text(f"{heading}\n{rows}", encoding="utf-8")
    items = read_items("ceval", packaged_tasks()["ceval"], tmp_path / "data", split="test")
    likes = ScriptedEngine(lambda before, after: 0.0 if after.strip() == "C" else -1.0)
    row = ask("ceval", items, likes, tmp_path / "out", shots=1).tasks[0]
    assert (row.score, row.submission, row.questions) == (None, "submission-ceval.json", 2)
    assert json.loads((tmp_path / "out" / row.submission).read_text()) == {"law": {"0": "C", "1": "C"}}


def test_questions_of_your_own_are_matched_as_each_says(tmp_path: Path) -> None:
    rows = [
        {"question": "一加一？", "answer": "2", "match": "number"},
        {"question": "首都？", "answers": ["北京"], "match": "contains"},
        {"question": "邮编？", "answers": [r"^\d{6}$"], "match": "regex"},
        {"question": "颜色？", "choices": ["红", "绿"], "answer": "绿"},
        {"question": "名字？", "answer": "小翰"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (task,) = find_tasks(["mine.jsonl"], tmp_path).values()
    items = read_items("mine", task, tmp_path)
    says = {
        "一加一？": "等于 2.0。",
        "首都？": "首都是北京市。",
        "邮编？": "100084",
        "颜色？": "绿",
        "名字？": "我叫小翰",
    }
    engine = ScriptedEngine(says=lambda prompt: next(text for key, text in says.items() if key in prompt))
    row = ask("mine", items, engine, tmp_path / "out", task).tasks[0]
    samples = read_results(tmp_path / "out").read_samples(row)
    assert [sample["scores"]["acc"] for sample in samples] == [1, 1, 1, 1, 0]


def test_open_questions_of_your_own_are_answered_without_a_score_for_a_judge(tmp_path: Path) -> None:
    """Beside questions with a right answer, which alone make the score; two models' answers then go to the judge."""
    rows = [
        {"question": "写一句诗。", "match": "judge"},
        {"question": "一加一？", "answer": "2", "match": "number"},
        {"question": "Say something kind.", "match": "judge", "id": "kind"},
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (task,) = find_tasks(["mine.jsonl"], tmp_path).values()
    items = read_items("mine", task, tmp_path)
    for name, says in (("short", "短"), ("long", "长一些的回答 2")):
        engine = ScriptedEngine(says=lambda prompt, says=says: says)  # type: ignore[misc]
        (row,) = ask("mine", items, engine, tmp_path / name, task).tasks
        assert row.score is not None and (row.score.value, row.questions, row.submission) == (name == "long", 3, "")
        assert not list((tmp_path / name).glob("submission*"))
    longer = lambda body: ("结论：A" if body.index("长一些") < body.index("短") else "结论：B", "stop")  # noqa: E731
    with chat_server(lambda body: longer(body["messages"][0]["content"].partition("## ")[2])) as server:
        settings = Compare(results=("a", "b"), judge=Judge(address=server.url))
        folders = (tmp_path / "short", tmp_path / "long")
        (tmp_path / "out").mkdir()
        metrics = compare_stage.run(settings, Inputs({"results": folders}), tmp_path / "out", StageContext())
        asked = [request["messages"][0]["content"] for request in server.requests]
    assert metrics["judge"] == {"long": 1.0} and len(asked) == 4
    assert sum("Question" in text for text in asked) == 2


@pytest.mark.parametrize(
    ("row", "sentence"),
    [({"match": "judge"}, "needs `question`"), ({"question": "?", "answer": "x", "match": "judge"}, "no right answer")],
)
def test_a_question_for_a_judge_that_is_wrong_is_one_sentence(
    row: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (task,) = find_tasks(["mine.jsonl"], tmp_path).values()
    with pytest.raises(UserError, match=sentence):
        read_items("mine", task, tmp_path)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["cmlu"], r"no task 'cmlu' \(hint: did you mean cmmlu\?\)"),
        ([""], "no task"),
        (["other.jsonl"], "no task 'other.jsonl'"),
        (["bad.yaml"], r"has no setting 'profiles\.p\.metods'"),
    ],
)
def test_a_wrong_task_is_one_sentence_with_the_nearest_name(names: list[str], sentence: str, tmp_path: Path) -> None:
    text = "mine: {description: x, language: zh, profiles: {p: {version: '1', metods: choices}}}"
    (tmp_path / "bad.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=sentence):
        find_tasks(names, tmp_path)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("Is it?,a,b,c,d,E", "the answer is 'E', not one of A, B, C, D"),
        ("Is it?,a,b,c,A", "a question has 6 columns, this row has 5"),
    ],
)
def test_a_damaged_exam_is_one_sentence_with_the_line(row: str, sentence: str, exam: Path) -> None:
    (exam / "mmlu" / "test" / "towns_test.csv").write_text(f"{row}\n", encoding="utf-8")
    with pytest.raises(UserError, match=sentence) as caught:
        read_items("mmlu", packaged_tasks()["mmlu"], exam)
    assert str(caught.value.where).endswith("towns_test.csv:1")


def test_missing_subjects_files_and_columns_are_one_sentence(exam: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no subject 'sum'.*did you mean sums"):
        read_items("mmlu", packaged_tasks()["mmlu"], exam, subjects=("sum",))
    with pytest.raises(UserError, match="files of the task arc_easy are not here"):
        read_items("arc_easy", packaged_tasks()["arc_easy"], exam)
    (tmp_path / "arc_easy_test.jsonl").write_text('{"text": "?"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no `query` in a row with text") as caught:
        read_items("arc_easy", packaged_tasks()["arc_easy"], tmp_path)
    assert str(caught.value.where).endswith("arc_easy_test.jsonl:1")
    items = read_items("mmlu", packaged_tasks()["mmlu"], exam)
    with pytest.raises(UserError, match="9 worked examples are wanted, but there are 2 for sums"):
        ask("mmlu", items, ScriptedEngine(guesses()), tmp_path / "out", shots=9)
    with pytest.raises(UserError, match="has no profile 'opencompas'"):
        packaged_tasks()["mmlu"].profile("opencompas", "mmlu")
