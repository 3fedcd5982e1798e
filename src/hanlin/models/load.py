"""Load a model or adapter folder: checked first, safetensors only, no code from the folder is run.

What a folder must hold is checked in `hanlin.models.folder`; `hanlin.models.save` writes one.
"""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM
from transformers.utils import logging

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.process import quiet_libraries
from hanlin.models.dtypes import Quantization, torch_dtype
from hanlin.models.folder.adapter import check_base, resolve_base
from hanlin.models.folder.checks import check_model_folder, check_quantized_folder, is_quantized
from hanlin.models.folder.layout import CONFIG, MOE_ARCHITECTURES, ModelFiles, is_adapter

__all__ = ["load_model", "resolve_base"]


_BAD_CONFIG = (TypeError, ValueError, AttributeError, KeyError, IndexError, ArithmeticError, StrictDataclassError)
"""What transformers raises for a value of a configuration that it cannot use; shapes and files were checked before."""

_LOADING = threading.Lock()
"""Held while transformers loads: it exchanges `PreTrainedModel.tie_weights` for the time, and of two threads that load
at once the second keeps what the first had put there, so that no tied head is found from then on.
"""

quiet_libraries()
logging.disable_progress_bar()  # progress is shown by `StageContext.progress`


def load_model(
    folder: Path,
    *,
    dtype: str = "float32",
    trainable: bool = False,
    attention: str = "sdpa",
    quantization: Quantization | None = None,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """Load the Llama model of a model folder, or of an adapter folder: its base with the adapter attached.

    A folder whose weights are quantized already is loaded as transformers loads it, for inference only.

    Args:
        folder: Model folder or adapter folder.
        dtype: Dtype of the base weights in memory (`auto`: as stored); adapter matrices are always float32.
        trainable: Training mode with gradients for all weights of a model, or for those of the adapter; else evaluation
            mode without gradients.
        attention: Name of an attention implementation of transformers.
        quantization: Quantize the projections of the blocks with bitsandbytes while loading, as a frozen base for
            adapters (Dettmers et al. 2023, QLoRA, arXiv:2305.14314: NF4 with double quantization; or 8 bits).
        device: Where quantized weights are put; the CPU by default.

    Returns:
        A `LlamaForCausalLM` or `MixtralForCausalLM`; a `PeftModel` for an adapter folder.

    Raises:
        UserError: As `check_model_folder`, `check_adapter_folder` and `check_base`; or bitsandbytes is needed for
            `quantization` and not installed.
    """
    folder = Path(folder)
    if is_adapter(folder):
        from hanlin.models.adapters import load_adapter

        base = check_model_folder(resolve_base(folder), experts=True)
        check_base(folder, base)
        model = _load_weights(base, dtype, attention)
        return cast(PreTrainedModel, load_adapter(model, folder, trainable=trainable))
    if is_quantized(folder) and not trainable and quantization is None:
        return _load_quantized(folder)
    files = check_model_folder(folder, experts=quantization is None)
    model = _load_weights(files, dtype, attention, quantization, device)
    model.requires_grad_(trainable and quantization is None)
    return model.train(trainable)


def _load_weights(
    files: ModelFiles,
    dtype: str,
    attention: str,
    quantization: Quantization | None = None,
    device: torch.device | None = None,
) -> LlamaForCausalLM:
    torch_type = torch_dtype(files.dtype if dtype == "auto" else dtype)
    if quantization is not None:
        require_bitsandbytes("lora.quantization")
        device = device or torch.device("cpu")
        options: dict[str, Any] = {
            "quantization_config": _bitsandbytes_config(quantization, torch_type),
            "device_map": {"": device},
        }
    else:
        options = {}
    family = MixtralForCausalLM if files.config["model_type"] in MOE_ARCHITECTURES else LlamaForCausalLM
    try:
        with _LOADING:
            loaded: Any = family.from_pretrained(
                str(files.folder),
                dtype=torch_type,
                attn_implementation=attention,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
    except (ImportError, *_BAD_CONFIG) as error:
        problem = str(error).partition("\n")[0]
        if attention not in str(error) and not isinstance(error, ImportError):
            what = tr("transformers cannot load it: {problem}", problem=problem)
            raise UserError(what, files.folder / CONFIG, tr("copy or download it again")) from error
        what = tr("attention '{attention}' cannot be used here: {problem}", attention=attention, problem=problem)
        raise UserError(what, "attention", tr("use sdpa")) from error
    model, report = cast(tuple[LlamaForCausalLM, dict[str, Any]], loaded)
    for problem in ("missing_keys", "mismatched_keys", "error_msgs"):
        if report.get(problem):  # the folder was checked, so this is not the reader's fault
            raise RuntimeError(f"{files.folder}: {problem} {report[problem]}")
    return model


def _load_quantized(folder: Path) -> PreTrainedModel:
    """Load a quantized folder; raises UserError if the package that its method needs is not installed."""
    check_quantized_folder(folder)
    try:
        with _LOADING:
            model = LlamaForCausalLM.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, dtype="auto"
            )
    except _BAD_CONFIG as error:
        what = tr("transformers cannot load it: {problem}", problem=str(error).partition("\n")[0])
        raise UserError(what, folder / CONFIG, tr("copy or download it again")) from error
    except ImportError as error:
        hint = tr("pip install 'hanlin[qlora,gptq]'")
        problem = str(error).partition("\n")[0]
        raise UserError(tr("it cannot be loaded: {problem}", problem=problem), folder, hint) from error
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if compressor := getattr(quantizer, "compressor", None):
        # else compressed-tensors waits for a call of the whole model, but engines call decoder and head separately
        compressor.decompress_model(model)
    return cast(PreTrainedModel, model.eval())


def _bitsandbytes_config(quantization: Quantization, torch_type: torch.dtype) -> BitsAndBytesConfig:
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch_type,
    )


def require_bitsandbytes(setting: str) -> None:
    """Raise UserError if bitsandbytes, which the value of `setting` needs, is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        hint = tr("pip install 'hanlin[qlora]'")
        raise UserError(tr("bitsandbytes is not installed"), setting, hint)
