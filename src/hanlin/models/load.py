"""A model or adapter folder becomes a model in memory: checked first, safetensors only, no code from the folder.

Owns reading. What a folder must hold is said in `model_files`; how one is written in `saving`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, cast

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM
from transformers.utils import logging

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.models.dtypes import Packed, torch_dtype
from hanlin.models.folder.adapter import base_of, check_base
from hanlin.models.folder.checks import check_model_folder, check_quantized_folder, is_quantized
from hanlin.models.folder.layout import WITH_EXPERTS, ModelFiles, is_adapter

__all__ = ["base_of", "load_model"]


logging.disable_progress_bar()  # progress is told by `StageContext.progress`


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    trainable: bool = False,
    attention: str = "sdpa",
    packed: Packed | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """The Llama model of a model folder, or of an adapter folder: its base with the adapter attached (a `PeftModel`).

    `dtype` is that of the base's weights in memory (`auto`: as they are stored); adapter matrices are always float32.
    A `trainable` model is in training mode with gradients on: all of a model's weights, or an adapter's only. Any other
    is in evaluation mode without gradients. `attention` is the name of one of transformers' implementations.

    A folder whose weights are quantized already is read as transformers reads it, for asking only.

    `packed` keeps the projections of the blocks in fewer bits, straight on `device` (Dettmers et al. 2023, QLoRA,
    arXiv:2305.14314: NF4 with its constants quantized too; or 8 bits): a base for adapters, whose own weights are never
    trained.

    Raises UserError as `check_model_folder`, `check_adapter_folder` and `check_base` do, and where bitsandbytes is
    not installed that `packed` needs.
    """
    folder = Path(folder)
    if is_adapter(folder):
        from hanlin.models.adapters import load_adapter

        base = check_model_folder(base_of(folder))
        check_base(folder, base)
        model = _read(base, dtype, attention)
        return cast(PreTrainedModel, load_adapter(model, folder, trainable=trainable))
    if is_quantized(folder) and not trainable and packed is None:
        return _read_quantized(folder)
    files = check_model_folder(folder, experts=not trainable and packed is None)
    model = _read(files, dtype, attention, packed, device)
    model.requires_grad_(trainable and packed is None)
    return model.train(trainable)


def _read(
    files: ModelFiles,
    dtype: str,
    attention: str,
    packed: Packed | None = None,
    device: torch.device | None = None,
) -> LlamaForCausalLM:
    number_format = torch_dtype(files.dtype if dtype == "auto" else dtype)
    if packed is not None:
        need_bitsandbytes("lora.quantization")
        device = device or torch.device("cpu")
        more: dict[str, Any] = {"quantization_config": _packing(packed, number_format), "device_map": {"": device}}
    else:
        more = {}
    family = MixtralForCausalLM if files.config["model_type"] in WITH_EXPERTS else LlamaForCausalLM
    try:
        loaded: Any = family.from_pretrained(
            str(files.folder),
            dtype=number_format,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **more,
        )
    except (ImportError, ValueError) as error:
        if attention not in str(error) and not isinstance(error, ImportError):
            raise
        what = say(
            f"attention '{attention}' cannot be used here: {error}", f"此处无法使用注意力实现“{attention}”：{error}"
        )
        raise UserError(what, "attention", say("use sdpa", "请用 sdpa")) from error
    model, report = cast(tuple[LlamaForCausalLM, dict[str, Any]], loaded)
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):  # the folder was checked, so this is not the reader's fault
            raise RuntimeError(f"{files.folder}: {problem} {report[problem]}")
    return model


def _read_quantized(folder: Path) -> PreTrainedModel:
    """A folder in few bits; what its method needs to be read is said where it is not installed."""
    check_quantized_folder(folder)
    try:
        model = LlamaForCausalLM.from_pretrained(str(folder), use_safetensors=True, local_files_only=True, dtype="auto")
    except ImportError as error:
        hint = say("pip install 'hanlin[qlora,gptq]'", "请安装：pip install 'hanlin[qlora,gptq]'")
        raise UserError(say(f"cannot be read: {error}", f"无法读取：{error}"), folder, hint) from error
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if compressor := getattr(quantizer, "compressor", None):
        # else compressed-tensors would wait for a call of the whole model, and engines call the decoder and head apart
        compressor.decompress_model(model)
    return cast(PreTrainedModel, model.eval())


def _packing(packed: Packed, number_format: torch.dtype) -> BitsAndBytesConfig:
    if packed == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=number_format,
    )


def need_bitsandbytes(setting: str) -> None:
    """Raise UserError where bitsandbytes is not installed, which `setting` asks for."""
    if importlib.util.find_spec("bitsandbytes") is None:
        hint = say("pip install 'hanlin[qlora]'", "请安装：pip install 'hanlin[qlora]'")
        raise UserError(say("bitsandbytes is not installed", "未安装 bitsandbytes"), setting, hint)
