"""A model in four or eight bits is measured and asked like any other model."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.config.settings.base import setting_info
from hanlin.config.settings.evaluate import Evaluate, Perplexity
from hanlin.config.settings.export import QuantizedModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Conversation, Message, Question, write_jsonl
from hanlin.evaluate import perplexity
from hanlin.evaluate.tasks import questions, stage
from hanlin.export.hf import run as quantize
from taught_model import LESSONS

SPOKEN = [Conversation((Message("user", ask), Message("assistant", say)), ask) for ask, say in LESSONS]


@pytest.fixture(scope="module", params=["gptq", *(pytest.param(x, marks=pytest.mark.slow) for x in ("nf4", "int8"))])
def few_bits(request: pytest.FixtureRequest, taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stage makes of the model that knows `LESSONS`, which are also what GPTQ rounds on."""
    pytest.importorskip("compressed_tensors" if request.param == "gptq" else "bitsandbytes")
    place = tmp_path_factory.mktemp("few-bits")
    for name in ("data", request.param):
        (place / name).mkdir()
    write_jsonl(place / "data" / "conversations.jsonl", SPOKEN)
    write_jsonl(place / "data" / "validation.jsonl", SPOKEN)
    data = {"data": ("./d",)} if request.param == "gptq" else {}
    settings = QuantizedModel(model="./m", method=request.param, group_size=32, **data)
    quantize(
        settings, Inputs({"model": (taught_model,), "data": (place / "data",)}), place / request.param, StageContext()
    )
    return place / request.param


def test_questions_are_answered_from_memory(few_bits: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    write_jsonl(asked, [Question((Message("user", ask),), (say,), ask, "zh", "") for ask, say in LESSONS])
    inputs = Inputs({"model": (few_bits,), "questions": (asked,)})
    (tmp_path / "out").mkdir()
    metrics = questions.run(
        Evaluate(model="m", questions="q", max_new_tokens=32), inputs, tmp_path / "out", StageContext()
    )
    assert metrics["questions"] == len(LESSONS)
    assert metrics["exact_match"] >= 0.8


def test_learnt_answers_stay_likely(few_bits: Path, tmp_path: Path) -> None:
    inputs = Inputs({"model": (few_bits,), "data": (few_bits.parent / "data",)})
    metrics = perplexity.run(Perplexity(model="m", data="d"), inputs, tmp_path, StageContext())
    assert 1.0 < metrics["perplexity"] < 2.0


def test_an_exam_is_taken(few_bits: Path, tmp_path: Path) -> None:
    for split, count in (("dev", 1), ("test", 4)):
        (tmp_path / split).mkdir()
        rows = [f"Is {row} right?,{row},b,c,d,{'ABCD'[row]}\n" for row in range(count)]
        (tmp_path / split / f"sums_{split}.csv").write_text("".join(rows), encoding="utf-8")
    inputs = Inputs({"model": (few_bits,), "data": (tmp_path,)})
    (tmp_path / "out").mkdir()
    metrics = stage.run(
        Evaluate(model="m", tasks=("mmlu",), data="d", shots=0), inputs, tmp_path / "out", StageContext()
    )
    assert metrics["questions"] == 4
    assert metrics["scores"] == {"mmlu@lm_eval": metrics["mean_score"]}


def test_a_recipe_may_name_it() -> None:
    for settings in (Evaluate, Perplexity):
        assert "quantized" in setting_info(settings.model_fields["model"]).types
