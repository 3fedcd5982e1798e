"""Loading a model folder to train it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.config.settings.base import Settings
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.adapters import EXPERT_PROJECTIONS, get_initial_lora_weights
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.folder.rope import read_rope
from hanlin.models.load import load_model
from hanlin.train.compute.model import Precision, TrainModel
from hanlin.train.optim.trainable import NeededTokens, select_trainable


def load_train_model(
    folder: Path,
    settings: Training,
    seed: int,
    device: torch.device,
    precision: Precision,
    needed: NeededTokens | None = None,
    init_from: Path | None = None,
) -> TrainModel:
    """Load a model folder for training.

    Args:
        folder: The model.
        settings: What is trained, and how.
        seed: An adapter's first values follow from it.
        device: Where the model goes.
        precision: What matrix products are computed in.
        needed: The special tokens of the data.
        init_from: Folder of the adapter whose weights the adapter begins with; None: a new adapter.

    Raises:
        UserError: The folder cannot be loaded; the model is made for shorter rows or is not computed as Llama models
            are; nothing would be trained, or the row of a special token would stay untrained.
    """
    if settings.lora is None:
        loaded = load_model(folder, trainable=True)
    else:
        loaded = load_model(
            folder, dtype=precision, trainable=True, quantization=settings.lora.quantization, device=device
        )
    check_config(cast(Any, loaded.config).to_dict(), settings, folder)
    needed = needed or NeededTokens({}, {})
    trainable, untrained = select_trainable(cast(LlamaForCausalLM, loaded), settings, seed, needed, init_from)
    adapter_init = (
        get_initial_lora_weights(trainable) if settings.lora is not None and isinstance(trainable, PeftModel) else None
    )
    model = TrainModel(trainable, device, precision)
    model.untrained_tokens, model.adapter_init = untrained, adapter_init
    model.neftune_alpha = settings.neftune_noise_alpha if isinstance(settings, Pretrain | Sft) else 0.0
    model.gradient_checkpointing = settings.gradient_checkpointing
    model.set_attention(settings.attention)
    return model


def check_config(config: Mapping[str, Any], settings: Training, folder: Path) -> None:
    """Check a model's configuration against the settings of a run.

    Raises:
        UserError: Rows are longer than the model allows, or it computes something that `TrainModel` does not.
    """
    limit = int(config.get("max_position_embeddings", settings.max_seq_length))
    if settings.max_seq_length > limit:
        raise UserError(
            tr(
                "max_seq_length is {max_seq_length}, but the model has only {limit} positions",
                max_seq_length=settings.max_seq_length,
                limit=limit,
            ),
            folder,
            tr("set max_seq_length to {limit} or less", limit=limit),
        )
    if read_rope(config)["rope_type"] == "dynamic":
        raise UserError(
            tr("positions scaled dynamically depend on the longest row of a batch: the model cannot be trained"),
            folder / "config.json",
            tr("extend the context with yarn, linear, llama3 or theta to train"),
        )
    supported = {"hidden_act": "silu", "attention_dropout": 0.0}
    for name, value in supported.items():
        if config.get(name, value) != value:
            raise UserError(
                tr(
                    "{name} is {actual!r}; models of the Llama family have {value!r}",
                    name=name,
                    actual=config[name],
                    value=value,
                ),
                folder / "config.json",
            )


def _unfit_lora(lora: LoraSettings) -> str | None:
    """The setting of an adapter that it cannot have over experts, which are parameters without a layer of their own."""
    if lora.quantization is not None:
        return f"lora.quantization: {lora.quantization}"
    if not set(lora.targets) & set(EXPERT_PROJECTIONS):
        return None
    only = {"gate_proj", "up_proj"} & set(lora.targets)
    if len(only) == 1:  # they are one tensor
        return f"lora.targets: {only.pop()} alone"
    if lora.init != "zero":
        return f"lora.init: {lora.init}"
    if lora.dora or lora.dropout:
        return "lora.dora" if lora.dora else "lora.dropout"
    return None


def check_experts(files: ModelFiles, settings: Settings, mode: str) -> None:
    """Check that a model of experts can be trained with these settings; any other model can.

    Args:
        files: The model.
        settings: The settings of the stage.
        mode: How a process group divides the model.

    Raises:
        UserError: Another kind than `pretrain` and `sft`, an adapter of a form that PEFT does not have for experts,
            another optimizer than AdamW, or sharded weights.
    """
    if not files.config.get("num_local_experts"):
        return
    where = files.folder / "config.json"
    hint = tr("train all weights, `train_last_layers` or an adapter, with pretrain or sft")
    if not isinstance(settings, Pretrain | Sft):
        raise UserError(tr("preference training of a model of experts is not supported"), where, hint)
    unfit = None
    if settings.lora is not None and (form := _unfit_lora(settings.lora)):
        unfit = form
    elif settings.optimizer in ("galore", "apollo"):
        unfit = f"optimizer: {settings.optimizer}"
    elif mode != "ddp":
        unfit = f"launch.mode: {mode}"
    if unfit is not None:
        raise UserError(tr("{unfit} is not supported for a model of experts", unfit=unfit), where, hint)
