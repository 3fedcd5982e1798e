"""GGUF export from safetensors, compared with llama.cpp's two steps (convert to F16, quantize), alternating.

HANLIN_LLAMA_CPP names the folder of llama.cpp's built tools, two folders below the converter, and HANLIN_MODEL a model
folder. `python bench/export.py --make FOLDER TOKENIZER` makes one of 505 M random parameters over the tokenizer of
Llama 3 in another folder. Every run is a process of its own, its start-up included. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from command_line import existing_folder, from_environment, model_folder, number_from_environment, run_main

TYPES = ("Q4_K_M", "Q8_0")
PAIRS = number_from_environment("HANLIN_PAIRS", 3)
SHAPE = {
    "vocab_size": 128256,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128009],
}


class Cost(NamedTuple):
    """Time and peak memory of a command, or of several one after another."""

    seconds: float
    processor_seconds: float
    peak_bytes: int

    def then(self, other: Cost) -> Cost:
        processor = self.processor_seconds + other.processor_seconds
        return Cost(self.seconds + other.seconds, processor, max(self.peak_bytes, other.peak_bytes))


def run_and_measure(command: list[str]) -> Cost:
    """Run a command and measure it. Linux counts the memory of this process at the fork into the child's peak, so files
    are compared in yet another process.
    """
    start_time = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    stderr = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command[:3]}: {stderr[-800:].decode('utf-8', 'replace')}")
    return Cost(time.perf_counter() - start_time, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def write_gguf(model: Path, out: Path, file_type: str) -> None:
    """In a child process: what the stage `gguf` does until the file is written."""
    from hanlin.config.settings.export import Gguf
    from hanlin.core.context import StageContext
    from hanlin.export.gguf.source import load_source
    from hanlin.export.gguf.writer import write_files

    out.mkdir(exist_ok=True)
    settings = Gguf(model="./m", types=(file_type,), compare=False)  # type: ignore[arg-type]
    write_files((file_type,), settings, load_source(model), out, StageContext())


def make_model(folder: Path, tokenizer: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hanlin.tokenizer.tokenizer import Tokenizer

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).to(torch.bfloat16).save_pretrained(folder)
    Tokenizer.load(tokenizer).save(folder)


def count_different_bytes(ours: Path, theirs: Path) -> tuple[int, int]:
    """How many bytes of the tensors differ, of how many; the intermediate F16 rounds the smallest numbers. Raises
    SystemExit when the files have other tensors or types.
    """
    import gguf
    import numpy as np

    one, other = (gguf.GGUFReader(file).tensors for file in (ours, theirs))
    names = [[(t.name, t.tensor_type, tuple(t.shape)) for t in tensors] for tensors in (one, other)]
    if names[0] != names[1]:
        raise SystemExit("the files hold other tensors")
    pairs = [
        (a.data.reshape(-1).view(np.uint8), b.data.reshape(-1).view(np.uint8)) for a, b in zip(one, other, strict=True)
    ]
    return sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)


def summarize(values: list[float]) -> dict[str, float]:
    median = statistics.median(values)
    return {"median": round(median, 3), "lowest": round(min(values), 3), "highest": round(max(values), 3)}


def main() -> None:
    tools = from_environment("HANLIN_LLAMA_CPP", "llama.cpp's built tools", existing_folder)
    converter, threads = tools.parents[1] / "convert_hf_to_gguf.py", str(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as temp_dir:
        here = Path(temp_dir)
        model = from_environment("HANLIN_MODEL", "a model folder", model_folder)
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        result: dict[str, Any] = {"bench": "export", "pairs": PAIRS, "model_bytes": weights, "threads": int(threads)}
        for file_type in TYPES:
            ours: list[Cost] = []
            theirs: list[Cost] = []
            steps: list[tuple[float, float]] = []
            for turn in range(PAIRS):
                out = here / f"ours-{turn}"
                ours.append(run_and_measure([sys.executable, __file__, "--write", str(model), str(out), file_type]))
                whole, theirs_file = here / "f16.gguf", here / "theirs.gguf"
                first = run_and_measure(
                    [sys.executable, str(converter), str(model), "--outtype", "f16", "--outfile", str(whole)]
                )
                second = run_and_measure(
                    [str(tools / "llama-quantize"), str(whole), str(theirs_file), file_type, threads]
                )
                theirs.append(first.then(second))
                steps.append((first.seconds, second.seconds))
                compare = [
                    sys.executable,
                    __file__,
                    "--differing",
                    str(out / f"model-{file_type}.gguf"),
                    str(theirs_file),
                ]
                different, total = json.loads(subprocess.run(compare, check=True, stdout=subprocess.PIPE).stdout)
                for file in (out / f"model-{file_type}.gguf", whole, theirs_file):
                    file.unlink()
                taken = f"{ours[-1].seconds:.1f} s, {first.seconds:.1f} + {second.seconds:.1f} s"
                print(f"{file_type}: {taken}, {different} of {total} bytes differ", flush=True)
            result[file_type] = {
                "ratio": summarize([a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)]),
                "processor_ratio": summarize(
                    [a.processor_seconds / b.processor_seconds for a, b in zip(ours, theirs, strict=True)]
                ),
                "seconds": summarize([a.seconds for a in ours]),
                "their_seconds": summarize([b.seconds for b in theirs]),
                "their_steps": [round(statistics.median(step), 2) for step in zip(*steps, strict=True)],
                "processor_seconds": summarize([a.processor_seconds for a in ours]),
                "their_processor_seconds": summarize([b.processor_seconds for b in theirs]),
                "peak_mb": round(max(a.peak_bytes for a in ours) / 1e6),
                "their_peak_mb": round(max(b.peak_bytes for b in theirs) / 1e6),
                "differing_bytes": different / total,
            }
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        write_gguf(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    elif sys.argv[1:2] == ["--differing"]:
        print(json.dumps(count_different_bytes(Path(sys.argv[2]), Path(sys.argv[3]))))
    elif sys.argv[1:2] == ["--make"]:
        make_model(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        run_main(main)
