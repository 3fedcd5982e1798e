"""Task files of lm-evaluation-harness as a stage: its results folder, and one sentence for what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate import stage
from hanlin.evaluate.comparison.results import read_results as read_for_comparison
from hanlin.evaluate.results import read_results

OWN_TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl, train: shots.jsonl}}
output_type: multiple_choice
test_split: test
training_split: train
doc_to_text: "{{question}} ="
doc_to_choice: "{{choices}}"
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 2.0}
"""
WRITTEN_TASK = """
task: written
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}} ="
doc_to_target: "{{choices[gold]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
WHOLE_TEXT_TASK = """
task: whole_text
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: bits_per_byte}
"""

is_installed = True
try:
    import lm_eval  # noqa: F401
except ModuleNotFoundError:
    is_installed = False
needs_lm_eval = [
    pytest.mark.skipif(not is_installed, reason="pip install 'hanlin[lm-eval]'"),
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, text in (("sums", OWN_TASK), ("written", WRITTEN_TASK), ("whole_text", WHOLE_TEXT_TASK)):
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    rows = [{"question": f"{a}+{a}", "choices": [str(2 * a), str(a), "0"], "gold": 0} for a in range(1, 9)]
    for name, some in (("sums", rows[:5]), ("shots", rows[5:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return folder


def ask(model: Path | None, folder: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    chosen = Evaluate(**{"model": "m" if model else None, "data": "d", **settings})
    models = (model,) if model else ()
    return stage.run(chosen, Inputs({"model": models, "data": (folder,)}), out, StageContext())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "name one of `tasks` and `lm_eval_tasks`"),
        ({"tasks": ("mmlu",), "lm_eval_tasks": ("mmlu",)}, "name one of `tasks` and `lm_eval_tasks`"),
        ({"lm_eval_tasks": ("mmlu",), "data": None}, "tasks need the folder of their files"),
        ({"lm_eval_tasks": ("mmlu",), "address": "http://127.0.0.1:9"}, "name either `model` or `address`"),
        ({"lm_eval_tasks": ("mmlu",), "profiles": ("paper",)}, "`profiles` has no meaning for tasks of lm-eval"),
        ({"lm_eval_tasks": ("mmlu",), "subjects": ("law",)}, "`subjects` has no meaning"),
        ({"lm_eval_tasks": ("mmlu",), "split": "val"}, "`split` has no meaning"),
        ({"lm_eval_tasks": ("mmlu",), "thinking": True}, "`thinking` has no meaning"),
        ({"lm_eval_tasks": ("mmlu",), "format_control": True}, "`format_control` has no meaning"),
        ({"lm_eval_tasks": ("mmlu",), "method": "generate"}, "`method` has no meaning"),
    ],
)
def test_settings_without_a_meaning_are_refused_before_anything_is_loaded(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        ask(tmp_path, tmp_path, tmp_path / "out", **settings)


@pytest.mark.skipif(is_installed, reason="lm_eval is installed")
def test_without_the_package_the_hint_is_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"need the package lm_eval .*pip install 'hanlin\[lm-eval\]'"):
        ask(tmp_path, tmp_path, tmp_path / "out", lm_eval_tasks=("mmlu",))


class TestWithThePackage:
    pytestmark = needs_lm_eval

    def test_a_task_file_of_ones_own_is_asked_with_worked_examples(
        self, tiny_model: Path, data: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "out"
        metrics = ask(tiny_model, data, out, lm_eval_tasks=("sums.yaml",), shots=2)
        results = read_results(out)
        (row,) = results.tasks
        assert (row.label, row.metric, row.shots, row.questions) == ("sums@lm_eval_task", "acc", 2, 5)
        assert row.profile_version.endswith(", task 2.0")
        assert row.chance == pytest.approx(1 / 3) and row.score is not None
        samples = results.read_samples(row)
        assert row.example_prompt.count(" = ") == 2 and row.example_prompt.endswith("1+1 =")
        assert [sample["target"] for sample in samples] == ["A"] * 5
        assert samples[0]["choices"] == [" 2", " 1", " 0"] and len(samples[0]["logprobs"]) == 3
        assert all(sample["scores"]["acc"] == float(sample["answer"] == "A") for sample in samples)
        assert metrics["scores"] == {"sums@lm_eval_task": row.score.value} and metrics["questions"] == 5
        assert metrics["lm_eval"] == {"sums": {"acc": row.score.value}}
        assert json.loads((out / "lm_eval.json").read_text())["lm_eval"] == metrics["lm_eval"]
        assert [task.name for task in read_for_comparison(out).tasks] == ["sums"]

    def test_written_answers_and_whole_texts_are_kept(self, tiny_model: Path, data: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        metrics = ask(tiny_model, data, out, lm_eval_tasks=("written.yaml,whole_text.yaml",), limit=3)
        written, whole = read_results(out).tasks
        assert (written.method, whole.method) == ("generate", "rolling")
        assert written.score is not None and whole.score is None  # a perplexity is no share
        assert set(metrics["lm_eval"]["whole_text"]) == {"word_perplexity", "bits_per_byte"}
        samples = read_results(out).read_samples(written)
        assert len(samples) == 3 and all("\n" not in sample["output"] for sample in samples)

    def test_two_runs_write_equal_bytes_and_questions_are_drawn_with_the_seed(
        self, tiny_model: Path, data: Path, tmp_path: Path
    ) -> None:
        for name in ("one", "two"):
            ask(tiny_model, data, tmp_path / name, lm_eval_tasks=("sums.yaml",), limit=3)
        files = sorted(path.name for path in (tmp_path / "one").iterdir() if path.is_file())
        assert files == ["lm_eval.json", "results.json", "samples-sums.jsonl"]
        for file in files:
            assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"lm_eval_tasks": ("typo.yaml",)}, r"no task 'typo.yaml'"),
            ({"lm_eval_tasks": (",",)}, "no task is named"),
            ({"lm_eval_tasks": ("arc_esay",)}, r"no task 'arc_esay' .*arc_easy"),
            (
                {"lm_eval_tasks": ("arc_easy",)},
                r"data set allenai/ai2_arc \(ARC-Easy\) of the task arc_easy is not here",
            ),
            ({"lm_eval_tasks": ("written.yaml",), "max_new_tokens": 256}, "answers of 256 tokens"),
            ({"lm_eval_tasks": ("humaneval",)}, "runs what the model writes as a program"),
        ],
    )
    def test_what_cannot_be_asked_is_one_sentence(
        self, settings: dict[str, Any], message: str, tiny_model: Path, data: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match=message):
            ask(tiny_model, data, tmp_path / "out", **settings)
        assert not (tmp_path / "out" / "results.json").exists()

    def test_task_files_that_are_damaged_or_from_a_hub_are_one_sentence(
        self, tiny_model: Path, data: Path, tmp_path: Path
    ) -> None:
        (data / "bad.yaml").write_text("task: [", encoding="utf-8")
        (data / "nameless.yaml").write_text("dataset_path: json", encoding="utf-8")
        (data / "gone.yaml").write_text(OWN_TASK.replace("sums.jsonl", "gone.jsonl"), encoding="utf-8")
        (data / "odd.yaml").write_text(OWN_TASK.replace("{{choices}}", "{{nothing.here}}"), encoding="utf-8")
        for name, message in (
            ("bad.yaml", "not a task file"),
            ("nameless.yaml", "names no task"),
            ("gone.yaml", "no such file"),
            ("odd.yaml", "cannot be loaded over this data"),
        ):
            with pytest.raises(UserError, match=message):
                ask(tiny_model, data, tmp_path / "out", lm_eval_tasks=(name,))
        (data.parent / "outside.yaml").write_text(OWN_TASK, encoding="utf-8")
        with pytest.raises(UserError, match="outside the data folder"):
            ask(tiny_model, data, tmp_path / "out", lm_eval_tasks=("../outside.yaml",))
        for hub in ("hf", "ms"):
            with pytest.raises(UserError, match="from a hub is a program"):
                ask(tiny_model, data, tmp_path / "out", lm_eval_tasks=("sums.yaml",), data=f"{hub}:me/sums@0a1b2c3d")

    def test_worked_examples_that_are_not_there_are_missed(
        self, tiny_model: Path, made_up_data: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match="wants 3 worked examples, and its data has none"):
            ask(tiny_model, made_up_data, tmp_path / "out", lm_eval_tasks=("arc_easy",), shots=3)

    def test_worked_examples_never_come_from_the_questions(self, made_up_data: Path, tmp_path: Path) -> None:
        """C-Eval asks `val` and takes its examples from `dev`, which other data sets call by each other's names."""
        from hanlin.evaluate.harness.tasks import LocalTasks

        for split in ("dev", "val"):
            folder = tmp_path / "ceval" / "ceval-exam" / split
            folder.mkdir(parents=True)
            rows = [
                {"question": f"{split} {row}?", "A": "a", "B": "b", "C": "c", "D": "d", "answer": "A"}
                for row in range(6)
            ]
            (folder / "law.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for data in (tmp_path, made_up_data):
            name = "ceval-valid_law" if data == tmp_path else "mmlu_anatomy"
            tasks = LocalTasks(data, (name,))
            task = tasks.load()["tasks"][name]
            asked = {row["question"] for row in task.eval_docs}
            assert tasks.has_examples(name) and len(asked) >= 4
            assert asked.isdisjoint(row["question"] for row in task.fewshot_docs())
