"""Side by side with llama.cpp's own quantizer, importance matrix and perplexity, built from its source.

HANLIN_LLAMA_CPP names the folder that holds `llama-quantize`, `llama-imatrix` and `llama-perplexity` of the llama.cpp
that xllamacpp carries (CPU flags as its wheel: AVX2, FMA, F16C, BMI2, not native); without it these tests skip.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from hanlin.config.settings.export import NEEDS_IMPORTANCE, QualityReport
from hanlin.core.context import StageContext
from hanlin.core.records import Document, write_jsonl
from hanlin.export import quality
from hanlin.export.gguf.imatrix import collect_imatrix
from hanlin.export.gguf.imatrix_file import read_imatrix, write_imatrix
from hanlin.export.gguf.quant_types import FILE_TYPES
from hanlin.export.gguf.source import load_source
from hanlin.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.llama_cpp

Make = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]
WINDOW = 64
SHAPES = {
    "grouped": {"num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 2},
    "tied": {"num_hidden_layers": 9, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "narrow": {"num_hidden_layers": 8, "hidden_size": 288, "intermediate_size": 320, "num_key_value_heads": 4},
    "70b": {"num_hidden_layers": 80, "num_attention_heads": 8, "num_key_value_heads": 4},
}


@pytest.fixture(scope="session")
def tools() -> Path:
    named = os.environ.get("HANLIN_LLAMA_CPP")
    if not named:
        pytest.skip("HANLIN_LLAMA_CPP does not name the folder of llama.cpp's built tools")
    return Path(named)


def call(tool: Path, *words: object) -> str:
    done = subprocess.run([str(tool), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    return done.stdout + done.stderr


def said_by(tool: Path, last: str, *words: object) -> str:
    """What a tool says. Its log is written by a thread that the program's end may cut off: then it is asked again."""
    for _ in range(50):  # 10 were too few on a machine with 13 processes for 2 cores
        said = call(tool, *words)
        if last in said:
            return said
    raise AssertionError(f"{tool.name} never came to {last!r}: {said[-500:]}")


def text_of(rows: int) -> str:
    return "\n".join(f"翰林院在城东，第{n}年开花。The library stands in the east, year {n}." for n in range(rows))


def rows_as_llama_cpp_cuts_them(model: Path, text: str) -> list[list[int]]:
    tokenizer = Tokenizer.load(model)
    assert tokenizer.adds_bos and tokenizer.bos_id is not None
    ids = [tokenizer.bos_id, *tokenizer.encode(text)]
    whole = len(ids) // WINDOW
    return [[tokenizer.bos_id, *ids[place * WINDOW + 1 : (place + 1) * WINDOW]] for place in range(whole)]


def differing(one: Path, other: Path) -> list[str]:
    ours, theirs = ({t.name: t for t in gguf.GGUFReader(file).tensors} for file in (one, other))
    assert ours.keys() == theirs.keys()
    return [
        f"{name} {ours[name].tensor_type.name} {theirs[name].tensor_type.name}"
        for name in ours
        if ours[name].tensor_type != theirs[name].tensor_type
        or ours[name].data.tobytes() != theirs[name].data.tobytes()
    ]


@pytest.mark.parametrize("weighed", [False, True], ids=["plain", "with_matrix"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_tensor_has_the_bytes_of_llama_quantize(
    shape: str, weighed: bool, tools: Path, make_model: Make, export: Export, tmp_path: Path
) -> None:
    config = {"hidden_size": 256, "intermediate_size": 256, **SHAPES[shape]}
    model = make_model(**config)
    types = [name for name in FILE_TYPES if weighed or name not in NEEDS_IMPORTANCE]
    if shape == "70b":
        types = ["F32", "Q4_0", "Q4_K_M", "Q4_K_S", "Q3_K_M", "Q3_K_S", "Q2_K"]  # those whose mixture differs
    matrix = None
    if weighed:
        matrix = tmp_path / "imatrix.gguf"
        write_imatrix(matrix, collect_imatrix(model, rows_as_llama_cpp_cuts_them(model, text_of(6)), WINDOW, ("text",)))
    out, _ = export(model, *types, compare=False, importance=matrix)
    for name in types[1:]:
        reference = tmp_path / "reference.gguf"
        words = ["--imatrix", matrix] if matrix else []
        call(tools / "llama-quantize", *words, out / "model-F32.gguf", reference, name, 2)
        assert differing(out / f"model-{name}.gguf", reference) == [], name
        (out / f"model-{name}.gguf").unlink()


@pytest.mark.parametrize("form", ["gguf", "dat"])
def test_the_matrix_is_llama_imatrixs_on_the_same_tokens(
    form: str, tools: Path, make_model: Make, export: Export, tmp_path: Path
) -> None:
    model = make_model(hidden_size=256, intermediate_size=512)
    text = text_of(40)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    out, _ = export(model, "F32", compare=False)
    words = ["-c", WINDOW, "-b", WINDOW, "-t", 1, "-fa", "off", "--output-format", form]
    made = tmp_path / f"theirs.{form}"
    call(tools / "llama-imatrix", "-m", out / "model-F32.gguf", "-f", tmp_path / "text.txt", "-o", made, *words)
    theirs = read_imatrix(made)
    ours = collect_imatrix(model, rows_as_llama_cpp_cuts_them(model, text), WINDOW, (str(tmp_path / "text.txt"),))
    assert ours.used.keys() == theirs.used.keys()
    assert ours.chunks == theirs.chunks
    for name, used in ours.used.items():
        weights = theirs.weights(name, len(used.in_sum2))
        assert weights is not None
        one, other = used.in_sum2, weights[0]
        assert np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other) > 0.9999, name
        assert np.allclose(one / used.count, other, rtol=1e-2), name
    write_imatrix(tmp_path / f"again.{form}", theirs)
    if form == "dat":
        assert (tmp_path / "again.dat").read_bytes() == made.read_bytes()
    write_imatrix(tmp_path / f"ours.{form}", ours)  # and llama.cpp reads what is written here
    back = tmp_path / "back.gguf"
    call(tools / "llama-imatrix", "-m", "none", "--in-file", tmp_path / f"ours.{form}", "-o", back)
    read = read_imatrix(back)
    for name, used in ours.used.items():
        weights = read.weights(name, len(used.in_sum2))
        assert weights is not None and np.allclose(weights, used.in_sum2 / used.count, rtol=1e-5), name


def test_perplexity_and_divergence_are_llama_perplexitys(
    tools: Path, make_model: Make, export: Export, tmp_path: Path
) -> None:
    model = make_model(hidden_size=256, intermediate_size=512, initializer_range=0.05)
    text = text_of(60)
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    write_jsonl(tmp_path / "validation.jsonl", [Document(text, "d")])
    out, _ = export(model, "F32", "Q4_K_M", "Q3_K_M", "Q2_K", compare=False)
    source = load_source(model)
    settings = QualityReport(held_out=("./d",), window=WINDOW, tokens=WINDOW * 16)
    reference = quality.prepare_reference(
        settings, (tmp_path,), source.files, source.tokenizer, None, tmp_path, StageContext()
    )
    ((language, windows),) = reference.windows.items()
    base = ["--kl-divergence-base", tmp_path / "base", "-f", tmp_path / "text.txt", "-c", WINDOW, "-b", WINDOW]
    base += ["-t", 1, "--chunks", len(windows)]
    said = said_by(tools / "llama-perplexity", "Final estimate", *base, "-m", out / "model-F32.gguf")
    found = re.search(r"Final estimate: PPL = ([\d.]+)", said)
    assert found is not None
    for name in ("Q4_K_M", "Q3_K_M", "Q2_K"):
        file = out / f"model-{name}.gguf"
        said = said_by(tools / "llama-perplexity", "Same top p: ", *base, "-m", file, "--kl-divergence")
        row = quality.measure_quality(file, reference, StageContext())[language]
        assert row["source_perplexity"] == pytest.approx(float(found[1]), rel=0.01)
        for figure, pattern in (("perplexity", r"Mean PPL\(Q\)"), ("kl", "Mean    KLD")):
            number = re.search(pattern + r"\s*:\s*([\d.]+)", said)
            assert number is not None
            assert row[figure] == pytest.approx(float(number[1]), rel=0.01), (name, figure)
