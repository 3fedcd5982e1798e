"""Extended contexts and added blocks arrive in GGUF: llama.cpp gives the model's logits, on long rows too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from hanlin.config.settings.export import Gguf
from hanlin.config.settings.surgery.blocks import ExpandBlocks
from hanlin.config.settings.surgery.context import ExtendContext
from hanlin.config.settings.surgery.experts import UpcycleExperts
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.export.gguf.source import load_source
from hanlin.export.gguf.writer import gguf_path, write_files
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.inference.decoder import BatchItem
from hanlin.models.load import load_model
from hanlin.models.surgery import blocks, context, experts

LONG = 600
"""Tokens of a row; the tiny model was made for 256 positions."""


def extend(model: Path, out: Path, method: str) -> Path:
    out.mkdir()
    settings = ExtendContext.model_validate({"model": "./m", "context_length": 1024, "method": method})
    context.run(settings, Inputs({"model": (model,)}), out, StageContext())
    return out


def written(model: Path, out: Path) -> Path:
    """The model as a GGUF file; what the stage verifies is compared here, on longer rows."""
    out.mkdir()
    settings = Gguf(model="./m", types=("F32",))
    write_files(("F32",), settings, load_source(model), out, StageContext())
    return gguf_path(out, "F32")


def row_of(model: Path, length: int) -> list[int]:
    rows = int(load_model(model).config.vocab_size)
    return [1 + 7 * index % (rows - 1) for index in range(length)]


def divergence(model: Path, file: Path, row: list[int]) -> float:
    """The largest KL divergence of a position, in nats."""
    expected, actual = by_transformers(model, row), by_llama_cpp(file, row)
    return float((np.exp(expected) * (expected - actual)).sum(-1).max())


def by_transformers(model: Path, row: list[int]) -> np.ndarray:
    with torch.no_grad():
        return load_model(model)(input_ids=torch.tensor([row])).logits[0].log_softmax(-1).numpy()


def by_llama_cpp(file: Path, row: list[int]) -> np.ndarray:
    model = LlamaCppModel(file)
    kv_cache = model.new_kv_cache(sequences=1, length=len(row), cache_type="f32")
    (values,) = kv_cache.decode([BatchItem(0, 0, row, range(len(row)))])
    kv_cache.close()
    model.close()
    return torch.from_numpy(values).log_softmax(-1).numpy()


@pytest.mark.parametrize(
    "method", ["yarn", "llama3", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "theta"))]
)
def test_llama_cpp_gives_the_logits_of_an_extended_context_on_long_rows(
    method: str, plain_model: Path, tmp_path: Path
) -> None:
    model = extend(plain_model, tmp_path / "long", method)
    file = written(model, tmp_path / "gguf")
    assert divergence(model, file, row_of(model, LONG)) < 1e-4
    assert gguf.GGUFReader(file).fields["llama.context_length"].contents() == 1024


def test_dynamic_scaling_is_refused_by_name(plain_model: Path, tmp_path: Path) -> None:
    model = extend(plain_model, tmp_path / "long", "dynamic")
    with pytest.raises(UserError, match="'dynamic' cannot be written"):
        load_source(model)


@pytest.mark.parametrize("scaling", [{"attention_factor": 1.5}, {"mscale": 1.5, "mscale_all_dim": 0.5}])
def test_a_scaling_of_attention_that_the_model_names_arrives(
    scaling: dict[str, float], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64, **scaling}
    model = make_model(rope_parameters=rope)
    assert divergence(model, written(model, tmp_path / "gguf"), row_of(model, 40)) < 1e-5


def test_yarn_that_llama_cpp_computes_otherwise_is_refused(make_model: Callable[..., Path]) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    with pytest.raises(UserError, match="truncate"):
        load_source(make_model(rope_parameters={**rope, "truncate": False}))


def test_expanded_blocks_arrive(plain_model: Path, tmp_path: Path) -> None:
    (tmp_path / "expanded").mkdir()
    settings = ExpandBlocks(model="./m", new_blocks=2)
    blocks.run(settings, Inputs({"model": (plain_model,)}), tmp_path / "expanded", StageContext())
    row = row_of(plain_model, 50)
    expanded = written(tmp_path / "expanded", tmp_path / "after")
    assert divergence(tmp_path / "expanded", expanded, row) < 1e-5
    before = by_llama_cpp(written(plain_model, tmp_path / "before"), row)
    assert np.array_equal(by_llama_cpp(expanded, row), before)


def test_upcycled_experts_arrive(plain_model: Path, tmp_path: Path) -> None:
    (tmp_path / "experts").mkdir()
    settings = UpcycleExperts(model="./m", experts=4)
    experts.run(settings, Inputs({"model": (plain_model,)}), tmp_path / "experts", StageContext())
    file = written(tmp_path / "experts", tmp_path / "after")
    row = row_of(plain_model, 50)
    assert divergence(tmp_path / "experts", file, row) < 1e-5
    assert divergence(plain_model, file, row) < 1e-5
    fields = gguf.GGUFReader(file).fields
    assert (fields["llama.expert_count"].contents(), fields["llama.expert_used_count"].contents()) == (4, 2)
