"""Folders in four and eight bits: GPTQ follows its paper, and transformers reads what was written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from hanlin.config.settings.export import QualityReport, QuantizedModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Document, write_jsonl
from hanlin.export.gptq import quantize_layers, quantize_weight, round_to_grid
from hanlin.export.hf import run
from hanlin.models.load import load_model

Make = Callable[..., Path]
TEXT = "翰林院在城东，春天的时候院子里开满了花。The library stands in the east of the town. " * 8


@pytest.fixture(scope="module")
def source(make_model: Make) -> Path:
    folder = make_model(hidden_size=64, intermediate_size=128, initializer_range=0.1)
    (folder / "LICENSE.txt").write_text("terms", encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("documents.jsonl", "validation.jsonl"):
        write_jsonl(folder / name, [Document(TEXT, f"d{place}") for place in range(6)])
    return folder


def written(source: Path, data: Path, out: Path, method: str, **settings: Any) -> tuple[Path, dict[str, Any]]:
    out.mkdir()
    named: dict[str, Any] = {"data": ("./d",)} if method == "gptq" else {}
    chosen = QuantizedModel(model="./m", method=method, group_size=32, **named, **settings)
    return out, run(
        chosen, Inputs({"model": (source,), "data": (data,), "quality_report.held_out": (data,)}), out, StageContext()
    )


def nearest(weight: torch.Tensor, group: int) -> torch.Tensor:
    groups = weight.reshape(len(weight), -1, group)
    scale = (2 * groups.abs().amax(-1) / 15).to(torch.bfloat16).float()
    return torch.stack([round_to_grid(groups[..., place], scale) for place in range(group)], -1).reshape(weight.shape)


def test_gptq_changes_what_a_matrix_gives_less_than_rounding_to_the_nearest_does() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 64) @ torch.randn(64, 64)  # columns that hang together
    weight = torch.randn(48, 64)
    rounded = quantize_weight(weight, inputs.T @ inputs, 32)
    error = (inputs @ (rounded.weight - weight).T).square().mean()
    plain = (inputs @ (nearest(weight, 32) - weight).T).square().mean()
    assert error < 0.7 * plain
    steps = rounded.weight.reshape(48, 2, 32) / rounded.scale[..., None]
    assert torch.allclose(steps, steps.round(), atol=1e-4)
    assert steps.round().min() >= -8 and steps.round().max() <= 7


def test_gptq_on_inputs_that_do_not_hang_together_is_rounding_to_the_nearest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(16, 64)
    assert torch.allclose(quantize_weight(weight, torch.eye(64), 32).weight, nearest(weight, 32), atol=1e-6)


def test_a_column_that_nothing_uses_is_dropped_and_breaks_nothing() -> None:
    squares = torch.eye(64)
    squares[5, 5] = 0.0
    rounded = quantize_weight(torch.randn(16, 64), squares, 32)
    assert torch.isfinite(rounded.weight).all() and not rounded.weight[:, 5].any()


def test_a_layer_is_rounded_on_what_the_rounded_layers_before_it_give(source: Path) -> None:
    model: Any = load_model(source)
    rows = [[1, 5, 9, 40, 41, 42, 50, 60]]
    found = quantize_layers(model, rows, 32, lambda done, of: None)
    assert len(found) == 2 * 7
    for name, grid in found.items():
        assert torch.equal(model.get_submodule(name).weight, grid.weight), name
    ids = torch.tensor(rows)
    assert torch.isfinite(model(ids).logits).all()


@pytest.mark.parametrize(
    ("method", "max_kl"),
    [
        ("gptq", 0.5),
        pytest.param("nf4", 0.5, marks=pytest.mark.slow),
        pytest.param("int8", 0.05, marks=pytest.mark.slow),
    ],
)
def test_transformers_reads_the_folder_and_the_quality_report_says_what_it_cost(
    method: str, max_kl: float, source: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors" if method == "gptq" else "bitsandbytes")
    quality_report = QualityReport(held_out=("./h",), window=64, tokens=256, prompts=0)
    out, metrics = written(source, data, tmp_path / method, method, quality_report=quality_report)
    (row,) = [row for name, row in metrics.items() if isinstance(row, dict) and "kl" in row]
    assert 0 < row["kl"] < max_kl
    assert metrics["parity"]["mismatches"] == 0
    model: Any = load_model(out)
    again: Any = load_model(source)
    ids = torch.tensor([[1, 5, 9, 40, 41]])
    with torch.inference_mode():
        difference = torch.log_softmax(model(ids).logits.float(), -1) - torch.log_softmax(again(ids).logits, -1)
    assert 0 < difference.abs().mean() < 1.0
    assert {"README.md", "LICENSE.txt"} <= {file.name for file in out.iterdir()}
    assert "library_name: transformers" in (out / "README.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="already quantized"):
        written(out, data, tmp_path / "twice", method)


def test_a_folder_that_stores_what_follows_from_its_configuration_is_quantized(
    make_model: Make, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("compressed_tensors")
    folder = make_model()
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"  # as Llama 2's own folders do
    save_file({**tensors, name: torch.ones(8)}, folder / "model.safetensors", metadata={"format": "pt"})
    out, _ = written(folder, data, tmp_path / "out", "gptq")
    assert name not in load_file(out / "model.safetensors")


def test_gptq_wants_data_and_rows_that_divide(make_model: Make, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="needs calibration data"):
        QuantizedModel(model="./m", method="gptq")
    pytest.importorskip("compressed_tensors")
    narrow = make_model(hidden_size=48, num_attention_heads=4)
    with pytest.raises(UserError, match="do not divide into groups of 32"):
        written(narrow, data, tmp_path / "out", "gptq")
