"""What is trained, and how: last layers, LoRA+, PiSSA and noise on embeddings, against PEFT's and transformers' own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft.optimizers import create_loraplus_optimizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.base import key_settings
from hanlin.config.settings.model import LoraSettings, Merge
from hanlin.config.settings.preference import Dpo
from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models.adapters import attach_lora, get_initial_lora_weights, save_adapter
from hanlin.models.load import load_model
from hanlin.models.merge import run as merge
from hanlin.train import stages
from hanlin.train.compute.embeddings import neftune_noise
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.optim.schedule import parameter_groups
from training_data import conversation, many, preference

IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79]])
SFT = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_tokens": 512, "precision": "float32"}
peft_news = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def sft(**changes: Any) -> Sft:
    return Sft(**{**SFT, "learning_rate": 1e-2, "steps": 3, **changes})


def moved(model: PeftModel) -> PeftModel:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def test_settings_at_their_defaults_make_no_earlier_result_new() -> None:
    row = key_settings(sft(lora=LoraSettings()))
    assert not {"train_last_layers", "trainable_tokens", "neftune_noise_alpha"} & row.keys()
    assert not {"start", "loraplus_lr_ratio"} & row["lora"].keys()


# ------------------------------------------------------------------------------------------------------ last layers


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_last_layers_leave_all_else_bit_for_bit(
    precision: str, tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    metrics = stages.sft(
        sft(train_last_layers=1, precision=precision), inputs(many(conversation, 6)), tmp_path, StageContext()
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed == {name for name in before if name.startswith("model.layers.1.")}
    assert metrics["trainable_parameters"] == sum(before[name].numel() for name in changed)


def test_last_layers_leave_weights_of_several_dtypes_as_they_are(
    tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "mixed"))
    before = load_file(model / "model.safetensors")
    before = {name: weight if "norm" in name else weight.bfloat16() for name, weight in before.items()}
    save_file(before, model / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    stages.sft(sft(train_last_layers=1), inputs(many(conversation, 6), model), out, StageContext())
    after = load_file(out / "model.safetensors")
    assert {name: weight.dtype for name, weight in after.items()} == {name: w.dtype for name, w in before.items()}
    assert all(torch.equal(after[name], w) for name, w in before.items() if not name.startswith("model.layers.1."))


def test_last_layers_and_rows_are_trained_together(
    tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    entries = len(load_file(tiny_model / "model.safetensors")["lm_head.weight"])
    settings = sft(train_last_layers=1, trainable_tokens=entries - 2)
    stages.sft(settings, inputs(many(conversation, 6)), tmp_path, StageContext())
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, tmp_path))
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    blocks = {name for name in before if name.startswith("model.layers.1.")}
    assert blocks <= changed <= blocks | {"model.embed_tokens.weight", "lm_head.weight"}
    assert torch.equal(before["lm_head.weight"][: entries - 2], after["lm_head.weight"][: entries - 2])


@peft_news
def test_an_adapter_of_the_last_layers_touches_no_other(
    tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    settings = sft(train_last_layers=1, lora=LoraSettings(rank=2))
    stages.sft(settings, inputs(many(conversation, 6)), tmp_path, StageContext())
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert names and all(".layers.1." in name for name in names)
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path)
    torch.testing.assert_close(logits(load_model(tmp_path)), logits(theirs))


def test_more_layers_than_there_are_is_refused(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    with pytest.raises(UserError, match="2 layers"):
        stages.sft(sft(train_last_layers=3), inputs(many(conversation, 3)), tmp_path, StageContext())


# ------------------------------------------------------------------------------------------------------------ LoRA+


def test_lora_plus_hurries_what_peft_hurries(tiny_model: Path) -> None:
    model = attach_lora(load_model(tiny_model), LoraSettings(rank=2), seed=1)
    trained = {id(weight): name for name, weight in model.named_parameters() if weight.requires_grad}
    ours = {
        trained[id(weight)]: group["lr_ratio"] * 1e-3
        for group in parameter_groups(((name, weight) for name, weight in model.named_parameters()), 0.0, 16.0)
        for weight in group["params"]
    }
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    theirs = {trained[id(weight)]: group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert ours == pytest.approx(theirs) and len(set(ours.values())) == 2


def test_a_ratio_moves_b_by_as_much_more(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    """AdamW's first step is the rate times the gradient's sign, whatever its size."""
    given = inputs(many(conversation, 6))
    found = {}
    for ratio in (1.0, 8.0):
        out = tmp_path / str(ratio)
        out.mkdir()
        settings = sft(steps=1, learning_rate=1e-4, lora=LoraSettings(rank=2, loraplus_lr_ratio=ratio))
        stages.sft(settings, given, out, StageContext())
        found[ratio] = load_file(out / "adapter_model.safetensors")
    for name, weight in found[1.0].items():
        torch.testing.assert_close(found[8.0][name], weight * (8 if ".lora_B." in name else 1))


# ------------------------------------------------------------------------------------------------------------ PiSSA


@pytest.mark.parametrize("start", ["pissa", "pissa_fast"])
def test_pissa_changes_nothing_at_the_start(start: Any, tiny_model: Path) -> None:
    model = load_model(tiny_model)
    before = logits(model)
    adapted = attach_lora(model, LoraSettings(rank=4, init=start), seed=1)
    torch.testing.assert_close(logits(adapted), before, atol=1e-5, rtol=1e-5)
    assert all(weight.any() for name, weight in adapted.named_parameters() if "lora_B" in name)


@peft_news
@pytest.mark.filterwarnings("ignore:PiSSA changes the base weights:UserWarning")
@pytest.mark.parametrize("rslora", [False, True])
def test_pissa_is_saved_as_peft_converts_it_and_fits_the_original_base(
    rslora: bool, tiny_model: Path, tmp_path: Path
) -> None:
    adapted = attach_lora(load_model(tiny_model), LoraSettings(rank=4, init="pissa", rslora=rslora), seed=1)
    config = adapted.peft_config["default"]
    assert isinstance(config, LoraConfig)
    config.init_lora_weights = True  # as PEFT's own manual has it, to keep the start
    adapted.save_pretrained(str(tmp_path / "start"))
    config.init_lora_weights = "pissa"
    start = get_initial_lora_weights(adapted)
    trained = logits(moved(adapted))
    save_adapter(adapted, tmp_path / "ours", base=tiny_model, initial=start)
    torch.testing.assert_close(logits(load_model(tmp_path / "ours")), trained, atol=1e-4, rtol=1e-4)
    adapted.save_pretrained(str(tmp_path / "theirs"), path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name])
    loaded = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path / name)
        for name in ("ours", "theirs")
    ]
    torch.testing.assert_close(logits(loaded[0]), logits(loaded[1]))
    torch.testing.assert_close(logits(loaded[0]), trained, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_pissa_trains_and_merges_into_the_original_base(
    kind: str, tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    lora = LoraSettings(rank=4, init="pissa", loraplus_lr_ratio=2.0)
    out = tmp_path / "out"
    out.mkdir()
    if kind == "sft":
        stages.sft(sft(lora=lora, steps=6), inputs(many(conversation, 6)), out, StageContext())
    else:  # the first step proves that the start equals the reference
        settings = Dpo(
            model="m", data=("d",), max_seq_length=128, batch_pairs=4, precision="float32", lora=lora, steps=2
        )
        settings = settings.model_copy(update={"learning_rate": 1e-3})  # far enough to be seen in float32
        stages.dpo(settings, inputs(many(preference, 8)), out, StageContext())
    metrics = merge(Merge(adapter="a"), Inputs({"adapter": (out,)}), tmp_path / "merged", StageContext())
    assert metrics["adapter_kl"] > 0


@pytest.mark.parametrize("more", [{"dora": True}, {"dropout": 0.1}])
def test_pissa_with_dora_or_dropout_is_refused(more: dict) -> None:
    with pytest.raises(ValueError, match="PiSSA"):
        LoraSettings(init="pissa", **more)


# --------------------------------------------------------------------------------------------- noise on embeddings


def test_noise_is_transformers_own(tiny_model: Path) -> None:
    from transformers.integrations.neftune import neftune_post_forward_hook

    embeddings: Any = load_model(tiny_model).get_input_embeddings().train()
    embeddings.neftune_noise_alpha = 5.0
    clean = embeddings(IDS)
    torch.manual_seed(3)
    theirs = neftune_post_forward_hook(embeddings, IDS, clean.clone()) - clean
    torch.manual_seed(3)
    torch.testing.assert_close(neftune_noise(torch.arange(IDS.shape[1]), 64, 5.0), theirs[0], atol=1e-6, rtol=1e-4)


def test_noise_of_a_document_does_not_know_its_neighbors() -> None:
    torch.manual_seed(3)
    found = neftune_noise(torch.cat([torch.arange(400), torch.arange(25)]), 16, 5.0)
    long, short = found[:400].abs().max().item(), found[400:].abs().max().item()
    assert long == pytest.approx(5 / (400 * 16) ** 0.5, rel=0.01)
    assert short == pytest.approx(5 / (25 * 16) ** 0.5, rel=0.02)


def test_there_is_noise_in_training_and_none_otherwise(
    make_model: Callable[..., TrainModel], encoded: Callable, template: ChatTemplate
) -> None:
    rows = PackedDataset.pack_examples(
        encoded(many(conversation, 2), ChatEncoder(template, 128, "drop").conversations), 128
    )
    clean, noisy = make_model(sft()), make_model(sft(neftune_noise_alpha=5.0))
    batch = rows.collate([0])
    quiet = clean.loss_sum(batch).item()
    heard = {noisy.loss_sum(batch).item() for _ in range(4)}
    assert len(heard) == 4 and quiet not in heard
    noisy.hf_model.eval()
    assert noisy.loss_sum(batch).item() == quiet


def test_a_model_whose_positions_are_scaled_dynamically_is_refused(
    tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "dynamic"))
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"] = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 4.0}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="scaled dynamically"):
        stages.sft(sft(), inputs(many(conversation, 3), model), tmp_path, StageContext())
