"""Hanlin's own server, scored through its address: by lm-evaluation-harness's client and by Hanlin's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.evaluate import stage
from hanlin.evaluate.results import read_results
from hanlin.inference.loading import LoadedEngine, load_engine
from live_server import LiveServer, run_server

pytest.importorskip("lm_eval", reason="pip install 'hanlin[lm-eval]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of other packages

PAIRS = (
    ("Question: what?\nAnswer:", " yes"),
    ("Question: what?\nAnswer:", " 不"),
    ("a b ", "c"),
    ("你好", "北京，城东"),
)


@pytest.fixture(scope="module", params=["transformers", "llama_cpp"])
def model(request: pytest.FixtureRequest, taught_model: Path, taught_gguf: Path) -> Iterator[LoadedEngine]:
    is_gguf = request.param == "llama_cpp"
    opened = load_engine(taught_gguf, "F32") if is_gguf else load_engine(taught_model, dtype="float32")
    yield opened
    opened.engine.close()


@pytest.fixture(scope="module")
def server(model: LoadedEngine) -> Iterator[LiveServer]:
    with run_server(model) as live:
        yield live


def instances(*rows: tuple[str, str]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type="loglikelihood", doc={}, arguments=row, idx=0) for row in rows]


@pytest.mark.parametrize("batch", [1, 3])
def test_its_own_client_gets_the_scores_of_the_model_itself(
    server: LiveServer, model: LoadedEngine, taught_model: Path, batch: int
) -> None:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from hanlin.evaluate.harness.model import HanlinLM

    client = LocalCompletionsAPI(
        base_url=f"{server.address}/v1/completions",
        model="tiny",
        tokenizer=str(taught_model),
        tokenizer_backend="huggingface",
        add_bos_token=model.tokenizer.adds_bos,  # as the model is always asked
        max_length=512,
        batch_size=batch,
    )
    theirs = client.loglikelihood(instances(*PAIRS))
    expected = HanlinLM(loaded=model).loglikelihood(instances(*PAIRS))
    assert [score for score, _ in theirs] == pytest.approx([score for score, _ in expected], abs=5e-3)
    assert [greedy for _, greedy in theirs] == [greedy for _, greedy in expected]


def test_an_exam_through_the_address_has_the_answers_of_the_model_itself(
    server: LiveServer, model: LoadedEngine, taught_model: Path, made_up_data: Path, tmp_path: Path
) -> None:
    def ask(name: str, **settings: Any) -> Any:
        (tmp_path / name).mkdir()
        inputs = {"data": (made_up_data,), **({"model": (taught_model,)} if "model" in settings else {})}
        chosen = Evaluate(data="d", lm_eval_tasks=("arc_easy", "lambada_openai", "gsm8k"), shots=0, max_new_tokens=8,
                          **settings)  # fmt: skip
        stage.run(chosen, Inputs(inputs), tmp_path / name, StageContext())
        results = read_results(tmp_path / name)
        return {
            row.task: [(sample["id"], sample["answer"], sample["scores"]) for sample in results.read_samples(row)]
            for row in results.tasks
        }

    if model.engine.name != "transformers":
        pytest.skip("the folder is asked by transformers")
    assert ask("address", address=server.address) == ask("folder", model="m")
