"""What the rows of new entries begin with: bits per character of each `init` of `extend_vocabulary`.

    python bench/new_rows.py MODEL WORK TEXT HELD_OUT

MODEL is the folder of a trained model, TEXT a .jsonl or .txt file that entries and rows are learned from, HELD_OUT one
that neither side learned from. WORK keeps the grown models. HANLIN_ENTRIES are the new entries (8000), HANLIN_INITS the
inits, HANLIN_CHARACTERS the characters of HELD_OUT that are measured (20000), HANLIN_STEPS after how many steps of
training the new rows alone it is measured again (none; `50,200`). A row is printed as soon as it is measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any, cast

from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.config.settings.evaluate import Perplexity
from hanlin.config.settings.model import ExtendVocabulary
from hanlin.config.settings.train import Pretrain
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.progress import Progress
from hanlin.evaluate import perplexity
from hanlin.models import extend_vocab
from hanlin.models.load import load_model
from hanlin.models.new_rows.initialize import init_new_rows
from hanlin.models.new_rows.sample import sample_texts
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train import stages

INITS = os.environ.get("HANLIN_INITS", "mean,weighted,average_of_similar,omp,distilled").split(",")
STEPS = [int(step) for step in os.environ.get("HANLIN_STEPS", "").split(",") if step]
CHARACTERS = int(os.environ.get("HANLIN_CHARACTERS", "20000"))
SEED = 42


def measure(model: Path, held_out: Path, work: Path) -> float:
    """Bits per character of the held-out text."""
    out = work / f"measured-{time.time_ns()}"
    out.mkdir()
    settings = Perplexity(model="./m", data="./d", dtype="bfloat16", window=256, max_characters=CHARACTERS)
    inputs = Inputs({"model": (model,), "data": (held_out,)})
    return float(perplexity.run(settings, inputs, out, StageContext(seed=SEED))["bits_per_character"])


def initialize(init: Any, base: Path, grown: Path, text: Path, out: Path) -> float:
    """Write the grown model with other new rows; return the seconds that they took."""
    before, after = Tokenizer.load(base), Tokenizer.load(grown)
    first_id = len(before)
    pieces = [after.backend.id_to_token(token_id) or "" for token_id in range(first_id, len(after))]
    old_ids = [[token.id for token in before.backend.model.tokenize(piece)] for piece in pieces]
    model = cast(LlamaForCausalLM, load_model(grown, dtype="auto"))
    started = time.monotonic()
    if init != "mean":
        texts = sample_texts(read_texts([text]), SEED)
        init_new_rows(model, init, first_id, old_ids, after, texts, seed=SEED, progress=Progress(init))
    seconds = time.monotonic() - started
    out.mkdir(exist_ok=True)
    save_model(model, out, tokenizer=after)
    return seconds


def train_new_rows(model: Path, first_id: int, text: Path, steps: int, out: Path) -> None:
    """Train the new rows alone."""
    settings = Pretrain(
        model="./m", data=("./d",), trainable_tokens=first_id, learning_rate=1e-3, steps=steps, max_seq_length=256,
        batch_tokens=2048, weight_decay=0.0, lr_scheduler="constant",
    )  # fmt: skip
    out.mkdir(exist_ok=True)
    stages.pretrain(settings, Inputs({"model": (model,), "data": (text,)}), out, StageContext(seed=SEED))


def main() -> None:
    base, work, text, held_out = (Path(name).absolute() for name in sys.argv[1:5])
    work.mkdir(parents=True, exist_ok=True)
    grown = work / "grown"
    if not (grown / "config.json").is_file():
        grown.mkdir(exist_ok=True)
        entries = int(os.environ.get("HANLIN_ENTRIES", "8000"))
        settings = ExtendVocabulary(model="./m", text=("./d",), new_entries=entries, init="mean")
        extend_vocab.run(settings, Inputs({"model": (base,), "text": (text,)}), grown, StageContext(seed=SEED))
    print(json.dumps({"init": "ungrown", "bits_per_character": measure(base, held_out, work)}), flush=True)
    for init in INITS:
        model = work / init
        row: dict[str, Any] = {"init": init, "seconds": round(initialize(init, base, grown, text, model), 1)}
        row["bits_per_character"] = measure(model, held_out, work)
        print(json.dumps(row), flush=True)
        for steps in STEPS:
            trained = work / f"{init}-{steps}"
            train_new_rows(model, len(Tokenizer.load(base)), text, steps, trained)
            print(json.dumps({"init": init, "steps": steps, "bits_per_character": measure(trained, held_out, work)}))


if __name__ == "__main__":
    main()
