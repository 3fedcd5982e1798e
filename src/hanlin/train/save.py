"""Saving what was trained: an adapter, or a full model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import save_tokenizer
from hanlin.config.settings.train import Training
from hanlin.models.adapters import get_trainable_tokens_layer, save_adapter
from hanlin.models.folder.checks import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.save import cast_as_stored, restore_dtypes, save_model
from hanlin.models.sentencepiece_file import carry_model
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.compute.model import TrainModel
from hanlin.train.optim.trainable import trains_subset


def save_trained(
    model: TrainModel,
    out: Path,
    base_folder: Path,
    settings: Training,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    base_files: ModelFiles,
) -> None:
    """Save an adapter if `lora` is set, else a model in the dtype of the base.

    Args:
        model: The trained model, with full weights.
        out: The folder to write.
        base_folder: The model that the run started from.
        settings: The settings of the stage.
        tokenizer: Saved beside the weights.
        template: The chat template to save, if there is one.
        base_files: What is known of the base.
    """
    if isinstance(model.hf_model, PeftModel) and settings.lora is not None:
        save_adapter(model.hf_model, out, base=base_folder, initial=model.adapter_init)
        save_tokenizer(tokenizer, template, out)
        carry_model([tokenizer.folder], tokenizer, out)
        return
    if trains_subset(settings):
        base = load_model(base_folder, dtype="auto")
        stored = restore_dtypes(base, base_files, lambda _, weight: weight)
        state = merge_trained(stored or base.state_dict(), model.hf_model)
        keeps = stored is not None
        save_model(base, out, tokenizer=tokenizer, template=template, state=state, keeps_dtypes=keeps)
        return
    assert not isinstance(model.hf_model, PeftModel)
    cast = cast_as_stored(model.hf_model.state_dict(), base_files)
    save_model(
        model.hf_model,
        out,
        tokenizer=tokenizer,
        template=template,
        dtype=base_files.dtype,
        state=cast,
        keeps_dtypes=cast is not None,
    )


@torch.no_grad()
def merge_trained(state: Mapping[str, torch.Tensor], model: PreTrainedModel | PeftModel) -> dict[str, torch.Tensor]:
    """Replace in a model's weights those that were trained; frozen ones stay as they are, bit for bit.

    Args:
        state: The state dict of the model that the run began with.
        model: The model after training.

    Returns:
        A state dict in the dtypes of `state`, on the CPU.
    """
    merged = dict(state)
    causal_lm = cast(LlamaForCausalLM, model.get_base_model() if isinstance(model, PeftModel) else model)
    for name, weight in causal_lm.named_parameters():
        if weight.requires_grad and name in merged:
            merged[name] = weight.detach().to("cpu", merged[name].dtype)
    matrices = (("model.embed_tokens.weight", causal_lm.model.embed_tokens), ("lm_head.weight", causal_lm.lm_head))
    for name, module in matrices:
        layer = get_trainable_tokens_layer(module)
        if layer is not None and name in merged:
            token_ids = torch.tensor(layer.token_indices["default"])
            rows = layer.trainable_tokens_delta["default"].detach().to("cpu", merged[name].dtype)
            merged[name] = merged[name].index_copy(0, token_ids, rows)
    return merged
