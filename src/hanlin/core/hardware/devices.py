"""Accelerators: the one place that knows kinds of devices by name, what they can do, and how torch asks them.

torch gives NVIDIA's and AMD's GPUs the type `cuda`, Apple's `mps`, Intel's `xpu`, and Huawei's Ascend `npu`, if
`torch_npu` is installed. What a kind cannot do is decided here: code elsewhere asks for what it needs and names none.
torch is imported inside functions: who imports this file need not have it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    import torch

CUDA, MPS, XPU, NPU, CPU = "cuda", "mps", "xpu", "npu", "cpu"
KINDS = (CUDA, MPS, XPU, NPU, CPU)
EXAMPLES = "cpu, cuda, cuda:1, mps, npu, xpu"
"""How a device is written, for help and hints."""
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
_WITHOUT_FLOAT64 = (MPS,)
_AMPERE = (8, 0)


def best_device() -> torch.device:
    """The accelerator of this machine that torch can use, else the CPU."""
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device(CPU)


def read_device(text: str | None) -> torch.device:
    """The device that a user names; None is the best one.

    Raises:
        UserError: torch knows no such device, or it is not here.
    """
    import torch

    if text is None:
        return best_device()
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise UserError(tr("there is no device '{device}'", device=text), None, EXAMPLES) from error
    if device.type == CPU:
        return device
    here = best_device()
    if device.type != here.type:
        if device.type == CUDA:
            raise UserError(tr("there is no CUDA GPU here"), None, tr("use cpu"))
        raise UserError(
            tr("there is no device '{device}' here", device=text), None, tr("use {device}", device=here.type)
        )
    count = torch.accelerator.device_count()
    if device.index is not None and device.index >= count:
        what = tr("there is no device '{device}' here", device=text)
        raise UserError(what, None, tr("there are {count}, numbered from 0", count=count))
    return device


def is_cpu(device: torch.device) -> bool:
    """Whether a device is the processor itself."""
    return device.type == CPU


def supports_bfloat16(device: torch.device) -> bool:
    """Whether an accelerator computes in bfloat16: as its module of torch says, or, if that says nothing, by trying."""
    import torch

    module: Any = getattr(torch, device.type, None)
    ask = getattr(module, "is_bf16_supported", None)
    if ask is not None:
        return bool(ask())
    try:
        ones = torch.ones(2, 2, device=device, dtype=torch.bfloat16)
        return float((ones @ ones).sum()) == 8.0
    except (RuntimeError, TypeError):  # Apple's GPUs before macOS 14
        return False


def multiplies_faster_in_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices faster in bfloat16 than in float32: an accelerator that computes in it, and
    a CPU with AMX (8 to 10 times) or with AVX-512's bfloat16 products (2 times).
    """
    import torch

    if not is_cpu(device):
        return supports_bfloat16(device)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def to_float64(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor in float64, on its device if that has such numbers, else in main memory."""
    return (tensor.cpu() if tensor.device.type in _WITHOUT_FLOAT64 else tensor).double()


def has_flash_attention(device: torch.device) -> bool:
    """Whether torch's FlashAttention for documents of different lengths runs: NVIDIA's GPUs since Ampere."""
    import torch

    return device.type == CUDA and torch.version.cuda is not None and _capability(device) >= _AMPERE


def _capability(device: torch.device) -> tuple[int, int]:
    import torch

    return torch.cuda.get_device_capability(device)


def can_compile_attention(device: torch.device) -> bool:
    """Whether `flex_attention` is compiled for a device."""
    return device.type == CUDA


def peak_memory(device: torch.device) -> int | None:
    """The most bytes that this process has held on an accelerator; None if it does not count them (Apple's shares the
    main memory).
    """
    import torch

    if device.type in (CPU, MPS):
        return None
    try:
        return int(torch.accelerator.max_memory_allocated(device))
    except (AttributeError, RuntimeError):
        return None


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    import torch

    if device.type != CPU:
        torch.accelerator.synchronize(device)


def empty_cache(device: torch.device) -> None:
    """Give memory that torch keeps for a device back to it."""
    import torch

    if device.type == MPS:
        torch.mps.empty_cache()
    elif device.type != CPU:
        torch.accelerator.empty_cache()


def visible_gpus() -> list[str]:
    """The GPUs that another program (vLLM) may be given, as `CUDA_VISIBLE_DEVICES` names them; empty without a GPU."""
    import torch

    if best_device().type != CUDA:
        return []
    visible = os.environ.get(VISIBLE_GPUS)
    return visible.split(",") if visible else [str(index) for index in range(torch.accelerator.device_count())]
