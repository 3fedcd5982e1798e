"""How long a checkpoint pauses full training, compared with writing it synchronously.

    python bench/checkpoint_pause.py [MODEL]

Both write the same state of the same model (about 150 M parameters by default: weights and both moments), alternating;
it is checked that the bytes are equal. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from command_line import model_folder, run_main
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hanlin.config.settings.train import Pretrain
from hanlin.train.callbacks.checkpoint import Checkpointer, sha256_of
from hanlin.train.compute.model import TrainModel
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.ddp import DDP

ROUNDS = 4
SETTINGS = Pretrain(model="m", data=("d",))


def load_model(folder: Path | None) -> torch.nn.Module:
    if folder is not None:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=128_256, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
            num_attention_heads=8, num_key_value_heads=4, tie_word_embeddings=False,
        )
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=model_folder, nargs="?", help="none: a small one is made")
    model = TrainModel(load_model(parser.parse_args().model), torch.device("cpu"), "float32")
    strategy = DDP(model, SETTINGS, DistContext(0, 1, torch.device("cpu")))
    strategy.set_lr(1e-5)
    for parameter in strategy.trainable.values():
        parameter.grad = torch.full_like(parameter, 1e-3)
    strategy.step()
    pauses, writes = [], []
    with tempfile.TemporaryDirectory() as async_folder, tempfile.TemporaryDirectory() as sync_folder:
        async_checkpoints, sync_checkpoints = (
            Checkpointer(Path(async_folder), 1.0),
            Checkpointer(Path(sync_folder), 1.0),
        )
        time.sleep(0.6)  # half of the time to the first, as in a run: then its memory is allocated, beside the training
        async_checkpoints.preallocate(strategy)
        async_checkpoints.wait()
        for step in range(1, ROUNDS + 1):
            start_time = time.perf_counter()
            async_checkpoints.save(step, 0.0, strategy)
            pauses.append(time.perf_counter() - start_time)
            async_checkpoints.wait()
            start_time = time.perf_counter()
            sync_checkpoints.save(step, 0.0, strategy)
            sync_checkpoints.wait()
            writes.append(time.perf_counter() - start_time)
            files = [next(Path(folder).glob(f"*{step:08d}.pt")) for folder in (async_folder, sync_folder)]
            assert sha256_of(files[0]) == sha256_of(files[1])
        size = files[0].stat().st_size
    result = {
        "bench": "checkpoint_pause",
        "parameters": sum(parameter.numel() for parameter in strategy.trainable.values()),
        "gigabytes": round(size / 1e9, 2),
        "pause_seconds": {"first": round(pauses[0], 2), "others": [round(value, 2) for value in pauses[1:]]},
        "written_at_once_seconds": [round(value, 2) for value in writes],
        "ratio": round(statistics.median(a / b for a, b in zip(pauses, writes, strict=True)), 3),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
