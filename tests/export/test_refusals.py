"""What cannot be exported is said in one sentence, and nothing half-written stays under a final name."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from hanlin.config.settings.export import Gguf
from hanlin.core.errors import UserError

Make = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]


@pytest.fixture
def model(make_model: Make) -> Path:
    return make_model()


def refusal(export: Export, model: Path, *types: str) -> str:
    with pytest.raises(UserError) as caught:
        export(model, *types)
    return str(caught.value)


def test_truncated_safetensors(model: Path, export: Export) -> None:
    weights = model / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[: size // 2])
    said = refusal(export, model)
    assert str(weights) in said
    assert f"{size:,} bytes expected, {size // 2:,} found" in said


def test_a_pickled_checkpoint(model: Path, export: Export) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "pickle" in refusal(export, model)


def test_an_unknown_architecture(model: Path, export: Export) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["FalconForCausalLM"], "model_type": "falcon"}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "FalconForCausalLM is not supported" in refusal(export, model)


def test_another_activation(make_model: Make, export: Export) -> None:
    assert "no activation 'gelu'" in refusal(export, make_model(hidden_act="gelu"))


def test_rotary_scaling_that_has_no_place_in_the_file(make_model: Make, export: Export) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 128}
    assert "'dynamic' cannot be written" in refusal(export, make_model(rope_parameters=rope))


def test_a_gguf_file_where_a_model_is_wanted(model: Path, export: Export) -> None:
    out, _ = export(model, "F16", compare=False)
    assert "this is a GGUF file already" in refusal(export, out)
    assert "this is a GGUF file already" in refusal(export, out / "model-F16.gguf")


def test_an_adapter_where_a_model_is_wanted(tmp_path: Path, export: Export) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "merge it first" in refusal(export, adapter)


@pytest.mark.parametrize(
    ("value", "file_type", "said"), [(np.nan, "Q8_0", "NaN or infinite"), (1e6, "F16", "write BF16")]
)
def test_values_that_a_file_cannot_hold(model: Path, export: Export, value: float, file_type: str, said: str) -> None:
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    out = model.with_name(model.name + "-out")
    with pytest.raises(UserError) as caught:
        export(model, file_type, out=out)
    assert "blk.1.ffn_up.weight" in str(caught.value)
    assert said in str(caught.value)
    assert not list(out.glob("*.gguf"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_leaves_no_file(model: Path, export: Export, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with largest_file(150_000), pytest.raises(UserError, match="no space to write the file"):
        export(model, "F32", out=out)
    assert not list(out.glob("*.gguf"))
    export(model, "F32", out=out, compare=False)
    assert (out / "model-F32.gguf").is_file()


def test_types_are_known_and_named_once() -> None:
    with pytest.raises(ValidationError, match="Q4_K_M"):
        Gguf(model="./m", types=("Q4",))
    with pytest.raises(ValidationError, match="twice"):
        Gguf(model="./m", types=("Q8_0", "Q8_0"))
