"""Checkpoints as Meta publishes them: the params.json of each release, and files that its own parallel layers saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.config.settings.surgery.import_checkpoint import ImportCheckpoint
from hanlin.core.context import Inputs, StageContext
from hanlin.core.files import read_json, write_json
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.layouts import import_checkpoint, pickles
from hanlin.models.layouts.meta import build_meta_config
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from meta_equations import reference_logits

LLAMA_2_7B = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-05, "vocab_size": -1}
LLAMA_2_70B = {
    "dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80,
    "norm_eps": 1e-05, "vocab_size": -1,
}  # fmt: skip
LLAMA_3_8B = {
    "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "multiple_of": 1024,
    "ffn_dim_multiplier": 1.3, "norm_eps": 1e-05, "rope_theta": 500000.0,
}  # fmt: skip
LLAMA_3_1_70B = {
    "dim": 8192, "ffn_dim_multiplier": 1.3, "multiple_of": 4096, "n_heads": 64, "n_kv_heads": 8, "n_layers": 80,
    "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True, "vocab_size": 128256,
}  # fmt: skip
LLAMA_3_2_1B = {
    "dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256, "ffn_dim_multiplier": 1.5,
    "multiple_of": 256, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": True,
}  # fmt: skip
LLAMA_3_2_3B = {**LLAMA_3_2_1B, "dim": 3072, "n_layers": 28, "n_heads": 24, "ffn_dim_multiplier": 1.0}
CODE_LLAMA_7B = {**LLAMA_2_7B, "rope_theta": 1000000, "vocab_size": 32016}
NO_SCALING = {"rope_type": "default", "rope_theta": 10_000.0}
SCALED = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
RELEASES = {
    "llama_2_7b": (LLAMA_2_7B, 32_000, 11_008, 4096, NO_SCALING),
    "llama_2_70b": (LLAMA_2_70B, 32_000, 28_672, 4096, NO_SCALING),
    "code_llama_7b": (CODE_LLAMA_7B, 32_016, 11_008, 16_384, {**NO_SCALING, "rope_theta": 1e6}),
    "llama_3_8b": (LLAMA_3_8B, 128_256, 14_336, 8192, {**NO_SCALING, "rope_theta": 500_000.0}),
    "llama_3_1_8b": ({**LLAMA_3_8B, "use_scaled_rope": True}, 128_256, 14_336, 131_072, {**SCALED, "factor": 8.0}),
    "llama_3_1_70b": (LLAMA_3_1_70B, 128_256, 28_672, 131_072, {**SCALED, "factor": 8.0}),
    "llama_3_2_1b": (LLAMA_3_2_1B, 128_256, 8192, 131_072, {**SCALED, "factor": 32.0}),
    "llama_3_2_3b": (LLAMA_3_2_3B, 128_256, 8192, 131_072, {**SCALED, "factor": 32.0}),
}


@pytest.mark.parametrize("release", RELEASES)
def test_the_params_of_each_release_give_the_configuration_of_its_hub_folder(release: str) -> None:
    params, vocabulary, intermediate, positions, rope = RELEASES[release]
    width = int(params["dim"])
    base = int(float(params.get("ffn_dim_multiplier") or 1) * int(8 * width / 3))
    assert -(-base // int(params["multiple_of"])) * int(params["multiple_of"]) == intermediate  # Meta's own rule
    shapes = {"tok_embeddings.weight": (vocabulary, width), "layers.0.feed_forward.w1.weight": (intermediate, width)}
    shapes |= {f"layers.{layer}.attention.wo.weight": (width, width) for layer in range(int(params["n_layers"]))}
    config = build_meta_config(params, shapes, Path("params.json"), context_length=None, rope_factor=None)
    sizes = (config.vocab_size, config.intermediate_size, config.max_position_embeddings, config.rms_norm_eps)
    assert sizes == (vocabulary, intermediate, positions, 1e-5)
    assert config.num_key_value_heads == params.get("n_kv_heads", params["n_heads"])
    assert dict(config.rope_parameters) == rope  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- files of parallel processes

DIM, HEADS, KV_HEADS, LAYERS, HIDDEN = 64, 8, 4, 2, 96
COLUMN_PARALLEL = ("wq", "wk", "wv", "w1", "w3", "output")
ROW_PARALLEL = ("wo", "w2")


def whole_weights(vocabulary: int) -> dict[str, torch.Tensor]:
    """Random weights under Meta's names, in bfloat16 as published."""
    head = DIM // HEADS
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings.weight": (vocabulary, DIM), "norm.weight": (DIM,)}
    for layer in range(LAYERS):
        block = {
            "attention.wq": (DIM, DIM), "attention.wk": (KV_HEADS * head, DIM), "attention.wv": (KV_HEADS * head, DIM),
            "attention.wo": (DIM, DIM), "feed_forward.w1": (HIDDEN, DIM), "feed_forward.w2": (DIM, HIDDEN),
            "feed_forward.w3": (HIDDEN, DIM), "attention_norm": (DIM,), "ffn_norm": (DIM,),
        }  # fmt: skip
        shapes |= {f"layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    shapes["output.weight"] = (vocabulary, DIM)
    generator = torch.Generator().manual_seed(5)
    return {
        name: (torch.randn(shape, generator=generator) * 0.2 + (len(shape) == 1)).bfloat16()
        for name, shape in shapes.items()
    }


def shard(name: str, weight: torch.Tensor, rank: int, world: int, generation: int) -> torch.Tensor:
    """What the process `rank` of `world` saves of a weight, by the rules of fairscale's parallel layers."""
    module = name.split(".")[-2]
    if module in COLUMN_PARALLEL or (module == "tok_embeddings" and generation == 3):
        return weight.chunk(world, 0)[rank].clone()
    if module in ROW_PARALLEL or module == "tok_embeddings":
        return weight.chunk(world, 1)[rank].clone()
    return weight.clone()


@pytest.mark.parametrize(("generation", "world"), [(2, 1), (2, 4), (3, 1), (3, 2), (3, 4)])
def test_files_of_parallel_processes_become_the_model_of_metas_equations(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generation: int, world: int
) -> None:
    def convert_here(_: str, request: dict[str, Any], **limits: Any) -> dict[str, Any]:
        for file, out_path in request["files"]:
            with Path(out_path).open("wb") as out:
                assert not pickles.convert(file, out)
        return {"file": 0, "problem": ""}

    monkeypatch.setattr(pickles, "run_bounded", convert_here)
    tokenizer = Tokenizer.load(tiny_tokenizer)
    weights = whole_weights(-(-len(tokenizer) // 4) * 4)
    folder, out = tmp_path / "original", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    params: dict[str, Any] = {
        "dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "multiple_of": 32, "norm_eps": 1e-05,
        "vocab_size": -1 if generation == 2 else len(weights["tok_embeddings.weight"]),
    }  # fmt: skip
    if generation == 3:
        params |= {"ffn_dim_multiplier": 0.5, "rope_theta": 500000.0, "use_scaled_rope": True}
    write_json(folder / "params.json", params)
    for rank in range(world):
        state = {name: shard(name, weight, rank, world, generation) for name, weight in weights.items()}
        if generation == 2:
            state["rope.freqs"] = 1.0 / 10_000 ** (torch.arange(0, 8, 2) / 8)
        torch.save(state, folder / f"consolidated.{rank:02d}.pth")
    settings = ImportCheckpoint.model_validate({"checkpoint": "./c", "dtype": "float32"})
    inputs = Inputs({"checkpoint": (folder,), "tokenizer": (tiny_tokenizer,)})
    metrics = import_checkpoint.run(settings, inputs, out, StageContext())
    assert metrics["files"] == world
    config = check_model_folder(out).config
    assert config["max_position_embeddings"] == (4096 if generation == 2 else 131_072)
    ids = list(range(5, 25))
    model = load_model(out)
    if generation == 3:  # the equations below have no scaling; how transformers scales is tested with extend_context
        assert config["rope_parameters"]["factor"] == 8.0
        unscaled = {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}, "rope_scaling": None}
        write_json(out / "config.json", {**read_json(out / "config.json"), **unscaled})
        model = load_model(out)
    exact = {name: weight.float() for name, weight in weights.items()}
    expected = reference_logits(exact, {"rope_theta": 10_000.0, **params}, ids)
    with torch.no_grad():
        actual = model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)
