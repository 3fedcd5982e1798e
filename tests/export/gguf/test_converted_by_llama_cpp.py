"""A model with a real Llama tokenizer, beside what llama.cpp's converter and then its quantizer make of it.

HANLIN_LLAMA_CPP names the folder of built tools; the converter lies two folders above it, as in llama.cpp's source.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from typer.testing import CliRunner

from hanlin.chat.packaged import read_packaged_template, without_generation_blocks
from hanlin.chat.tokenizer_files import find_template
from hanlin.cli.main import app
from hanlin.config.settings.export import Gguf
from hanlin.core.context import StageContext
from hanlin.export.gguf.source import load_source
from hanlin.export.gguf.writer import write_files
from hanlin.tokenizer.tokenizer import Tokenizer
from tokenizer_folders import accept_fast_ids

pytestmark = pytest.mark.llama_cpp

Make = Callable[..., Path]
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_XS", "Q3_K_M", "Q2_K")
OF_EXPERTS = ("IQ4_NL", "IQ3_M", "IQ3_S", "Q3_K_S")
"""Types whose mixture looks at the number of experts."""
OURS = {
    "general.name": "a setting here, there the folder's name",
    "tokenizer.ggml.eos_token_id": "here the token that the chat template ends an answer with",
    "tokenizer.ggml.eot_token_id": "the same, which the converter leaves out",
    "tokenizer.chat_template": "written in the form that every program reads alike",
}
"""The keys that may differ, and why."""
LLAMA_31 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_2": ("llama2", {"num_hidden_layers": 9}),
    "llama_2_with_biases": ("llama2", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
    "mixtral": ("llama2", {"num_hidden_layers": 8, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "four_experts": ("llama2", {"num_hidden_layers": 8, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama_3.1": ("llama3", {"rope_parameters": LLAMA_31, "head_dim": 64}),
    "llama_3.2_tied": ("llama3", {"rope_parameters": LLAMA_31, "tie_word_embeddings": True}),
    "narrow_rows": ("llama3", {"hidden_size": 288, "intermediate_size": 320, "num_attention_heads": 6}),
}


@pytest.fixture(scope="session")
def llama_cpp() -> Path:
    named = os.environ.get("HANLIN_LLAMA_CPP")
    if not named:
        pytest.skip("HANLIN_LLAMA_CPP does not name the folder of llama.cpp's built tools")
    return Path(named)


@pytest.fixture(scope="session")
def real_tokenizer(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def folder_of(name: str) -> Path:
        source = shared_data / "tokenizer" / name
        if name != "llama3":
            return source
        folder = tmp_path_factory.mktemp("llama3")
        (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
        shutil.copyfile(source / "instruct" / "tokenizer_config.json", folder / "tokenizer_config.json")
        return folder

    return folder_of


def call(*words: object) -> None:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]


def metadata_in(file: gguf.GGUFReader) -> dict[str, Any]:
    fields = file.fields.items()
    return {name: (field.types, field.contents()) for name, field in fields if not name.startswith("GGUF.")}


def tensors_in(file: gguf.GGUFReader) -> list[tuple[Any, ...]]:
    return [
        (tensor.name, tensor.tensor_type.name, tuple(tensor.shape), tensor.data.tobytes()) for tensor in file.tensors
    ]


def differing(ours: gguf.GGUFReader, theirs: gguf.GGUFReader) -> dict[str, tuple[Any, Any]]:
    one, other = metadata_in(ours), metadata_in(theirs)
    return {key: (one.get(key), other.get(key)) for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_key_and_every_byte_is_what_llama_cpp_makes_in_two_steps(
    shape: str,
    llama_cpp: Path,
    real_tokenizer: Callable[[str], Path],
    make_model: Make,
    tmp_path: Path,
) -> None:
    name, config = SHAPES[shape]
    tokenizer = real_tokenizer(name)
    wide: dict[str, int | list[int]] = {"hidden_size": 256, "intermediate_size": 256}
    wide["vocab_size"] = 32000 if name == "llama2" else 128256
    if name == "llama3":
        wide["eos_token_id"] = [128001, 128009]
    model = make_model(tokenizer, dtype=torch.bfloat16, **{**wide, **config})
    for file in tokenizer.iterdir():  # with SentencePiece's own file, from which the converter reads
        if file.name.startswith(("tokenizer", "special")):
            shutil.copyfile(file, model / file.name)
    converter = llama_cpp.parents[1] / "convert_hf_to_gguf.py"
    types = ("F32", *TYPES, *(OF_EXPERTS if "num_local_experts" in config else ()))
    out = tmp_path / "ours"
    out.mkdir()
    write_files(types, Gguf(model="./m", types=types), load_source(model), out, StageContext())
    whole = tmp_path / "whole.gguf"
    call(sys.executable, converter, model, "--outtype", "f32", "--outfile", whole)
    ours, theirs = gguf.GGUFReader(out / "model-F32.gguf"), gguf.GGUFReader(whole)
    assert differing(ours, theirs).keys() <= OURS.keys()
    assert sorted(tensors_in(ours)) == sorted(tensors_in(theirs))
    for file_type in types[1:]:
        call(llama_cpp / "llama-quantize", whole, tmp_path / "theirs.gguf", file_type, 2)
        ours, theirs = (gguf.GGUFReader(file) for file in (out / f"model-{file_type}.gguf", tmp_path / "theirs.gguf"))
        different = differing(ours, theirs)
        assert different.keys() <= OURS.keys(), file_type
        if "tokenizer.chat_template" in different:
            read = Tokenizer.load(model)
            template = find_template(read)
            assert template is not None and different["tokenizer.chat_template"][0][1] == template.source
        assert tensors_in(ours) == tensors_in(theirs), file_type
        (out / f"model-{file_type}.gguf").unlink()
        (tmp_path / "theirs.gguf").unlink()


@pytest.mark.parametrize("name", ["chinese_llama2", "literary_alpaca2_merged"])
def test_a_merged_chinese_vocabulary_needs_nothing_beside_the_converters_file(
    name: str, llama_cpp: Path, shared_data: Path, make_model: Make, tmp_path: Path
) -> None:
    """Thousands of its pieces have a score of 0, and no `tokenizer.json` gives the ids: the file alone does."""
    source = accept_fast_ids(tmp_path / "tokenizer", shared_data / "tokenizer" / name)
    rows = len(Tokenizer.load(source))
    model = make_model(source, vocab_size=rows, max_position_embeddings=2048)
    for file in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(source / file, model / file)
    (model / "tokenizer.json").unlink(missing_ok=True)
    template = without_generation_blocks(read_packaged_template("llama2"))
    (model / "chat_template.jinja").write_text(template, encoding="utf-8")
    converter = llama_cpp.parents[1] / "convert_hf_to_gguf.py"
    lone = tmp_path / "lone" / "m.gguf"
    lone.parent.mkdir()
    call(sys.executable, converter, model, "--outtype", "f16", "--outfile", lone)
    result = CliRunner().invoke(app, ["template", "check", str(lone), "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["backends"]
    assert row["cases"] > 300 and row["mismatches"] == 0
