"""What is transformers' alone: adapters, batches of uneven rows, and its own `generate` as the measure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.inference.backends.transformers.engine import TransformersEngine
from hanlin.inference.backends.transformers.precision import Bfloat16Linear, multiply_in_bfloat16
from hanlin.inference.protocol import Engine, GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from random_requests import requests_of


def test_answers_are_those_of_transformers_generate(hf: Engine, spoken_model: Path) -> None:
    model = load_model(spoken_model)
    for request in requests_of(15, seed=2):
        ids = torch.tensor([request.prompt_ids])
        expected = model.generate(  # type: ignore[operator]
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=request.sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=list(request.stop_ids),
            pad_token_id=0,
        )[0, len(request.prompt_ids) :].tolist()
        kept = [number for number in expected if number not in request.stop_ids]
        assert list(hf.generate([request])[0].ids) == kept


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_size_of_a_batch_changes_no_answer(hf: Engine, spoken_model: Path, batch: int) -> None:
    requests = requests_of(25, seed=3)
    engine = TransformersEngine(spoken_model, batch=batch)
    assert engine.generate(requests) == hf.generate(requests)
    engine.close()


def test_a_row_outgrows_its_first_buffers(hf: Engine) -> None:
    requests = [GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=count)) for count in (300, 10, 150)]
    longest, *others = hf.generate(requests)
    assert len(longest.ids) == 300
    assert all(other.ids == longest.ids[: len(other.ids)] for other in others)


def test_an_adapter_folder_is_its_base_with_the_adapter(spoken_model: Path, tmp_path: Path) -> None:
    shutil.copytree(spoken_model, tmp_path / "base")
    model = attach_lora(load_model(tmp_path / "base"), LoraSettings(rank=4), seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    save_adapter(model, tmp_path / "adapter", base=tmp_path / "base")
    engine = create_engine("transformers", tmp_path / "adapter")
    prefix, continuation = (20, 30, 40), (50, 60)
    (score,) = engine.score([(prefix, continuation)])
    model.eval()
    with torch.no_grad():
        logprobs = model(torch.tensor([[*prefix, *continuation]])).logits[0].log_softmax(-1)
    assert score.logprob == pytest.approx(float(logprobs[2, 50] + logprobs[3, 60]), abs=1e-4)
    engine.close()


def test_context_length_can_be_set_lower_but_not_higher(spoken_model: Path) -> None:
    assert TransformersEngine(spoken_model, context_length=64).context_length == 64
    assert TransformersEngine(spoken_model, context_length=10**6).context_length == 1024


def test_half_precision_answers(spoken_model: Path) -> None:
    engine = TransformersEngine(spoken_model, dtype="bfloat16")
    (reply,) = engine.generate([GenerationRequest((20, 30, 40), (), SamplingParams(max_new_tokens=5))])
    assert len(reply.ids) == 5
    engine.close()


def test_the_last_id_of_a_scored_pair_may_lie_behind_the_context(spoken_model: Path) -> None:
    """It is predicted and not run: a pair may have one id more than the context holds."""
    engine = TransformersEngine(spoken_model, context_length=16)
    ids = tuple(range(20, 37))
    assert engine.max_scored_length == len(ids) == 17
    (score,) = engine.score([(ids[:1], ids[1:])])
    whole = TransformersEngine(spoken_model)
    assert score.logprob == pytest.approx(whole.score([(ids[:1], ids[1:])])[0].logprob, abs=1e-4)
    with pytest.raises(UserError, match=r"18 tokens long, but at most 17 can be scored"):
        engine.score([(ids[:1], (*ids[1:], 40))])
    engine.close()
    whole.close()


def test_products_in_bfloat16_move_scores_by_rounding_alone(hf: Engine, spoken_model: Path) -> None:
    engine = TransformersEngine(spoken_model, precision="bfloat16")
    pairs = [((20, 30, 40 + index), (50, 60 + index)) for index in range(20)]
    differences = [
        abs(rounded.logprob - exact.logprob)
        for rounded, exact in zip(engine.score(pairs), hf.score(pairs), strict=True)
    ]
    assert 0 < max(differences) < 0.2
    engine.close()


def test_products_in_bfloat16_leave_an_adapter_and_the_output_head_as_they_are(
    spoken_model: Path, tmp_path: Path
) -> None:
    model = attach_lora(load_model(spoken_model), LoraSettings(rank=4), seed=1)
    multiply_in_bfloat16(model.get_base_model())
    kinds = {type(module) for name, module in model.named_modules() if name.endswith("base_layer")}
    assert kinds == {Bfloat16Linear}
    others = [weight for name, weight in model.named_parameters() if "base_layer" not in name]
    assert {weight.dtype for weight in others} == {torch.float32}


def test_products_in_bfloat16_are_for_weights_in_float32(spoken_model: Path) -> None:
    with pytest.raises(UserError, match="for weights in float32"):
        TransformersEngine(spoken_model, dtype="bfloat16", precision="bfloat16")
