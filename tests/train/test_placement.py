"""However a model is divided among processes, it learns what one learns alone, and goes on where another left off."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from launching import launch
from safetensors.torch import load_file

from conftest import conversation, many
from hanlin.job import Inputs
from hanlin.settings.model import LoraSettings
from hanlin.settings.train import Sft

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed (pip install 'hanlin[deepspeed]')"
)
SFT = Sft(
    model="m", data=("d",), row_length=128, batch_tokens=384, pass_tokens=128, steps=20, learning_rate=1e-3,
    precision="float32",
)  # fmt: skip
LORA = SFT.model_copy(update={"lora": LoraSettings(rank=4)})
MODES: list[Any] = [
    pytest.param({"mode": "ddp"}, id="ddp"),
    pytest.param({"mode": "fsdp"}, id="fsdp"),
    pytest.param({"mode": "fsdp", "offload": True}, id="fsdp_offload", marks=pytest.mark.slow),
    *(
        pytest.param(
            {"mode": mode, "offload": offload},
            id=mode + "_offload" * offload,
            marks=[pytest.mark.slow, needs_deepspeed],
        )
        for mode in ("zero2", "zero3")
        for offload in (False, True)
    ),
]


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("settings", [SFT, LORA], ids=["whole", "lora"])
def test_two_processes_follow_one(
    settings: Sft, how: dict[str, Any], tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    given = inputs(many(conversation, 24))
    one, two = tmp_path / "one", tmp_path / "two"
    launch("sft", settings, given, one, "work")
    launch("sft", settings, given, two, "in_a_group", 2, **how)
    for mine, theirs in zip(curve(one), curve(two), strict=True):
        assert mine["learnt_tokens"] == theirs["learnt_tokens"]
        assert theirs["loss"] == pytest.approx(mine["loss"], abs=1e-4)
        assert theirs["grad_norm"] == pytest.approx(mine["grad_norm"], rel=1e-3)
    file = "adapter_model.safetensors" if settings.lora else "model.safetensors"
    weights = load_file(two / file)
    for name, weight in load_file(one / file).items():
        torch.testing.assert_close(weights[name], weight, atol=1e-4, rtol=1e-3)
