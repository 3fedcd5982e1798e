"""An adapter over a base in few bits (QLoRA): computed as PEFT and bitsandbytes do, saved for the base as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings, Merge
from hanlin.config.settings.preference import Dpo
from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models.adapters import attach_lora
from hanlin.models.load import load_model
from hanlin.models.merge import run as merge
from hanlin.train import stages
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.optim.build import build_optimizer
from training_data import CPU, conversation, many, preference

SFT = Sft(
    model="m", data=("d",), max_seq_length=128, batch_tokens=512, steps=3, learning_rate=1e-2, precision="float32"
)  # fmt: skip


@pytest.fixture
def bitsandbytes() -> Any:
    return pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install 'hanlin[qlora]')")


def wide(packed: Any, **more: Any) -> LoraSettings:
    return LoraSettings(rank=4, quantization=packed, **more)


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.parametrize(("packed", "near"), [("nf4", 1e-4), ("int8", 0.05)])
def test_it_is_computed_as_peft_and_bitsandbytes_do(
    packed: Any, near: float, tiny_model: Path, encoded: Callable, template: ChatTemplate
) -> None:
    """Bitsandbytes also rounds what goes into a product with 8 bits, which is not done here: that is nearer to the
    weights.
    """
    store = encoded(many(conversation, 1), ChatEncoder(template, 128, "drop").conversations)
    adapted = attach_lora(load_model(tiny_model, quantization=packed), wide(packed), seed=1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    ids = torch.from_numpy(store.ids.astype("int64"))
    learn = torch.from_numpy(store.loss_mask[1:].copy())
    logits = adapted(input_ids=ids[None]).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits[learn].float(), ids[1:][learn], reduction="sum")
    wanted.backward()
    gradients = {name: weight.grad.clone() for name, weight in adapted.named_parameters() if weight.grad is not None}
    adapted.zero_grad()
    model = TrainModel(adapted, CPU, "float32")
    found = model.loss_sum(PackedDataset.pack_examples(store, 128).collate([0]))
    found.backward()
    assert found.item() == pytest.approx(wanted.item(), rel=near)
    trained = dict(model.trainable_parameters())
    assert trained.keys() == gradients.keys()
    for name, gradient in gradients.items():
        gradient_here = trained[name].grad
        assert gradient_here is not None
        assert (gradient_here - gradient).norm() < max(near, 1e-3) * 5 * gradient.norm(), name


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.parametrize(("packed", "bits"), [("nf4", 4), ("int8", 8)])
def test_the_projections_are_kept_in_few_bits(packed: Any, bits: int, tiny_model: Path, make_model: Callable) -> None:
    model: TrainModel = make_model(SFT.model_copy(update={"lora": wide(packed)}))
    weights = dict(model.hf_model.named_parameters())
    base = {name: weight for name, weight in weights.items() if name.endswith("proj.base_layer.weight")}
    shapes = load_file(tiny_model / "model.safetensors")
    numbers = sum(tensor.numel() for name, tensor in shapes.items() if name.endswith("proj.weight"))
    assert sum(weight.numel() * weight.element_size() for weight in base.values()) * 8 == numbers * bits
    assert all("lora_" in name for name, _ in model.trainable_parameters())


@pytest.mark.usefixtures("bitsandbytes")
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("packed", ["nf4", "int8"])
def test_the_adapter_is_one_that_peft_loads_over_the_base_as_it_lies_there(
    packed: Any, tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    settings = SFT.model_copy(update={"lora": wide(packed), "steps": 12, "gradient_checkpointing": True})
    metrics = stages.sft(settings, inputs(many(conversation, 6)), out, StageContext())
    assert metrics["loss"]["last"] < metrics["loss"]["first"]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), out)
    merge(Merge(adapter="a"), Inputs({"adapter": (out,)}), tmp_path / "merged", StageContext())


@pytest.mark.usefixtures("bitsandbytes")
def test_a_reference_is_that_of_the_packed_base(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    """The first loss is log 2, which the run itself proves."""
    lora = wide("nf4")
    settings = Dpo(model="m", data=("d",), max_seq_length=128, batch_pairs=4, precision="float32", lora=lora, steps=1)
    assert stages.dpo(settings, inputs(many(preference, 4)), tmp_path, StageContext())["steps"] == 1


@pytest.mark.parametrize("more", [{"dora": True}, {"init": "pissa"}])
def test_pissa_and_dora_need_the_weights_themselves(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PiSSA"):
        wide("nf4", **more)


@pytest.mark.parametrize("more", [{"lora": wide("nf4")}, {"optimizer": "adamw_8bit"}], ids=["base", "optimizer"])
def test_without_bitsandbytes_one_sentence_says_what_to_install(
    more: dict[str, Any], tmp_path: Path, inputs: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="bitsandbytes") as caught:
        stages.sft(SFT.model_copy(update=more), inputs(many(conversation, 3)), tmp_path, StageContext())
    assert "hanlin[qlora]" in str(caught.value.hint)


# ------------------------------------------------------------------------------------------------ AdamW in 8 bits


@pytest.mark.usefixtures("bitsandbytes")
def test_adamw_s_averages_are_in_8_bits_but_for_the_vocabulary(make_model: Callable) -> None:
    model: TrainModel = make_model(SFT)
    trained = list(model.trainable_parameters())
    optimizer = build_optimizer(SFT.model_copy(update={"optimizer": "adamw_8bit"}), trained, CPU)
    for _, weight in trained:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    for name, weight in trained:
        vocabulary = "embed_tokens" in name or "lm_head" in name
        expected = torch.uint8 if weight.numel() >= 4096 and not vocabulary else torch.float32
        assert optimizer.state[weight]["state1"].dtype == expected, name


@pytest.mark.usefixtures("bitsandbytes")
def test_in_8_bits_it_learns_nearly_what_adamw_learns(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    given = inputs(many(conversation, 12))
    last = []
    for number, form in enumerate(("adamw", "adamw_8bit")):
        out = tmp_path / str(number)
        out.mkdir()
        settings = SFT.model_copy(update={"optimizer": form, "steps": 20, "learning_rate": 3e-3})
        metrics = stages.sft(settings, given, out, StageContext())
        last.append(metrics["loss"]["last"])
        assert metrics["loss"]["last"] < 0.8 * metrics["loss"]["first"]
    assert last[1] == pytest.approx(last[0], rel=0.1)
