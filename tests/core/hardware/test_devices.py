"""Devices of machines that are not here, as torch would tell of them: what is chosen, refused and asked of each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.core.errors import UserError
from hanlin.core.hardware import devices
from hanlin.train.compute.kernels import choose_kernel
from hanlin.train.compute.runtime import faster_precision


class Device:
    """A device of a kind that this torch may not know by name."""

    def __init__(self, kind: str, index: int | None = None) -> None:
        self.type, self.index = kind, index


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets torch tell of an accelerator."""

    def tell(kind: str, count: int = 1) -> Any:
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device(kind))
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
        return monkeypatch

    return tell


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_the_accelerator_of_the_machine_is_taken_unless_another_is_named(machine: Any, kind: str) -> None:
    machine(kind)
    assert devices.best_device().type == devices.read_device(None).type == devices.read_device(kind).type == kind
    assert devices.read_device("cpu").type == "cpu"


def test_without_an_accelerator_all_runs_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)
    assert devices.best_device() == torch.device("cpu")


@pytest.mark.parametrize(
    ("kind", "named", "said"),
    [
        ("mps", "cuda", "there is no CUDA GPU here"),
        ("cuda", "mps", "there is no device 'mps' here .*use cuda"),
        ("cuda", "cuda:4", "there is no device 'cuda:4' here .*there are 2, numbered from 0"),
        ("cuda", "gpu", "there is no device 'gpu' .*cpu, cuda, cuda:1, mps"),
    ],
)
def test_a_device_that_is_not_here_is_refused(machine: Any, kind: str, named: str, said: str) -> None:
    machine(kind, 2)
    with pytest.raises(UserError, match=said):
        devices.read_device(named)


@pytest.mark.parametrize(("kind", "answer"), [("cuda", True), ("cuda", False), ("xpu", True), ("npu", True)])
def test_bfloat16_is_used_if_the_module_of_the_device_knows_it(
    kind: str, answer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = type("module", (), {"is_bf16_supported": staticmethod(lambda: answer)})
    monkeypatch.setattr(torch, kind, module, raising=False)
    device: Any = Device(kind)
    assert faster_precision(device) == ("bfloat16" if answer else "float32")


def test_a_device_that_says_nothing_of_bfloat16_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.supports_bfloat16(torch.device("cpu"))

    def ones(*size: int, **options: Any) -> Any:
        raise TypeError("BFloat16 is not supported on MPS")

    monkeypatch.setattr(torch, "ones", ones)
    assert not devices.supports_bfloat16(torch.device("mps"))


def test_apples_gpus_have_no_float64_and_share_the_main_memory() -> None:
    class Tensor:
        device = Device("mps")

        def cpu(self) -> torch.Tensor:
            return torch.ones(2)

    shared: Any = Tensor()
    assert devices.to_float64(shared).dtype == torch.float64
    assert devices.peak_memory(torch.device("mps")) is None


def test_training_makes_float64_by_this_function_alone() -> None:
    """On a device without such numbers `tensor.double()` and `torch.zeros(..., dtype=torch.float64)` are errors."""
    train = Path(devices.__file__).parents[2] / "train"
    files = [file for folder in ("objectives", "callbacks") for file in (train / folder).glob("*.py")]
    assert len(files) > 10
    for file in files:
        assert not re.search(r"\.double\(\)|torch\.float64", file.read_text(encoding="utf-8")), file


def test_kernels_for_nvidia_alone_are_not_chosen_elsewhere() -> None:
    device = torch.device("mps")
    assert choose_kernel("auto", device, torch.bfloat16, 64) == "grouped"
    for kernel in ("varlen", "flex"):
        with pytest.raises(UserError, match="GPU"):
            choose_kernel(kernel, device, torch.bfloat16, 64)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_an_accelerator_is_waited_for_and_asked_for_its_memory(machine: Any, kind: str) -> None:
    asked: list[str] = []
    monkeypatch = machine(kind)
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device: asked.append("wait"))
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: asked.append("empty"))
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 7)
    device = torch.device(kind)
    devices.synchronize(device)
    devices.empty_cache(device)
    assert devices.peak_memory(device) == 7 and asked == ["wait", "empty"]
    devices.synchronize(torch.device("cpu"))
    devices.empty_cache(torch.device("cpu"))
    assert devices.peak_memory(torch.device("cpu")) is None and len(asked) == 2


def test_only_cuda_gpus_are_named_to_other_programs(machine: Any) -> None:
    monkeypatch = machine("cuda", 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.visible_gpus() == ["0", "1", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    assert devices.visible_gpus() == ["2", "0"]
    machine("mps")
    assert devices.visible_gpus() == []
