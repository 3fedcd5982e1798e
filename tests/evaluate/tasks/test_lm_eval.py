"""Hanlin's engines inside lm-evaluation-harness answer as its own `hf` model; runs where lm_eval is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="pip install 'hanlin[lm-eval]'")

TEXTS = (("Question: what?\nAnswer:", " yes"), ("", " hello world"), ("a b ", "c"), ("你好", "北京"))
PROMPTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Once upon a time", {"until": ["\n", "zz"], "max_gen_toks": 24, "do_sample": False}),
    ("你好", {"until": ["\n"], "max_gen_toks": 10}),
)


def instances(kind: str, *rows: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=row, idx=0) for row in rows]  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # those of other packages
def test_scores_whole_texts_and_answers_are_those_of_its_own_model(tiny_model: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from hanlin.evaluate.lm_eval_model import HanlinLM

    theirs = HFLM(pretrained=str(tiny_model), dtype="float32", batch_size=4, device="cpu")
    ours = HanlinLM(str(tiny_model))
    try:
        scored = instances("loglikelihood", *TEXTS)
        for first, second in zip(theirs.loglikelihood(scored), ours.loglikelihood(scored), strict=True):
            assert float(first[0]) == pytest.approx(second[0], abs=1e-3)
            assert bool(first[1]) == second[1]
        whole = instances("loglikelihood_rolling", ("short text.",), ("我们在北京学习中文。",))
        assert theirs.loglikelihood_rolling(whole) == pytest.approx(ours.loglikelihood_rolling(whole), abs=1e-3)
        asked = instances("generate_until", *PROMPTS)
        assert theirs.generate_until(asked) == ours.generate_until(asked)
    finally:
        ours.loaded.engine.close()
