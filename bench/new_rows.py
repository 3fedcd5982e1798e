"""Bits per character with each `init` of `extend_vocabulary`, before and after training.

    python bench/new_rows.py MODEL WORK TEXT HELD_OUT...

MODEL is the folder of a trained model, TEXT a .jsonl or .txt file that entries and rows are learned from, each HELD_OUT
a file that neither side learned from. WORK keeps the grown model. Held-out texts are cut into snippets of 100
characters, each of which is read on its own, so that a larger vocabulary sees no more of the text before a token.

HANLIN_ENTRIES are the new entries (8000), HANLIN_INITS the inits, HANLIN_CHARACTERS the characters of each HELD_OUT
that are measured (4000). HANLIN_UNTIE=1 gives the model an output head of its own first, a copy of its embeddings.

HANLIN_STEPS are steps after which it is measured again (none; `50,200`), HANLIN_TRAINED what is trained (`rows,all`:
the new rows alone, all weights), HANLIN_STEP_TOKENS the tokens of a step (1024). The ungrown model is trained in all
weights beside them, unless HANLIN_SKIP_UNGROWN is set. HANLIN_ROWS_RATE and HANLIN_ALL_RATE are their learning rates
(1e-4). A row is printed as soon as it is measured; `seconds` are those that `init` took, `train_seconds` those of
training up to there.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.config.settings.evaluate import Perplexity
from hanlin.config.settings.model import ExtendVocabulary
from hanlin.config.settings.train import Pretrain
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.progress import Progress
from hanlin.evaluate import perplexity
from hanlin.models import extend_vocab
from hanlin.models.embedding_rows import resize_embeddings
from hanlin.models.load import load_model
from hanlin.models.new_rows.initialize import init_new_rows
from hanlin.models.new_rows.sample import sample_texts
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train import stages

INITS = os.environ.get("HANLIN_INITS", "mean,weighted,average_of_similar,omp,distilled").split(",")
STEPS = [int(step) for step in os.environ.get("HANLIN_STEPS", "").split(",") if step]
TRAINED = os.environ.get("HANLIN_TRAINED", "rows,all").split(",")
STEP_TOKENS = int(os.environ.get("HANLIN_STEP_TOKENS", "1024"))
CHARACTERS = int(os.environ.get("HANLIN_CHARACTERS", "4000"))
SNIPPET, ROW, TRAIN_CHARACTERS = 100, 256, 3_000_000
ROWS_RATE = float(os.environ.get("HANLIN_ROWS_RATE", "1e-4"))
ALL_RATE = float(os.environ.get("HANLIN_ALL_RATE", "1e-4"))
SEED = 42


def write_texts(texts: Sequence[str], file: Path) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for index, text in enumerate(texts):
            lines.write(json.dumps({"id": str(index), "text": text}, ensure_ascii=False) + "\n")


def held_out_snippets(file: Path) -> list[str]:
    """Snippets of 100 characters from all over the file, `HANLIN_CHARACTERS` in all."""
    snippets = [
        text[start : start + SNIPPET]
        for text in (text.strip() for text in read_texts([file]))
        for start in range(0, len(text), SNIPPET)
        if len(text) - start >= 20
    ]
    random.Random(SEED).shuffle(snippets)
    return snippets[: max(1, CHARACTERS * len(snippets) // max(1, sum(map(len, snippets))))]


def training_texts(file: Path) -> list[str]:
    """Texts of three million characters, in a random order, so that a step holds texts of all kinds."""
    texts = [text for text in read_texts([file]) if text.strip()]
    random.Random(SEED).shuffle(texts)
    total, chosen = 0, []
    for text in texts:
        chosen.append(text)
        total += len(text)
        if total >= TRAIN_CHARACTERS:
            break
    return chosen


class Bench:
    """Where the files of the measurement are."""

    def __init__(self, base: Path, work: Path, text: Path, held_out: Sequence[Path]) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.text = work, text
        self.base = self._untie(base) if os.environ.get("HANLIN_UNTIE") else base
        self.held_out = {file.stem: work / f"held_out_{file.stem}.jsonl" for file in held_out}
        for file in held_out:
            write_texts(held_out_snippets(file), self.held_out[file.stem])
        if STEPS:
            self.train_file = work / "train.jsonl"
            write_texts(training_texts(text), self.train_file)
        self.grown = work / "grown"
        if not (self.grown / "config.json").is_file():
            shutil.rmtree(self.grown, ignore_errors=True)
            self.grown.mkdir()
            entries = int(os.environ.get("HANLIN_ENTRIES", "8000"))
            settings = ExtendVocabulary(model="./m", text=("./d",), new_entries=entries, init="mean")
            inputs = Inputs({"model": (self.base,), "text": (text,)})
            extend_vocab.run(settings, inputs, self.grown, StageContext(seed=SEED))

    def _untie(self, base: Path) -> Path:
        """The model with an output head of its own."""
        model = cast(LlamaForCausalLM, load_model(base, dtype="auto"))
        if model.config.tie_word_embeddings:
            model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
            model.config.tie_word_embeddings = False
        out = self.work / "untied"
        out.mkdir(exist_ok=True)
        save_model(model, out, tokenizer=Tokenizer.load(base))
        return out

    def initialize(self, init: Any, out: Path) -> float:
        """Write the grown model with its new rows; return the seconds that they took."""
        before, after = Tokenizer.load(self.base), Tokenizer.load(self.grown)
        first_id = len(before)
        pieces = [after.backend.id_to_token(token_id) or "" for token_id in range(first_id, len(after))]
        old_ids = [[token.id for token in before.backend.model.tokenize(piece)] for piece in pieces]
        model = cast(LlamaForCausalLM, load_model(self.base, dtype="auto"))
        started = time.monotonic()
        resize_embeddings(model, first_id, old_ids)
        if init != "mean":
            texts = sample_texts(read_texts([self.text]), SEED)
            init_new_rows(model, init, first_id, old_ids, after, texts, seed=SEED, progress=Progress(init))
        seconds = time.monotonic() - started
        out.mkdir(exist_ok=True)
        save_model(model, out, tokenizer=after)
        return seconds

    def measure(self, model: Path) -> dict[str, float]:
        """Bits per character of each held-out text."""
        found = {}
        for name, file in self.held_out.items():
            out = self.work / "measured"
            out.mkdir()
            settings = Perplexity(model="./m", data="./d", dtype="bfloat16", window=ROW)
            inputs = Inputs({"model": (model,), "data": (file,)})
            metrics = perplexity.run(settings, inputs, out, StageContext(seed=SEED))
            found[name] = round(float(metrics["bits_per_character"]), 3)
            shutil.rmtree(out)
        return found

    def train(self, name: str, model: Path, trained: str) -> None:
        """Train on, and measure after each of `STEPS`; each part goes on from the model that the last one saved."""
        seconds, done = 0.0, 0
        for steps in STEPS:
            out = self.work / f"{name}-{trained}-{steps}"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            settings = Pretrain(
                model="./m", data=("./d",), steps=steps - done, max_seq_length=ROW, micro_batch_tokens=1024,
                batch_tokens=STEP_TOKENS, lr_scheduler="constant", weight_decay=0.0, precision="bfloat16",
                learning_rate=ROWS_RATE if trained == "rows" else ALL_RATE,
                trainable_tokens=len(Tokenizer.load(self.base)) if trained == "rows" else None,
            )  # fmt: skip
            inputs = Inputs({"model": (model,), "data": (self.train_file,)})
            metrics = stages.pretrain(settings, inputs, out, StageContext(seed=SEED + done))
            seconds, done = seconds + float(metrics["seconds"]), steps
            if model.name.startswith(f"{name}-"):
                shutil.rmtree(model)
            model = out
            row = {"init": name, "trained": trained, "steps": steps, "train_seconds": round(seconds)}
            print(json.dumps({**row, **self.measure(model)}), flush=True)
        shutil.rmtree(model)


def main() -> None:
    base, work, text, *held_out = (Path(name).absolute() for name in sys.argv[1:])
    bench = Bench(base, work, text, held_out)
    print(json.dumps({"init": "ungrown", "steps": 0, **bench.measure(bench.base)}), flush=True)
    if "all" in TRAINED and STEPS and not os.environ.get("HANLIN_SKIP_UNGROWN"):
        bench.train("ungrown", bench.base, "all")
    for init in INITS:
        model = work / init
        seconds = round(bench.initialize(init, model))
        print(json.dumps({"init": init, "steps": 0, "seconds": seconds, **bench.measure(model)}), flush=True)
        for trained in TRAINED if STEPS else ():
            bench.train(init, model, trained)
        shutil.rmtree(model)


if __name__ == "__main__":
    main()
