"""Whatever an adapter is made of, plain PEFT loads it over the base as it lies there, and gets what training had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn import functional
from transformers import AutoModelForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Sft
from hanlin.models.adapters import save_adapter
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.load import load_train_model
from hanlin.train.optim.build import build_optimizer
from training_data import CPU, conversation, many

FORMS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "rsLoRA": {"rslora": True},
    "DoRA": {"dora": True},
    "LoRA+": {"loraplus_lr_ratio": 16.0},
    "PiSSA": {"init": "pissa"},
    "two projections": {"targets": ("q_proj", "down_proj")},
    "embeddings and head whole": {"modules_to_save": ("embed_tokens", "lm_head")},
    "head and norms whole": {"modules_to_save": ("lm_head", "norm")},
    "dropout": {"dropout": 0.1},
    "NF4": {"quantization": "nf4"},
    "8 bits": {"quantization": "int8"},
}
BESIDE: dict[str, dict[str, Any]] = {"last layer": {"train_last_layers": 1}, "new rows": {"trainable_tokens": 390}}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [(name, form, {}) for name, form in FORMS.items()] + [
    (name, {}, more) for name, more in BESIDE.items()
]


@pytest.mark.filterwarnings("ignore")  # PEFT's own, on PiSSA and newer transformers
@pytest.mark.parametrize(("name", "form", "more"), CASES, ids=[case[0] for case in CASES])
def test_an_adapter_gives_under_plain_peft_the_loss_that_training_ended_with(
    name: str,
    form: dict[str, Any],
    more: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
    encoded: Callable,
    template: ChatTemplate,
) -> None:
    packed = form.get("quantization")
    if packed:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install 'hanlin[qlora]')")
    settings = Sft(model="m", data=("d",), max_seq_length=128, lora=LoraSettings(rank=4, **form), **more)
    rows = PackedDataset.pack_examples(
        encoded(many(conversation, 1), ChatEncoder(template, 128, "drop").conversations), 128
    )
    network = load_train_model(tiny_model, settings, 7, CPU, "float32")
    optimizer = build_optimizer(settings, list(network.trainable_parameters()), CPU)
    for group in optimizer.param_groups:
        group["lr"] = 3e-3 * group["lr_ratio"]
    batch = rows.collate([0])
    first = network.loss_sum(batch).item()
    for _ in range(4):
        network.refresh()
        network.loss_sum(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    network.refresh()
    network.hf_model.eval()
    with torch.no_grad():
        trained = network.loss_sum(batch).item()
    assert abs(trained - first) > 0.5, "nothing was trained"
    assert isinstance(network.hf_model, PeftModel)
    save_adapter(network.hf_model, tmp_path / "adapter", base=tiny_model, initial=network.adapter_init)

    if packed:  # over the same base in few bits; over the whole one the loss is that of other weights
        from hanlin.models.load import load_model

        base: Any = load_model(tiny_model, quantization=packed)
    else:
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    read_ids, learn = rows.encoded.read(rows.samples[0][0])
    ids = torch.from_numpy(read_ids.astype("int64"))
    with torch.no_grad():
        logits = loaded(input_ids=ids[None, :-1]).logits[0].float()
    learned = torch.from_numpy(learn[1:].copy())
    theirs = functional.cross_entropy(logits[learned], ids[1:][learned], reduction="sum").item()
    assert theirs == pytest.approx(trained, rel=0.02 if packed == "int8" else 1e-4)
