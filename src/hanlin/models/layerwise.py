"""A Llama that is computed block by block from its files: memory for one block in float32, whatever the model's size.

It is what checks of large models compare with: torch's and PEFT's own modules, whose weights come and go.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import LlamaConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaRotaryEmbedding

from hanlin.models.folder.layout import ModelFiles
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.safetensors import read_rows


def open_layerwise(files: ModelFiles, resident: Collection[str] = ()) -> LlamaForCausalLM:
    """Make the model of a folder, whose blocks are read in float32 when they compute and forgotten after it.

    Between two uses a weight of a block has its shape and one number of memory, so that adapters can be attached as to
    any model. Embeddings, final norm and output head are read at once.

    Args:
        files: The folder of a dense model.
        resident: Names of modules, such as `q_proj`, whose weights stay in memory: those that an adapter replaces
            as a whole, which copies them.
    """
    config = LlamaConfig.from_dict({**files.config, "attn_implementation": "sdpa"})
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    for block in model.model.layers:
        passing: list[tuple[nn.Parameter, str]] = []
        for name, module in _named_modules(model, block):
            for key in [key for key, parameter in module._parameters.items() if parameter is not None]:
                stays = key == "bias" or name.rpartition(".")[2] in resident  # an adapter may train biases
                parameter = _read(files, f"{name}.{key}", resident=stays)
                module._parameters[key] = parameter
                if not stays:
                    passing.append((parameter, f"{name}.{key}"))
        block.register_forward_pre_hook(partial(_fill, files, passing))
        block.register_forward_hook(partial(_empty, passing))
    for name, module in model.named_modules():
        for key, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta and f"{name}.{key}" in files.tensors:
                module._parameters[key] = _read(files, f"{name}.{key}", resident=True)
    if model.lm_head.weight.is_meta:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def can_be_layerwise(files: ModelFiles, whole: Collection[str]) -> bool:
    """Whether a model can be computed block by block with an adapter that saved modules of these names whole.

    A model of experts cannot, nor can one of which a block is saved whole: PEFT would copy the reading of its weights.
    """
    known = {name.split(".")[-2] for name in llama_shapes(files.config)}
    return not files.config.get("num_local_experts") and known.issuperset(whole)


@torch.no_grad()
def compute_logits_together(model: PreTrainedModel | PeftModel, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Compute the logits of all prompts at once, so that each block is read once.

    Shorter prompts are filled at their end, which no earlier position of a causal model sees.

    Args:
        model: The model.
        prompts: Token ids of each prompt.

    Returns:
        For each prompt, float32 [length, vocab_size].

    Raises:
        RuntimeError: A logit is NaN or infinite.
    """
    rows = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt)
    together = model(input_ids=rows, use_cache=False).logits.float()
    logits = [row[: len(prompt)] for row, prompt in zip(together, prompts, strict=True)]
    if not all(bool(torch.isfinite(row).all()) for row in logits):
        raise RuntimeError("the model gives logits that are not finite")
    return logits


def _named_modules(model: nn.Module, block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a block with their names in the whole model."""
    inside = {id(module) for module in block.modules()}
    return [(name, module) for name, module in model.named_modules() if id(module) in inside]


def _read(files: ModelFiles, name: str, *, resident: bool) -> nn.Parameter:
    entry = files.tensors[name]
    data = read_rows(entry).float() if resident else torch.zeros(1).expand(entry.shape)
    return nn.Parameter(data, requires_grad=False)


def _fill(files: ModelFiles, passing: list[tuple[nn.Parameter, str]], *_: Any) -> None:
    for parameter, name in passing:
        parameter.data = read_rows(files.tensors[name]).float()


def _empty(passing: list[tuple[nn.Parameter, str]], *_: Any) -> None:
    for parameter, _name in passing:
        parameter.data = torch.zeros(1).expand(parameter.shape)
