"""Three ways to ask a task give the same answer to every question: our task under profile `lm_eval`, its own task file
over our engine, and its own task file over its own `hf` model. Runs where lm_eval is installed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.evaluate import stage
from hanlin.evaluate.results import Sample, read_results
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_llama import tiny_llama

pytest.importorskip("lm_eval", reason="pip install 'hanlin[lm-eval]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of other packages

TASKS = {
    "arc_easy": "arc_easy",
    "openbookqa": "openbookqa",
    "hellaswag": "hellaswag",
    "piqa": "piqa",
    "sciq": "sciq",
    "lambada": "lambada_openai",
    "winogrande": "winogrande",
    "boolq": "boolq",
    "gsm8k": "gsm8k",
    "mmlu": "mmlu_anatomy,mmlu_virology",
    "cmmlu": "cmmlu_anatomy,cmmlu_virology",
    "mmlu_pro": "mmlu_pro_law,mmlu_pro_history",
    "ifeval": "ifeval",
}
"""Tasks of ours, and what lm-evaluation-harness calls them."""
SHOTS = {"mmlu": 2, "cmmlu": 2, "gsm8k": 2, "mmlu_pro": 2}
SETTINGS: dict[str, Any] = {"max_new_tokens": 24}


def ask(model: Path, data: Path, out: Path, **settings: Any) -> dict[str, list[Sample]]:
    """The samples of each task."""
    out.mkdir(parents=True)
    chosen = Evaluate(model="m", data="d", **SETTINGS, **settings)
    stage.run(chosen, Inputs({"model": (model,), "data": (data,)}), out, StageContext())
    results = read_results(out)
    return {row.task: results.read_samples(row) for row in results.tasks}


@pytest.fixture(scope="module")
def model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose context holds every prompt here: what is too long, each side cuts in its own way."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.load(tiny_tokenizer)
    tiny_llama(folder, tokenizer, seed=3, max_position_embeddings=2048)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def hf_model(model: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model), dtype="float32", batch_size=3, device="cpu")


def ask_theirs(hf_model: Any, data: Path, names: str, shots: int | None) -> Mapping[str, Any]:
    """Its own report of its own model over the same data, questions and worked examples."""
    from lm_eval.evaluator import evaluate

    from hanlin.evaluate.harness.stage import _prepare
    from hanlin.evaluate.harness.tasks import LocalTasks

    tasks = LocalTasks(data, (names,))
    loaded = tasks.load()
    settings = Evaluate(model="m", data="d", lm_eval_tasks=(names,), shots=shots, **SETTINGS)
    for name, task in loaded["tasks"].items():
        _prepare(name, task, settings, tasks.has_examples(name))
    report: Mapping[str, Any] = evaluate(hf_model, loaded, bootstrap_iters=0)
    return report["samples"]


def require_ifeval() -> None:
    """Skip where its authors' rules lack what they need; without NLTK's data they would fetch it."""
    pytest.importorskip("langdetect")
    pytest.importorskip("immutabledict")
    nltk = pytest.importorskip("nltk")
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        pytest.skip("NLTK's punkt_tab is not here")


@pytest.mark.parametrize("name", TASKS)
def test_every_question_has_the_answer_of_its_own_hf_model(
    name: str, model: Path, made_up_data: Path, tmp_path: Path, hf_model: Any
) -> None:
    shots = SHOTS.get(name)
    if name == "ifeval":
        require_ifeval()
    ours = ask(model, made_up_data, tmp_path / "ours", tasks=(name,), profiles=("lm_eval",), shots=shots)[name]
    through = ask(model, made_up_data, tmp_path / "through", lm_eval_tasks=(TASKS[name],), shots=shots)
    theirs = ask_theirs(hf_model, made_up_data, TASKS[name], shots)
    assert list(through) == list(theirs) == TASKS[name].split(",")
    mine = iter(ours)
    for task, samples in through.items():
        rows = {row["doc_id"]: row for row in theirs[task]}  # under several filters the last
        assert len(samples) == len(rows) > 3
        for index, sample in enumerate(samples):
            own, row = next(mine), rows[index]
            if "output" in sample:
                assert sample["output"] == own["output"] == row["resps"][0][0]
                if name == "ifeval":
                    strict = row["inst_level_strict_acc"]
                    assert own["scores"]["inst_level_strict_acc"] == sum(strict) / len(strict)
                    assert all(own["scores"][metric] == value for metric, value in sample["scores"].items())
                    assert sample["scores"]["prompt_level_strict_acc"] == float(all(strict))
                continue
            expected = pytest.approx([float(answer[0][0]) for answer in row["resps"]], abs=2e-4)
            assert sample["logprobs"] == expected
            assert own["logprobs"] == expected
            for metric, value in sample["scores"].items():
                assert value == float(row[metric])
                assert own["scores"].get(metric, value) == value
    assert next(mine, None) is None


@pytest.mark.parametrize("name", ["arc_easy", "hellaswag", "lambada", "winogrande", "mmlu"])
def test_a_real_model_answers_real_questions_as_its_own_hf_model(name: str, shared_data: Path, tmp_path: Path) -> None:
    folder = os.environ.get("HANLIN_MODEL", "")
    if not folder:
        pytest.skip("HANLIN_MODEL names no model folder")
    from lm_eval.models.huggingface import HFLM

    model = Path(folder)
    names = {"mmlu": "mmlu_anatomy"}.get(name, TASKS[name])
    through = ask(model, shared_data, tmp_path / "through", lm_eval_tasks=(names,), limit=8)[names]
    hf_model = HFLM(pretrained=folder, dtype="float32", batch_size=4, device="cpu")
    from lm_eval.evaluator import evaluate

    from hanlin.evaluate.harness.tasks import LocalTasks

    chosen = {names: [int(sample["id"]) for sample in through]}
    tasks = LocalTasks(shared_data, (names,)).load()
    rows = evaluate(hf_model, tasks, samples=chosen, bootstrap_iters=0)["samples"][names]
    for sample, row in zip(through, rows, strict=True):
        expected = [float(answer[0][0]) for answer in row["resps"]]
        assert sample["logprobs"] == pytest.approx(expected, abs=5e-3)
        assert all(value == float(row[metric]) for metric, value in sample["scores"].items())
