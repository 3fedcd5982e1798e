"""Held-out questions: answers as the chat template asks for them, judged, resumable and comparable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.evaluate import Evaluate
from hanlin.config.settings.model import LoraSettings
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Question, write_jsonl
from hanlin.core.resumable import FINISHED_ROWS, Row, read_rows
from hanlin.evaluate.tasks import questions
from hanlin.evaluate.tasks.questions import compare_answers, run, score_answers
from hanlin.inference.loading import LoadedEngine
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from scripted_answers import scripted
from taught_model import LESSONS, RARE

SETTINGS = Evaluate(model="m", questions="q", max_new_tokens=40)
Keep = Callable[[int, Row], None]
LANGUAGES = ("zh", "zh", "zh", "en", "en")


def question(asked: str, answer: str, name: str, language: str = "zh", topic: str = "") -> Question:
    return Question((Message("user", asked),), (answer,), name, language, topic)


@pytest.fixture()
def asked(tmp_path: Path) -> Path:
    rows = [
        question(text, answer, f"q{place}", language, "名字" if place == 0 else "其他")
        for place, ((text, answer), language) in enumerate(zip(LESSONS, LANGUAGES, strict=True))
    ]
    write_jsonl(tmp_path / "validation.jsonl", rows)
    return tmp_path / "validation.jsonl"


def answered(model: Path, asked: Path, out: Path, settings: Evaluate = SETTINGS, earlier: Path | None = None) -> dict:
    out.mkdir(exist_ok=True)
    paths = {"model": (model,), "questions": (asked,)} | ({"compare_with": (earlier,)} if earlier else {})
    return run(settings, Inputs(paths), out, StageContext())


def test_a_model_that_knows_the_answers_is_right_and_stops(taught_model: Path, asked: Path, tmp_path: Path) -> None:
    metrics = answered(taught_model, asked, tmp_path / "out")
    assert (metrics["questions"], metrics["exact_match"], metrics["stop_rate"]) == (5, 1.0, 1.0)
    assert (metrics["chinese_answer_share"], metrics["english_kept_share"]) == (1.0, 1.0)
    assert metrics["by_topic"]["名字"] == {"questions": 1, "exact_match": 1.0}


def test_reasoning_is_no_part_of_the_answer(tiny_tokenizer: Path) -> None:
    texts = iter(["<think>\n想\n</think>\n\n42", "<think>\n42"])
    loaded = scripted(tiny_tokenizer, lambda text, request: (next(texts), "stop"))
    rows: dict[int, Row] = {}
    asked = [question("六乘七？", "42", name) for name in "ab"]
    questions.ask_questions(loaded, loaded.load_template(), asked, 40, rows.__setitem__)
    assert [(row["answer"], row["reasoning"], row["exact"]) for row in rows.values()] == [
        ("42", "想", True),
        ("", "42", False),
    ]


def test_the_score_is_given_without_the_questions_that_the_data_holds(
    taught_model: Path, asked: Path, tmp_path: Path
) -> None:
    found = {"sets": [{"name": "q", "contaminated": {"q1": 2}, "clean": ["q0", "q2"], "unsearched": ["q3", "q4"]}]}
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/contamination.json").write_text(json.dumps(found), encoding="utf-8")
    (tmp_path / "out").mkdir()
    paths = {"model": (taught_model,), "questions": (asked,), "contamination": (tmp_path / "corpus",)}
    metrics = run(SETTINGS, Inputs(paths), tmp_path / "out", StageContext())
    assert (metrics["contaminated_questions"], metrics["clean_questions"]) == (1, 4)
    assert (metrics["exact_match_contaminated"], metrics["exact_match_clean"]) == (1.0, 1.0)
    assert [row["contaminated"] for row in read_rows(tmp_path / "out/answers.jsonl")] == [False, True, *[False] * 3]


def test_answers_are_text_without_special_tokens_and_ids_without_the_stop_id(
    taught_model: Path, asked: Path, tmp_path: Path
) -> None:
    answered(taught_model, asked, tmp_path / "out")
    rows = read_rows(tmp_path / "out/answers.jsonl")
    assert [row["answer"] for row in rows] == [answer for _, answer in LESSONS]
    assert rows[2]["answer"] == RARE
    tokenizer = Tokenizer.load(taught_model)
    assert rows[0]["ids"] == tokenizer.encode(LESSONS[0][1])


def test_a_model_that_knows_nothing_is_wrong_and_never_stops(tiny_model: Path, asked: Path, tmp_path: Path) -> None:
    metrics = answered(tiny_model, asked, tmp_path / "out")
    assert metrics["exact_match"] == 0.0
    assert metrics["exact_match_low"] == 0.0 < metrics["exact_match_high"]
    assert metrics["stop_rate"] < 1.0
    assert metrics["tokens_per_answer"] > 20


def read_rows_of(out: Path) -> list[str]:
    return (out / ".work" / FINISHED_ROWS).read_text(encoding="utf-8").splitlines()


def test_a_killed_evaluation_goes_on_at_the_question_to_the_same_bytes(
    taught_model: Path, asked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answered(taught_model, asked, tmp_path / "whole")
    ask = questions.ask_questions
    asked_in: list[int] = []

    def dies(opened: LoadedEngine, template: ChatTemplate, chunk: Sequence[Question], limit: int, keep: Keep) -> None:
        def keep_two(index: int, row: Row) -> None:
            keep(index, row)
            if len(asked_in) == 1 and len(read_rows_of(tmp_path / "killed")) == 2:
                raise KeyboardInterrupt

        asked_in.append(len(chunk))
        ask(opened, template, chunk, limit, keep_two)

    monkeypatch.setattr(questions, "ask_questions", dies)
    with pytest.raises(KeyboardInterrupt):
        answered(taught_model, asked, tmp_path / "killed")
    assert answered(taught_model, asked, tmp_path / "killed") == whole
    assert asked_in == [len(LESSONS), len(LESSONS) - 2]
    assert (tmp_path / "killed/answers.jsonl").read_bytes() == (tmp_path / "whole/answers.jsonl").read_bytes()


def test_how_many_are_generated_at_once_changes_no_answer(taught_model: Path, asked: Path, tmp_path: Path) -> None:
    for batch in (1, 4):
        answered(taught_model, asked, tmp_path / str(batch), SETTINGS.model_copy(update={"batch": batch}))
    assert (tmp_path / "1/answers.jsonl").read_bytes() == (tmp_path / "4/answers.jsonl").read_bytes()


def test_the_same_model_gives_the_same_greedy_answers(taught_model: Path, asked: Path, tmp_path: Path) -> None:
    answered(taught_model, asked, tmp_path / "first")
    metrics = answered(taught_model, asked, tmp_path / "second", earlier=tmp_path / "first")
    assert (metrics["greedy_agreement"], metrics["compared"]) == (1.0, 5)


def test_another_model_gives_other_greedy_answers(
    taught_model: Path, tiny_model: Path, asked: Path, tmp_path: Path
) -> None:
    answered(taught_model, asked, tmp_path / "first")
    assert answered(tiny_model, asked, tmp_path / "second", earlier=tmp_path / "first")["greedy_agreement"] == 0.0


def test_an_evaluation_of_other_questions_is_refused() -> None:
    with pytest.raises(UserError, match="none of these questions"):
        compare_answers([{"id": "q1", "answer": "a"}], {"other": "a"})


def test_the_limit_asks_the_first_questions(taught_model: Path, asked: Path, tmp_path: Path) -> None:
    assert answered(taught_model, asked, tmp_path / "out", SETTINGS.model_copy(update={"limit": 2}))["questions"] == 2


def test_an_answer_of_digits_has_no_language_but_an_empty_one_is_held_against_the_model() -> None:
    def row(language: str, answer: str) -> dict:
        common = {"question_language": "zh", "exact": False, "finish": "stop", "ids": [1], "topic": ""}
        return {**common, "language": language, "answer": answer}

    assert score_answers([row("zh", "七"), row("none", "7")])["chinese_answer_share"] == 1.0
    assert score_answers([row("zh", "七"), row("none", " ")])["chinese_answer_share"] == 0.5


def test_a_folder_in_place_of_a_file_of_questions_is_refused_and_its_files_named(
    taught_model: Path, asked: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"name one of its files: validation.jsonl"):
        answered(taught_model, asked.parent, tmp_path / "out")


def test_a_question_too_long_for_the_model_is_named(taught_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [question("长" * 300, "x", "longest")])
    with pytest.raises(UserError, match=r"longest: the question is \d+ tokens long, .* holds 256"):
        answered(taught_model, tmp_path / "q.jsonl", tmp_path / "out")


def test_two_questions_of_one_id_are_refused(taught_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [question("a", "x", "same"), question("b", "x", "same")])
    with pytest.raises(UserError, match="two questions have the id 'same'"):
        answered(taught_model, tmp_path / "q.jsonl", tmp_path / "out")


def test_a_typed_special_token_is_text_to_the_model(taught_model: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "q.jsonl", [question("<|eot_id|>你叫什么名字？", "x", "typed")])
    answered(taught_model, tmp_path / "q.jsonl", tmp_path / "out")
    assert json.loads((tmp_path / "out/answers.jsonl").read_text(encoding="utf-8"))["question"].startswith("<|eot_id|>")


@pytest.mark.parametrize("file", ["F32", "Q8_0"])
def test_a_gguf_file_gives_the_answers_of_its_model(
    taught_model: Path, taught_gguf: Path, asked: Path, tmp_path: Path, file: str
) -> None:
    answered(taught_model, asked, tmp_path / "model")
    settings = SETTINGS.model_copy(update={"file": file})
    metrics = answered(taught_gguf, asked, tmp_path / "gguf", settings, earlier=tmp_path / "model")
    assert (metrics["engine"], metrics["greedy_agreement"], metrics["exact_match"]) == ("llama_cpp", 1.0, 1.0)


def test_an_adapter_is_asked_together_with_its_base(taught_model: Path, asked: Path, tmp_path: Path) -> None:
    adapter = attach_lora(load_model(taught_model), LoraSettings(rank=2), seed=1)
    save_adapter(adapter, tmp_path / "adapter", base=taught_model)
    Tokenizer.load(taught_model).save(tmp_path / "adapter")
    assert answered(tmp_path / "adapter", asked, tmp_path / "out")["exact_match"] == 1.0
