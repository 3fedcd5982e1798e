"""An exam: the right token of each letter, the likeliest one chosen, and a score that says what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hanlin.config.settings.evaluate import Exam
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.resumable import Row, read_rows
from hanlin.evaluate.tasks.exam import Item, letter_ids, run, score_exam
from hanlin.evaluate.tasks.prompts import EXAMS, LETTERS, ExamFolder, Profile
from hanlin.inference.loading import LoadedEngine
from hanlin.models.load import load_model
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer

SHORT = Exam(model="m", exam="mmlu", folder="f", shots=1)


@pytest.fixture(scope="module")
def exam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two subjects of an exam in MMLU's layout, with two worked examples each."""
    folder = tmp_path_factory.mktemp("mmlu")
    for split, count in (("dev", 2), ("test", 9)):
        (folder / split).mkdir()
        for subject in ("sums", "towns"):
            rows = [f"Is {split} {row} {subject}?,{row},b,c,d,{'ABCD'[row % 4]}\n" for row in range(count)]
            (folder / split / f"{subject}_{split}.csv").write_text("".join(rows), encoding="utf-8")
    return folder


def taken(model: Path, exam_folder: Path, out: Path, settings: Exam = SHORT, seed: int = 42) -> dict:
    out.mkdir(exist_ok=True)
    return run(settings, Inputs({"model": (model,), "folder": (exam_folder,)}), out, StageContext(seed=seed))


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A tokenizer that has ` A` and `A` as two entries, as Llama 3 does."""
    folder = tmp_path_factory.mktemp("spaced")
    texts = [f"Answer: {letter}\n\n答案：\n\n" for letter in LETTERS] * 50
    return train_tokenizer(texts, vocab_size=350, template="llama3", out=folder)


def test_the_letter_after_an_english_colon_is_the_token_with_a_space(spaced: Tokenizer) -> None:
    prefix, letters = letter_ids(spaced, "x\nAnswer:", " ")
    assert [spaced.decode(ids) for ids in letters] == [" A", " B", " C", " D"]
    assert all(len(ids) == 1 for ids in letters)
    assert spaced.decode(prefix) == "x\nAnswer:"


def test_the_letter_after_a_chinese_colon_is_the_token_without(spaced: Tokenizer) -> None:
    _, letters = letter_ids(spaced, "x\n答案：", "")
    assert [spaced.decode(ids) for ids in letters] == ["A", "B", "C", "D"]


def test_a_letter_that_melts_into_its_colon_is_scored_with_it(tmp_path: Path) -> None:
    melting = train_tokenizer(["：A：B：C：D"] * 50, vocab_size=300, template="llama3", out=tmp_path)
    prefix, letters = letter_ids(melting, "答案：", "")
    assert [melting.decode([*prefix, *ids]) for ids in letters] == ["答案：A", "答案：B", "答案：C", "答案：D"]
    assert [len(ids) for ids in letters] == [1, 1, 1, 1]


def test_the_prompt_begins_with_one_begin_token(spaced: Tokenizer) -> None:
    prefix, _ = letter_ids(spaced, "<|begin_of_text|>Answer:", " ")
    assert prefix[0] == spaced.bos_id
    assert prefix.count(spaced.bos_id) == 1


def test_the_likeliest_letter_is_that_of_the_models_own_logits(
    tiny_model: Path, exam_folder: Path, tmp_path: Path
) -> None:
    taken(tiny_model, exam_folder, tmp_path / "out")
    model, tokenizer = load_model(tiny_model), Tokenizer.load(tiny_model)
    reader, profile = ExamFolder(EXAMS["mmlu"], exam_folder), EXAMS["mmlu"].profiles["paper"]
    questions = {question.id: question for question in reader.read("test", "towns")}
    rows = [row for row in read_rows(tmp_path / "out/answers.jsonl") if row["subject"] == "towns"]
    assert [row["id"] for row in rows] == list(questions)
    for row in rows:
        prompt = profile.prompt("towns", reader.read("dev", "towns")[:1], questions[row["id"]])
        prefix, letters = letter_ids(tokenizer, prompt, " ")
        for letter, ids in zip(LETTERS, letters, strict=True):
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([[*prefix, *ids]])).logits[0].log_softmax(-1)
            places = range(len(prefix) - 1, len(prefix) + len(ids) - 1)
            wanted = sum(logits[place, number].item() for place, number in zip(places, ids, strict=True))
            assert row["logprobs"][letter] == pytest.approx(wanted, abs=1e-3)
        assert row["given"] == max(LETTERS, key=row["logprobs"].__getitem__)


def test_a_random_model_is_near_chance(tiny_model: Path, exam_folder: Path, tmp_path: Path) -> None:
    metrics = taken(tiny_model, exam_folder, tmp_path / "out")
    assert metrics["near_chance"] is True
    assert (metrics["questions"], metrics["subjects"], metrics["too_long"]) == (18, 2, 0)
    assert (metrics["profile"], metrics["split"], metrics["shots"]) == ("mmlu/paper/1", "test", 1)
    assert (metrics["accuracy"], metrics["average"]) == (metrics["micro_accuracy"], "micro")


def test_a_killed_exam_resumes_to_the_same_bytes(
    tiny_model: Path, exam_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hanlin.evaluate.tasks import exam

    monkeypatch.setattr(exam, "_CHUNK_SIZE", 5)
    whole = taken(tiny_model, exam_folder, tmp_path / "whole")
    asked: list[int] = []
    answer = exam.answer

    def dies(opened: LoadedEngine, profile: Profile, items: Sequence[Item]) -> list[Row]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(len(items))
        return answer(opened, profile, items)

    monkeypatch.setattr(exam, "answer", dies)
    with pytest.raises(KeyboardInterrupt):
        taken(tiny_model, exam_folder, tmp_path / "killed")
    assert not (tmp_path / "killed/answers.jsonl").exists()
    monkeypatch.setattr(exam, "answer", answer)
    assert taken(tiny_model, exam_folder, tmp_path / "killed") == whole
    assert (tmp_path / "killed/answers.jsonl").read_bytes() == (tmp_path / "whole/answers.jsonl").read_bytes()


def test_the_limit_draws_questions_by_the_seed(tiny_model: Path, exam_folder: Path, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"limit": 3})
    drawn = {}
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        taken(tiny_model, exam_folder, tmp_path / name, settings, seed)
        drawn[name] = [row["id"] for row in read_rows(tmp_path / name / "answers.jsonl")]
    assert drawn["one"] == drawn["again"] != drawn["two"]
    assert len(drawn["one"]) == 6
    assert drawn["one"] == sorted(drawn["one"])


def test_equal_prompts_have_an_equal_hash_and_other_prompts_another(
    tiny_model: Path, exam_folder: Path, tmp_path: Path
) -> None:
    def hashed(**changed: object) -> str:
        return taken(tiny_model, exam_folder, tmp_path / "out", Exam.model_validate({**SHORT.model_dump(), **changed}))[
            "prompts_sha256"
        ]

    assert hashed() == hashed(file="")
    assert len({hashed(), hashed(shots=0), hashed(subjects=("sums",))}) == 3


def test_examples_that_do_not_fit_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    for split, count in (("dev", 5), ("test", 1)):
        (tmp_path / split).mkdir()
        rows = [f"{split} {row} " + "word " * 8 + ",a,b,c,d,A\n" for row in range(count)]
        (tmp_path / split / f"long_{split}.csv").write_text("".join(rows), encoding="utf-8")
    metrics = taken(tiny_model, tmp_path, tmp_path / "out", SHORT.model_copy(update={"shots": 5}))
    (row,) = read_rows(tmp_path / "out/answers.jsonl")
    assert 0 <= row["shots"] < 5
    assert metrics["fewest_shots"] == row["shots"]


def test_a_question_that_does_not_fit_at_all_counts_as_wrong(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test/x_test.csv").write_text("long " * 300 + ",a,b,c,d,A\n", encoding="utf-8")
    metrics = taken(tiny_model, tmp_path, tmp_path / "out", SHORT.model_copy(update={"shots": 0}))
    assert (metrics["too_long"], metrics["micro_accuracy"]) == (1, 0.0)


def test_more_examples_than_dev_has_are_refused(tiny_model: Path, exam_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 worked examples are wanted, but dev has 2 for sums"):
        taken(tiny_model, exam_folder, tmp_path / "out", SHORT.model_copy(update={"shots": 5}))


def test_a_group_of_an_unknown_subject_is_refused(tiny_model: Path, exam_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean sums"):
        taken(tiny_model, exam_folder, tmp_path / "out", SHORT.model_copy(update={"groups": {"all": ("sum",)}}))


def test_a_gguf_file_finds_the_letters_as_likely_as_its_model_does(
    taught_model: Path, taught_gguf: Path, exam_folder: Path, tmp_path: Path
) -> None:
    taken(taught_model, exam_folder, tmp_path / "model")
    taken(taught_gguf, exam_folder, tmp_path / "gguf", SHORT.model_copy(update={"file": "F32"}))
    rows = zip(read_rows(tmp_path / "model/answers.jsonl"), read_rows(tmp_path / "gguf/answers.jsonl"), strict=True)
    for model, gguf in rows:
        assert gguf["logprobs"] == pytest.approx(model["logprobs"], abs=0.05)


def rows_of(**subjects: list[bool]) -> list[dict]:
    return [
        {"subject": subject, "right": right, "given": "A", "shots": 5}
        for subject, answers in subjects.items()
        for right in answers
    ]


def test_macro_averages_subjects_and_micro_questions() -> None:
    metrics = score_exam(rows_of(a=[True] * 9 + [False], b=[False, False]))
    assert metrics["micro_accuracy"] == pytest.approx(9 / 12)
    assert metrics["macro_accuracy"] == pytest.approx((0.9 + 0.0) / 2)


def test_a_subject_may_count_in_several_groups() -> None:
    rows = rows_of(a=[True, True], b=[False, True], c=[False, False])
    metrics = score_exam(rows, {"x": ("a", "b"), "y": ("b", "c")})
    assert metrics["by_group"] == {"x": 0.75, "y": 0.25}


def test_a_score_well_above_guessing_is_not_near_chance() -> None:
    assert score_exam(rows_of(a=[True] * 40 + [False] * 60))["near_chance"] is False
    assert score_exam(rows_of(a=[True] * 30 + [False] * 70))["near_chance"] is True


def test_an_exam_is_also_scored_without_the_questions_that_the_data_holds(
    tiny_model: Path, exam_folder: Path, tmp_path: Path
) -> None:
    ids = [f"{subject}/test/{row}" for subject in ("sums", "towns") for row in range(9)]
    found = {"sets": [{"name": "mmlu", "contaminated": {ids[0]: 1, ids[9]: 1}, "clean": ids[1:], "unsearched": []}]}
    (tmp_path / "contamination.json").write_text(json.dumps(found), encoding="utf-8")
    paths = {"model": (tiny_model,), "folder": (exam_folder,), "contamination": (tmp_path / "contamination.json",)}
    (tmp_path / "out").mkdir()
    metrics = run(SHORT, Inputs(paths), tmp_path / "out", StageContext())
    rows = read_rows(tmp_path / "out/answers.jsonl")
    clean = [row["right"] for row in rows if not row["contaminated"]]
    assert len(clean) == 16 == metrics["clean_questions"] and metrics["contaminated_questions"] == 2
    assert metrics["accuracy_clean"] == pytest.approx(sum(clean) / 16)


# ----------------------------------------------------------------------------------------- splits without answers


@pytest.fixture()
def ceval_folder(tmp_path: Path) -> Path:
    """C-Eval's layout: `test` has no column of answers."""
    folder = tmp_path / "ceval"
    heading = "id,question,A,B,C,D"
    for split, columns, tail in (("dev", ",answer,explanation", ",A,略"), ("val", ",answer", ",B"), ("test", "", "")):
        (folder / split).mkdir(parents=True)
        for subject in ("accountant", "law"):
            rows = [f"{row},{split} {row} 的答案是？,{row},乙,丙,丁{tail}\n" for row in range(3)]
            text = f"{heading}{columns}\n{''.join(rows)}"
            (folder / split / f"{subject}_{split}.csv").write_text(text, encoding="utf-8")
    return folder


CEVAL = Exam(model="m", exam="ceval", folder="f", split="test", shots=1)


def test_answers_to_a_split_without_answers_are_written_for_submission(
    tiny_model: Path, ceval_folder: Path, tmp_path: Path
) -> None:
    metrics = taken(tiny_model, ceval_folder, tmp_path / "out", CEVAL)
    assert metrics["submission"] == "submission.json" and "accuracy" not in metrics and metrics["questions"] == 6
    submission = json.loads((tmp_path / "out/submission.json").read_text(encoding="utf-8"))
    assert {subject: list(letters) for subject, letters in submission.items()} == {
        "accountant": ["0", "1", "2"],
        "law": ["0", "1", "2"],
    }
    rows = read_rows(tmp_path / "out/answers.jsonl")
    assert [row["given"] for row in rows] == [letter for answers in submission.values() for letter in answers.values()]
    assert all(row["right"] is None for row in rows)


def test_subjects_with_and_without_answers_are_not_mixed(tiny_model: Path, ceval_folder: Path, tmp_path: Path) -> None:
    (ceval_folder / "test/law_test.csv").write_text("question,A,B,C,D,answer\n问？,甲,乙,丙,丁,A\n", encoding="utf-8")
    with pytest.raises(UserError, match="no answers, others have: accountant"):
        taken(tiny_model, ceval_folder, tmp_path / "out", CEVAL)


def test_worked_examples_without_answers_are_refused(tiny_model: Path, ceval_folder: Path, tmp_path: Path) -> None:
    (ceval_folder / "dev/law_dev.csv").write_text("question,A,B,C,D\n问？,甲,乙,丙,丁\n", encoding="utf-8")
    with pytest.raises(UserError, match="worked examples of law have no answers"):
        taken(tiny_model, ceval_folder, tmp_path / "out", CEVAL)
