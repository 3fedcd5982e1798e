"""Bits per character with each `init` of `extend_vocabulary`, before and after training.

    python bench/new_rows.py MODEL WORK TEXT HELD_OUT... [--inits mean,distilled] [--steps 50,200,1000]
    python bench/new_rows.py MODEL WORK TEXT HELD_OUT... --table

MODEL is the folder of a trained model, TEXT a .jsonl or .txt file that entries and rows are learned from, each HELD_OUT
a file that neither side learned from. Held-out texts are cut into snippets of 100 characters, each of which is read on
its own, so that a larger vocabulary sees no more of the text before a token.

With `--steps` the models are trained: the new rows alone (`--rates`, one or several learning rates) and all weights
(`--all-rate`), the ungrown model in all weights beside them. Each measurement is appended to WORK/rows.jsonl; one that
is there is not made again, and training goes on from its last checkpoint, so that a bench which was stopped goes on,
also to more steps. `birth_seconds` are processor seconds that `init` took, `seconds_a_step` those of a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from command_line import (
    existing_folder,
    existing_path,
    folder_to_write,
    list_of,
    names_among,
    non_negative_int,
    positive_float,
    positive_int,
    read_json_lines,
    run_main,
)
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.config.settings.model import ExtendVocabulary
from hanlin.config.settings.train import Pretrain, Training
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.progress import Progress
from hanlin.models import extend_vocab
from hanlin.models.embedding_rows import resize_embeddings
from hanlin.models.load import load_model
from hanlin.models.new_rows.initialize import init_new_rows
from hanlin.models.new_rows.sample import sample_texts
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.callbacks.base import Callback, TrainerState
from hanlin.train.callbacks.forgetting import Probe, probe_encoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.objectives.next_token import next_token
from hanlin.train.run import TrainingRun

INITS = "mean,weighted,average_of_similar,omp,distilled"
SNIPPET, TRAIN_CHARACTERS = 100, 3_000_000
WARMUP_STEPS, MAX_STEPS = 5, 100_000
SEED = 42

Row = dict[str, Any]


def write_texts(texts: Sequence[str], file: Path) -> None:
    with file.open("w", encoding="utf-8") as lines:
        for index, text in enumerate(texts):
            lines.write(json.dumps({"id": str(index), "text": text}, ensure_ascii=False) + "\n")


def held_out_snippets(file: Path, characters: int) -> list[str]:
    """Snippets of 100 characters from all over the file, about so many characters in all."""
    snippets = [
        text[start : start + SNIPPET]
        for text in (text.strip() for text in read_texts([file]))
        for start in range(0, len(text), SNIPPET)
        if len(text) - start >= 20
    ]
    random.Random(SEED).shuffle(snippets)
    return snippets[: max(1, characters * len(snippets) // max(1, sum(map(len, snippets))))]


def training_texts(file: Path, seed: int) -> list[str]:
    """Texts of three million characters, in a random order, so that a step holds texts of all kinds."""
    texts = [text for text in read_texts([file]) if text.strip()]
    random.Random(seed).shuffle(texts)
    total, chosen = 0, []
    for text in texts:
        chosen.append(text)
        total += len(text)
        if total >= TRAIN_CHARACTERS:
            break
    return chosen


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is trained: the model of an init (`ungrown` for the one without new entries), which weights, how fast."""

    init: str
    trained: str
    rate: float


class Measuring(Callback):
    """Measures held-out texts at some steps, asks for a checkpoint at each, and stops the run at the last."""

    def __init__(self, bench: Bench, cell: Cell, held_out: PackedDataset) -> None:
        self.bench, self.cell, self.held_out = bench, cell, held_out
        self.steps = sorted({0, *bench.steps})
        self.measuring, self.started, self.step, self.first_step = 0.0, 0.0, 0, 0

    def on_train_begin(self, state: TrainerState) -> None:
        self.started, self.step, self.first_step = time.process_time(), state.step, state.step
        if state.step == 0:
            self.measure(state)

    def on_step_end(self, state: TrainerState) -> None:
        self.step = state.step
        if state.step in self.steps:
            self.measure(state)
            state.requests |= {"checkpoint"}  # the checkpointer comes after this

    def should_stop(self, state: TrainerState) -> bool:
        return self.step >= self.steps[-1]

    @torch.no_grad()
    def measure(self, state: TrainerState) -> None:
        if self.bench.is_measured(self.cell, state.step):
            return
        begun = time.process_time()
        done = state.step - self.first_step
        row: Row = {"steps": state.step}
        if done:
            row["seconds_a_step"] = round((begun - self.started - self.measuring) / done, 2)
        state.model.refresh()
        state.model.hf_model.eval()
        indices = np.arange(len(self.held_out.samples))
        nats = dict.fromkeys(self.bench.held_out, 0.0)
        names = [name for name, texts in self.bench.held_out.items() for _ in texts]
        for batch in state.model.micro_batches(self.held_out, indices, 1024):
            parts = state.model.token_logprobs(batch).double().split(list(batch.target_counts))
            for index, part in zip(batch.sample_indices, parts, strict=True):
                nats[names[index]] -= float(part.sum())
        state.model.hf_model.train()
        for name, texts in self.bench.held_out.items():
            row[name] = round(nats[name] / math.log(2) / sum(map(len, texts)), 3)
        self.bench.note(self.cell, row)
        self.measuring += time.process_time() - begun


class MeasuredRun(TrainingRun):
    """A training run that measures the bench's held-out texts."""

    bench: Bench
    cell: Cell

    def _make_probes(self, settings: Training) -> Any:
        probes = [Probe(name, "text", text) for name, texts in self.bench.held_out.items() for text in texts]
        encoded = self.data.encode("held_out", probes, probe_encoder(self.data.tokenizer, 4096), len(probes))
        return Measuring(self.bench, self.cell, PackedDataset.from_records(encoded))


class Bench:
    """Where the files of the measurement are, and what was measured already."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.options = arguments
        self.work: Path = arguments.work.absolute()
        self.text: Path = arguments.text.absolute()
        self.work.mkdir(parents=True, exist_ok=True)
        self.steps = [int(step) for step in arguments.steps.split(",") if step]
        self.held_out = {file.stem: held_out_snippets(file, arguments.characters) for file in arguments.held_out}
        self.file = self.work / "rows.jsonl"
        self.rows: list[Row] = read_json_lines(self.file, ("steps", "init", "bits")) if self.file.is_file() else []

    def is_measured(self, cell: Cell, step: int) -> bool:
        """Whether there is a row; before any training all cells of an init are one."""
        wanted = dataclasses.asdict(cell) if step else {"init": cell.init}
        return any(row["steps"] == step and wanted.items() <= row.items() for row in self.rows)

    def note(self, cell: Cell, row: Row) -> None:
        training = {"step_tokens": self.options.step_tokens, "seed": self.options.seed}
        whole = {**dataclasses.asdict(cell), **training, **row}
        birth = self.work / f"{cell.init}.seconds"
        if birth.is_file():
            whole["birth_seconds"] = float(birth.read_text())
        self.rows.append(whole)
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(whole) + "\n")
        print(json.dumps(whole), flush=True)

    def base(self) -> Path:
        """The ungrown model, with an output head of its own if that was asked for."""
        out = self.work / "untied"
        if not self.options.untie:
            return cast(Path, self.options.model.absolute())
        if not (out / "config.json").is_file():
            model = cast(LlamaForCausalLM, load_model(self.options.model, dtype="auto"))
            if model.config.tie_word_embeddings:
                model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
                model.config.tie_word_embeddings = False
            out.mkdir(exist_ok=True)
            save_model(model, out, tokenizer=Tokenizer.load(self.options.model))
        return out

    def grown(self) -> Path:
        """A model with the new entries."""
        out = self.options.grown or self.work / "grown"
        if not (out / "config.json").is_file():
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            settings = ExtendVocabulary(model="./m", text=("./d",), new_entries=self.options.entries, init="mean")
            inputs = Inputs({"model": (self.base(),), "text": (self.text,)})
            extend_vocab.run(settings, inputs, out, StageContext(seed=SEED))
        return cast(Path, out)

    def model(self, init: Any) -> Path:
        """The model with the rows of an init, made once."""
        if init == "ungrown":
            return self.base()
        out = self.work / init
        if not (out / "config.json").is_file():
            before, after = Tokenizer.load(self.base()), Tokenizer.load(self.grown())
            first_id = len(before)
            pieces = [after.backend.id_to_token(token_id) or "" for token_id in range(first_id, len(after))]
            old_ids = [[token.id for token in before.backend.model.tokenize(piece)] for piece in pieces]
            model = cast(LlamaForCausalLM, load_model(self.base(), dtype="auto"))
            started = time.process_time()
            resize_embeddings(model, first_id, old_ids)
            if init != "mean":
                texts = sample_texts(read_texts([self.text]), self.options.seed)
                init_new_rows(
                    model, init, first_id, old_ids, after, texts,
                    distill_tokens=self.options.distill_tokens, seed=self.options.seed, progress=Progress(init),
                )  # fmt: skip
            (self.work / f"{init}.seconds").write_text(str(round(time.process_time() - started, 1)))
            out.mkdir(exist_ok=True)
            save_model(model, out, tokenizer=after)
        return out

    def run(self, cell: Cell) -> None:
        """Train a cell until the last of the steps, and measure at each of them."""
        if all(self.is_measured(cell, step) for step in (0, *self.steps)):
            return
        data = self.work / "train.jsonl"
        if not data.is_file():
            write_texts(training_texts(self.text, self.options.seed), data)
        model, length = self.model(cell.init), min(256, self.options.step_tokens)
        settings = Pretrain(
            model="./m", data=("./d",), steps=MAX_STEPS, max_seq_length=length, micro_batch_tokens=1024,
            batch_tokens=self.options.step_tokens, lr_scheduler="constant", warmup_ratio=WARMUP_STEPS / MAX_STEPS,
            weight_decay=0.0, precision="bfloat16", learning_rate=cell.rate, save_every_seconds=900,
            trainable_tokens=len(Tokenizer.load(self.base())) if cell.trained == "rows" else None,
        )  # fmt: skip
        out = self.work / f"{cell.init}-{cell.trained}-{cell.rate:g}"
        out.mkdir(exist_ok=True)
        run = MeasuredRun(
            settings, Inputs({"model": (model,), "data": (data,)}), out, StageContext(seed=self.options.seed)
        )
        run.bench, run.cell = self, cell
        splits = [PackedDataset.pack_documents(encoded, length) for encoded in run.data.documents()]
        run.train(splits, self.options.step_tokens // length, lambda trained, *_: next_token(trained))

    def table(self) -> str:
        """Bits per character by step as Markdown, one table for each held-out text."""
        steps = sorted({row["steps"] for row in self.rows})
        parts = []
        for name in self.held_out:
            found: dict[tuple[str, str, float], dict[int, float]] = {}
            begun = {row["init"]: row[name] for row in self.rows if not row["steps"] and name in row}
            for row in self.rows:
                cell = (row["init"], row["trained"], row["rate"])
                found.setdefault(cell, {0: begun.get(row["init"], math.nan)})[row["steps"]] = row[name]
            head = [name, "trained", "rate", *map(str, steps)]
            lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            for (init, trained, rate), bits in found.items():
                cells = [f"{bits[step]:.2f}" if step in bits else "" for step in steps]
                lines.append(f"| {init} | {trained} | {rate:g} | " + " | ".join(cells) + " |")
            parts.append("\n".join(lines))
        return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=existing_path)
    parser.add_argument("work", type=folder_to_write)
    parser.add_argument("text", type=existing_path)
    parser.add_argument("held_out", type=existing_path, nargs="+")
    parser.add_argument("--entries", type=positive_int, default=8000, help="new entries")
    parser.add_argument(
        "--grown", type=existing_folder, help="a grown model whose entries are taken; none: they are learned"
    )
    parser.add_argument("--untie", action="store_true", help="give the model an output head of its own, a copy")
    parser.add_argument("--inits", type=names_among(INITS.split(",")), default=INITS)
    parser.add_argument(
        "--distill-tokens", type=positive_int, default=120_000, help="tokens that are read for distilled"
    )
    parser.add_argument(
        "--steps",
        type=list_of(positive_int),
        default="",
        help="steps after which it is measured again, such as 50,200,1000",
    )
    parser.add_argument("--step-tokens", type=positive_int, default=256)
    parser.add_argument(
        "--trained",
        type=names_among(("rows", "all")),
        default="rows,all",
        help="what is trained: the new rows alone, all weights",
    )
    parser.add_argument(
        "--rates", type=list_of(positive_float), default="1e-4", help="learning rates of the new rows alone"
    )
    parser.add_argument("--all-rate", type=positive_float, default=1e-4, help="the learning rate of all weights")
    parser.add_argument("--no-ungrown", action="store_true", help="leave out the model without new entries")
    parser.add_argument(
        "--seed", type=non_negative_int, default=SEED, help="of the training and the rows, not of what is measured"
    )
    parser.add_argument(
        "--characters", type=positive_int, default=4000, help="characters of each HELD_OUT that are measured"
    )
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of what was measured")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    if not arguments.table:
        trained = arguments.trained.split(",")
        rows = [("rows", float(rate)) for rate in arguments.rates.split(",") if "rows" in trained]
        weights = [("all", arguments.all_rate)] if "all" in trained else []
        if not arguments.no_ungrown:
            bench.run(Cell("ungrown", "all", arguments.all_rate))
        for init in arguments.inits.split(","):
            for what, rate in [*rows, *weights]:
                bench.run(Cell(init, what, rate))
    print(bench.table())


if __name__ == "__main__":
    run_main(main)
