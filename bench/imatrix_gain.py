"""What an importance matrix gains on a trained model: KL divergence and perplexity of each type without and with it.

HANLIN_MODEL names the folder of a trained model and HANLIN_DATA data that Hanlin made with a validation split, folders
joined by colons (`runs/x/chats:runs/x/corpus`), Chinese and English: the training part gives the matrix, the
validation split is measured. HANLIN_TOKENS are the tokens measured of each language, HANLIN_CALIBRATION those of
the matrix, HANLIN_TYPES the types. With HANLIN_LLAMA_CPP, the folder of llama.cpp's built tools, the bytes of each file
made with the matrix are compared to what `llama-quantize --imatrix` makes of the same weights. HANLIN_WORK is a folder
that keeps the matrix and the model's own probabilities for another run. A row is printed as soon as it is measured; the
last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import gguf as gguf_format
import numpy as np
from command_line import existing_path, from_environment, model_folder, number_from_environment, of_variable, run_main

from hanlin.config.settings.export import Gguf, Imatrix, QualityReport
from hanlin.core.context import Inputs, StageContext
from hanlin.export import quality
from hanlin.export.gguf import imatrix
from hanlin.export.gguf.source import GgufSource, load_source
from hanlin.export.gguf.writer import write_files

TYPES = os.environ.get("HANLIN_TYPES", "Q4_K_M,Q3_K_M,Q2_K,Q4_K_S,Q3_K_S,IQ4_XS,IQ3_M").split(",")


def measure_type(source: GgufSource, file_type: str, reference: quality.QualityReference, out: Path) -> dict[str, Any]:
    """Write a file and measure it; it stays in `out`."""
    out.mkdir(exist_ok=True)
    settings = Gguf(model="./m", types=(file_type,), compare=False)  # type: ignore[arg-type]
    write_files((file_type,), settings, source, out, StageContext())
    row = quality.measure_quality(out / f"model-{file_type}.gguf", reference, StageContext())
    return {language: row[language] for language in reference.windows}


def count_different_bytes(our_file: Path, their_file: Path) -> int:
    """How many bytes of the tensors of two files differ. Raises SystemExit if they hold other tensors or types."""
    ours, theirs = (gguf_format.GGUFReader(file).tensors for file in (our_file, their_file))
    if [(t.name, t.tensor_type) for t in ours] != [(t.name, t.tensor_type) for t in theirs]:
        raise SystemExit("the files hold other tensors")
    pairs = zip(ours, theirs, strict=True)
    return sum(int((a.data.reshape(-1).view(np.uint8) != b.data.reshape(-1).view(np.uint8)).sum()) for a, b in pairs)


def main() -> None:
    model = from_environment("HANLIN_MODEL", "the folder of a trained model", model_folder)
    named = from_environment("HANLIN_DATA", "folders of data with a validation split", str)
    data = tuple(of_variable("HANLIN_DATA", name, existing_path).absolute() for name in named.split(":"))
    with tempfile.TemporaryDirectory() as temp_dir:
        here, context = Path(os.environ.get("HANLIN_WORK") or temp_dir), StageContext()
        matrix = here / "matrix"
        matrix.mkdir(parents=True, exist_ok=True)
        calibration = Imatrix(
            model="./m", data=tuple(map(str, data)), tokens=number_from_environment("HANLIN_CALIBRATION", 100_000)
        )
        metrics_file = matrix / "metrics.json"
        if not metrics_file.is_file():
            metrics = imatrix.run(calibration, Inputs({"model": (model,), "data": data}), matrix, context)
            metrics_file.write_text(json.dumps(metrics), encoding="utf-8")
        metrics = json.loads(metrics_file.read_text(encoding="utf-8"))
        print(json.dumps(metrics), flush=True)
        plain, weighted = load_source(model), load_source(model, matrix)
        settings = QualityReport(
            held_out=tuple(map(str, data)), prompts=0, tokens=number_from_environment("HANLIN_TOKENS", 8192)
        )
        reference = quality.prepare_reference(
            settings, data, plain.files, plain.tokenizer, None, context.scratch_folder(here), context
        )
        tools = os.environ.get("HANLIN_LLAMA_CPP")
        if tools:
            write_files(("F32",), Gguf(model="./m", types=("F32",), compare=False), plain, here, context)
        result: dict[str, Any] = {
            "bench": "imatrix_gain",
            "weights": plain.weights,
            "calibration": metrics,
            "types": {},
        }
        for file_type in TYPES:
            row: dict[str, Any] = {
                "bits_per_weight": plain.bits_per_weight(file_type),
                "without": measure_type(plain, file_type, reference, here / "plain"),
                "with": measure_type(weighted, file_type, reference, here / "weighted"),
            }
            row["kl_ratio"] = {
                language: round(row["with"][language]["kl"] / row["without"][language]["kl"], 3)
                for language in reference.windows
            }
            ours = here / "weighted" / f"model-{file_type}.gguf"
            if tools:
                theirs = here / "theirs.gguf"
                command = [Path(tools) / "llama-quantize", "--imatrix", matrix / "imatrix.gguf"]
                subprocess.run(
                    [*map(str, command), str(here / "model-F32.gguf"), str(theirs), file_type, "1"],
                    check=True,
                    capture_output=True,
                )
                row["bytes_that_differ_from_llama_cpp"] = count_different_bytes(ours, theirs)
            ours.unlink()
            (here / "plain" / ours.name).unlink()
            result["types"][file_type] = row
            print(file_type, json.dumps(row), flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
