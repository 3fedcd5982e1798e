"""LoRA adapters by PEFT: attached, key_settings, written so that they know their base, and read with every tensor used.

Owns the adapter folder. Does not own training it (`train/`) or adding it into the base (`merging`).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftModelForCausalLM,
    TrainableTokensConfig,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.utils.other import TrainableTokensWrapper
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.core.files import write_sorted_json
from hanlin.core.i18n import say
from hanlin.models.folder.adapter import base_record, check_adapter_folder, relative_base
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE_RECORD
from hanlin.models.safetensors import save_safetensors

_STARTS = {"zero": True, "pissa": "pissa", "pissa_fast": "pissa_niter_16"}


class ParameterCount(NamedTuple):
    """How many numbers a model has, and how many of them are trained."""

    trainable: int
    total: int


def count_parameters(model: nn.Module) -> ParameterCount:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return ParameterCount(sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes))


def attach(
    model: PreTrainedModel,
    lora: LoraSettings,
    seed: int,
    rows: Sequence[int] = (),
    layers: Sequence[int] | None = None,
) -> PeftModel:
    """`model` with a new adapter that changes nothing yet (B is zero, or what PiSSA starts with is taken out of the
    base); only the adapter is trainable, and beside it those `rows` of the vocabulary, in the embeddings and in the
    output head. `layers` are the blocks that get an adapter (none: all).

    A is drawn from `seed` alone, on the CPU, so attach before the model is moved. Everything trained is float32; when
    `lora.modules_to_save` is set over a base of lower precision, run the model under autocast.
    """
    names = set(lora.modules_to_save)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.rank,
        lora_alpha=int(lora.alpha) if lora.alpha.is_integer() else lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=None if layers is None else list(layers),
        init_lora_weights=_STARTS[lora.init],  # type: ignore[arg-type]
        use_rslora=lora.rslora,
        use_dora=lora.dora,
        modules_to_save=list(lora.modules_to_save) or None,
        trainable_token_indices=_both_matrices(model, rows) if rows else None,
        ensure_weight_tying=bool(model.config.tie_word_embeddings and names & {"embed_tokens", "lm_head"}),
    )
    with torch.random.fork_rng(devices=[]), _without_library_news():
        torch.manual_seed(seed)
        adapted = PeftModelForCausalLM(model, config)
    _train_in_float32(adapted)
    return adapted.train()


def attach_rows(model: PreTrainedModel, rows: Sequence[int]) -> PeftModel:
    """`model` with nothing trainable but those rows of the vocabulary, in the embeddings and in the output head."""
    config = TrainableTokensConfig(
        task_type="CAUSAL_LM", target_modules=list(_both_matrices(model, rows)), token_indices=list(rows)
    )
    with _without_library_news():
        adapted = PeftModelForCausalLM(model, config)
    _train_in_float32(adapted)
    return adapted.train()


def start_of(model: PeftModel) -> dict[str, torch.Tensor] | None:
    """The matrices that a new adapter starts with, where they were taken out of its base (PiSSA); else None."""
    if not str(model.peft_config["default"].init_lora_weights).startswith("pissa"):  # type: ignore[attr-defined]
        return None
    found = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in found.items() if ".lora_" in name}


def token_rows(module: nn.Module) -> TrainableTokensLayer | None:
    """What PEFT keeps of the trained rows of an embedding or output head; None where it trains none."""
    if isinstance(module, TrainableTokensWrapper):
        module = module.token_adapter
    return module if isinstance(module, TrainableTokensLayer) else None


def _both_matrices(model: PreTrainedModel, rows: Sequence[int]) -> dict[str, list[int]]:
    """The rows of each matrix of the vocabulary; of a tied model they are one."""
    names = ("embed_tokens",) if model.config.tie_word_embeddings else ("embed_tokens", "lm_head")
    return {name: list(rows) for name in names}


def save_adapter(
    model: PeftModel,
    folder: Path,
    *,
    base: Path,
    state: Mapping[str, torch.Tensor] | None = None,
    start: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write `adapter_config.json`, `adapter_model.safetensors` and `base.json` (which base the adapter saw).

    The path of `base` is written relative to `folder`, so both may move together. `state` stands in for the model's
    weights where they had to be gathered from several processes. `start` is `start_of` the adapter: what was taken out
    of the base is taken out of the adapter instead, so that it fits the base as it lies there. Raises RuntimeError when
    a tensor is empty or not finite: nothing is saved then.
    """
    tensors = get_peft_model_state_dict(
        model, state_dict=None if state is None else dict(state), save_embedding_layers=False
    )
    tensors = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in sorted(tensors.items())}
    for name, tensor in tensors.items():
        if tensor.numel() == 0 or not torch.isfinite(tensor).all():
            raise RuntimeError(f"{name} is empty or holds numbers that are not finite")
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": relative_base(base, folder), "inference_mode": True}
    if start is not None:
        tensors = _less_start(tensors, start)
        config |= {"init_lora_weights": True, "r": 2 * config["r"]}
        config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
    whole = config["modules_to_save"]
    if whole:  # PEFT adds the full name of tied embeddings to the list that it was given
        config["modules_to_save"] = [name for name in whole if name != "model.embed_tokens" or len(whole) == 1]
    record = base_record(check_model_folder(base))

    folder.mkdir(parents=True, exist_ok=True)
    save_safetensors(tensors, folder / ADAPTER_WEIGHTS)
    write_sorted_json(folder / BASE_RECORD, record)
    write_sorted_json(folder / ADAPTER_CONFIG, {name: _plain(value) for name, value in config.items()})


def _less_start(tensors: Mapping[str, torch.Tensor], start: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """B A - B0 A0 as one adapter of twice the rank: [B, -B0] [A; A0] (Meng et al. 2024, arXiv:2404.02948, app. C)."""
    found = dict(tensors)
    for name, first in start.items():
        written = ".lora_B." in name
        found[name] = torch.cat([tensors[name], -first if written else first], dim=1 if written else 0).contiguous()
    return found


def load_adapter(
    model: PreTrainedModel | PeftModel, folder: Path, *, trainable: bool = False, name: str = "default"
) -> PeftModel:
    """`model` with the adapter of a folder attached under `name`, every tensor of it used; beside others where it has
    some already.

    Raises UserError when tensors are missing, left over, or do not fit this base.
    """
    files = check_adapter_folder(folder)
    with _without_library_news():
        config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig):
        raise RuntimeError(f"{folder}: PEFT reads a {type(config).__name__}")
    config.inference_mode = not trainable
    weights = load_file(str(folder / ADAPTER_WEIGHTS))
    with torch.random.fork_rng(devices=[]), _without_library_news():
        try:
            if isinstance(model, PeftModel):
                adapted = model
                adapted.add_adapter(name, config)
            else:
                adapted = PeftModelForCausalLM(model, config, adapter_name=name)
            if trainable:
                _train_in_float32(adapted)
            outcome: Any = set_peft_model_state_dict(adapted, weights, adapter_name=name)
        except (RuntimeError, ValueError, KeyError) as error:
            what = say(f"the adapter does not fit this base: {error}", f"适配器与底座不匹配：{error}")
            raise UserError(what, folder, _other_base()) from error
    left = list(outcome.unexpected_keys)
    parts = (".lora_", ".modules_to_save.", ".trainable_tokens_delta.")
    places = {name for name, _ in adapted.named_parameters()}  # of tied matrices, one has its own name here
    missing = [
        key
        for key in outcome.missing_keys
        if key in places and f".{name}." in f"{key}." and any(part in key for part in parts)
    ]
    if left or missing:
        what = say(
            f"of the adapter's {len(files.tensors)} tensors {len(left)} have no place in the model, "
            f"and {len(missing)} places get none ({', '.join((left + missing)[:3])})",
            f"适配器的 {len(files.tensors)} 个张量中有 {len(left)} 个在模型中无处可放，"
            f"另有 {len(missing)} 处没有得到张量（{', '.join((left + missing)[:3])}）",
        )
        raise UserError(what, folder / ADAPTER_WEIGHTS, _other_base())
    return adapted.train(trainable)


def _train_in_float32(model: nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _plain(value: Any) -> Any:
    """Settings of PEFT as JSON with one spelling: sets have no order of their own."""
    if isinstance(value, set | frozenset):
        return sorted(value)
    return json.loads(json.dumps(value, default=str))


def _other_base() -> str:
    return say("was it trained on another base?", "它是否在其他底座上训练？")


@contextmanager
def _without_library_news() -> Iterator[None]:
    """Keep to itself what transformers tells PEFT's developers, and PEFT of keys newer than it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Unexpected keyword arguments", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*ensure_weight_tying.*", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*no implementation exists to tie.*", category=UserWarning)
        yield
