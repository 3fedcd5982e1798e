"""Was it worth it? What each choice of continued pre-training gains and loses, at equal processor time of one thread.

    OMP_NUM_THREADS=1 python bench/worth.py GGUF WORK --data FOLDER [--seconds 120] [--cells NAME,...]
    python bench/worth.py GGUF WORK --data FOLDER --births 0,500,1000,2000,4000
    python bench/worth.py GGUF WORK --table [--page FILE ...] [--pictures FOLDER]

GGUF is SmolLM2-135M-Instruct (`make real` downloads it), FOLDER holds the texts of docs/en/a_real_model.md. Every cell
differs from the first, the center, in one thing. A cell trains for `--seconds` of processor time (all threads of the
process; loading, measuring and the birth of new entries are not counted) and is measured at half and at the end.
Each measurement is appended to WORK/rows.jsonl; a cell that is there is not run again, so that a run which was stopped
goes on. HANLIN_TRL and HANLIN_LLAMAFACTORY name a Python that has TRL or LLaMA-Factory; without it the peer is left
out. The last lines printed are the table as Markdown and as one JSON object.

Held-out texts are cut into snippets of 256 characters (English: 1,024), each read on its own, so that all vocabularies
have the same text before a character. Intervals come from drawing snippets anew, the same ones for both cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from command_line import (
    existing_file,
    folder_to_write,
    list_of,
    names_among,
    non_negative_int,
    positive_float,
    read_json_lines,
    run_main,
)
from worth_cells import CELLS, Cell, Workshop
from worth_pictures import draw_cells, draw_peers
from worth_table import SEED, Row, fill_page, summarize, write_births, write_tables

ROW, STEP_TOKENS = 512, 1024
WARMUP_STEPS, MAX_STEPS = 5, 100_000
PEERS = {
    "trl": ("HANLIN_TRL", "with_trl_text.py"),
    "llamafactory": ("HANLIN_LLAMAFACTORY", "with_llamafactory_text.py"),
}
"""By method: the variable that names the Python which has the peer, and its script in bench/peers."""
ROWS_RATE, ROWS_SHARE = 1e-4, 0.25
"""Of `two stages`: the learning rate of the new rows alone, and their share of the time."""

# --- training ---------------------------------------------------------------------------------------------------------


def run_cell(workshop: Workshop, cell: Cell, seconds: float, note: Callable[[Row], None], skip_start: bool) -> None:
    """Train a cell for some processor seconds; `note` gets a row for each measurement."""
    model, data = workshop.model(cell), workshop.mixture(cell)
    snippets = workshop.snippets()
    birth_seconds = workshop.seconds(cell.birth) if cell.entries else 0.0
    head = {**dataclasses.asdict(cell), "cell": cell.name, "birth_seconds": birth_seconds}
    before: Row = {"processor_seconds": 0.0, "steps": 0, "tokens": 0}
    marks = [seconds / 2, seconds]
    out = workshop.work / "trained"
    if cell.method in PEERS:
        for row in train_by_peer(cell, model, data, workshop.work, snippets, marks):
            note({**head, **row})
        return
    if cell.method == "two stages":
        rows = workshop.work / "rows_trained"
        lone = dataclasses.replace(cell, learning_rate=ROWS_RATE)
        taken = train(lone, model, data, rows, snippets, [ROWS_SHARE * seconds], True, lambda row: None, before)
        before, model = {name: taken[name] for name in before}, rows
        skip_start = True
    starts = [] if skip_start else [0.0]
    train(cell, model, data, out, snippets, [*starts, *marks], False, lambda row: note({**head, **row}), before)
    for folder in (out, workshop.work / "rows_trained"):
        shutil.rmtree(folder, ignore_errors=True)


def train(
    cell: Cell,
    model: Path,
    data: Path,
    out: Path,
    snippets: Mapping[str, Sequence[str]],
    marks: Sequence[float],
    rows_alone: bool,
    note: Callable[[Row], None],
    before: Row,
) -> Row:
    """Train until the last mark of processor seconds, and measure at each of them.

    Args:
        cell: What is trained, and how.
        model: The model to start from.
        data: The documents.
        out: Where the model is written.
        snippets: Held-out snippets of each kind.
        marks: Processor seconds, those of the stage before counted.
        rows_alone: Train the new rows alone; nothing is measured then.
        note: Gets what was measured at each mark.
        before: Seconds, steps and tokens of the stage before.

    Returns:
        The same at the end.
    """
    import numpy as np
    import torch

    from hanlin.config.settings.model import LoraSettings
    from hanlin.config.settings.train import Pretrain, Training
    from hanlin.core.context import Inputs, StageContext
    from hanlin.tokenizer.tokenizer import Tokenizer
    from hanlin.train.callbacks.base import Callback, TrainerState
    from hanlin.train.callbacks.forgetting import Probe, probe_encoder
    from hanlin.train.dataset.encoded import Segment
    from hanlin.train.dataset.packed import PackedDataset
    from hanlin.train.objectives.next_token import next_token
    from hanlin.train.run import TrainingRun

    class Budget(Callback):
        """Stops the run when its processor time is spent, and measures at the marks."""

        def __init__(self, dataset: PackedDataset, kinds: Sequence[str]) -> None:
            self.dataset, self.kinds, self.marks = dataset, kinds, list(marks)
            self.last: Row = {}

        def on_train_begin(self, state: TrainerState) -> None:
            self.started = time.process_time() - before["processor_seconds"]
            if self.marks[0] == 0.0:
                self.measure(state)

        def on_step_end(self, state: TrainerState) -> None:
            if time.process_time() - self.started >= self.marks[0]:
                self.measure(state)

        def should_stop(self, state: TrainerState) -> bool:
            return not self.marks

        def measure(self, state: TrainerState) -> None:
            begun = time.process_time()
            counts = {name: before[name] + sum(int(row[name]) for row in state.log.rows) for name in ("tokens",)}
            self.last = {
                "at": self.marks.pop(0), "processor_seconds": round(begun - self.started, 1),
                "steps": before["steps"] + state.step, **counts,
            }  # fmt: skip
            if not rows_alone:
                note({**self.last, "nats": self.nats(state)})
            self.started += time.process_time() - begun  # measuring is not counted

        @torch.no_grad()
        def nats(self, state: TrainerState) -> dict[str, list[float]]:
            """-log p of each snippet."""
            state.model.refresh()
            state.model.hf_model.eval()
            found: dict[str, list[float]] = {name: [] for name in snippets}
            indices = np.arange(len(self.dataset.samples))
            for batch in state.model.micro_batches(self.dataset, indices, STEP_TOKENS):
                parts = state.model.token_logprobs(batch).double().split(list(batch.target_counts))
                for index, part in zip(batch.sample_indices, parts, strict=True):
                    found[self.kinds[index]].append(round(-float(part.sum()), 3))
            state.model.hf_model.train()
            return found

    class BudgetedRun(TrainingRun):
        def _make_probes(self, settings: Training) -> Any:
            kinds = [name for name, texts in snippets.items() for _ in texts]
            probes = [Probe(name, "text", text) for name, texts in snippets.items() for text in texts]
            encoded = self.data.encode("held_out", probes, probe_encoder(self.data.tokenizer, 4096), len(probes))
            self.budget = Budget(PackedDataset.from_records(encoded), kinds)
            return self.budget

    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    first_new = len(Tokenizer.load(model.parent / "base")) if rows_alone else None
    settings = Pretrain(
        model="./m", data=("./d",), steps=MAX_STEPS, max_seq_length=ROW, batch_tokens=STEP_TOKENS,
        micro_batch_tokens=ROW, precision="bfloat16", learning_rate=cell.learning_rate,
        lr_scheduler="constant", warmup_ratio=WARMUP_STEPS / MAX_STEPS, weight_decay=0.0 if rows_alone else 0.1,
        trainable_tokens=first_new, save_every_seconds=1e9,
        lora=LoraSettings(rank=64, alpha=128, modules_to_save=("embed_tokens",)) if cell.method == "lora" else None,
    )  # fmt: skip
    run = BudgetedRun(settings, Inputs({"model": (model,), "data": (data,)}), out, StageContext(seed=SEED))
    (encoded,) = run.data.documents()
    if cell.across_documents:  # one document: attention sees what is before a text in its row
        encoded = dataclasses.replace(encoded, starts=np.asarray([0, encoded.starts[-1]]))
    dataset = PackedDataset.pack_documents(encoded, ROW)
    if cell.one_text_a_row:  # as MiniMind: what is beyond a row is not read; its padding is not computed here
        ends = np.minimum(encoded.lengths, ROW).tolist()
        dataset = PackedDataset(encoded, [[Segment(text, 0, end)] for text, end in enumerate(ends)])
    run.train([dataset], STEP_TOKENS // ROW, lambda model, *_: next_token(model))
    return run.budget.last


def train_by_peer(
    cell: Cell, model: Path, data: Path, work: Path, snippets: Mapping[str, Sequence[str]], marks: Sequence[float]
) -> Iterator[Row]:
    """The same by a peer, in the Python that has it: the same token ids, in rows of the same length."""
    from hanlin.chat.examples import render_documents
    from hanlin.core.discover import read_texts
    from hanlin.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(model)
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = {name: [[*begin, *tokenizer.encode(text)] for text in texts] for name, texts in snippets.items()}
    (work / "peer_snippets.json").write_text(json.dumps(ids))
    documents = render_documents(list(read_texts([data])), tokenizer)
    (work / "peer_documents.jsonl").write_text("".join(json.dumps(document.ids) + "\n" for document in documents))
    options = {
        "model": str(model), "documents": str(work / "peer_documents.jsonl"), "marks": list(marks),
        "snippets": str(work / "peer_snippets.json"), "max_seq_length": ROW, "rows_per_step": STEP_TOKENS // ROW,
        "learning_rate": cell.learning_rate, "warmup_steps": WARMUP_STEPS,
    }  # fmt: skip
    variable, script = PEERS[cell.method]
    command = [os.environ[variable], str(Path(__file__).parent / "peers" / script), json.dumps(options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": ""}) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"at"'):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{cell.name} ended with {process.returncode}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("work", type=folder_to_write)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=positive_float, default=120.0)
    parser.add_argument(
        "--cells", type=names_among([cell.name for cell in CELLS]), default=",".join(cell.name for cell in CELLS)
    )
    parser.add_argument(
        "--births",
        type=list_of(non_negative_int),
        default="",
        help="measure models with so many new entries untrained (0,500,1000)",
    )
    parser.add_argument("--table", action="store_true", help="run nothing, print the tables of what was run")
    parser.add_argument(
        "--page", type=existing_file, action="append", default=[], help="a page whose tables are written anew"
    )
    parser.add_argument("--pictures", type=folder_to_write, help="a folder for worth_cells.svg and worth_peers.svg")
    arguments = parser.parse_args()
    for path in () if arguments.table else (arguments.gguf, arguments.data):
        if not path.exists():
            parser.error(f"{path} is not there; docs/en/a_real_model.md says where model and texts come from")
    sizes = arguments.births.split(",") if arguments.births else []
    names = arguments.cells.split(",")
    workshop = Workshop(arguments.gguf.absolute(), arguments.work.absolute(), arguments.data.absolute())
    file = workshop.work / "rows.jsonl"
    rows: list[Row] = read_json_lines(file, ("cell", "at", "entries", "init")) if file.is_file() else []

    def note(row: Row) -> None:
        rows.append(row)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps({name: value for name, value in row.items() if name != "nats"}), flush=True)

    births = workshop.work / "births.jsonl"
    if arguments.table and not rows and not births.is_file():
        parser.error(f"nothing was measured yet in {workshop.work}")
    for entries in map(int, sizes):
        measured = workshop.measure_birth(entries)
        print(json.dumps(measured), flush=True)
        with births.open("a", encoding="utf-8") as out:
            out.write(json.dumps(measured) + "\n")
    if not (arguments.table or sizes):
        for cell in (cell for cell in CELLS if cell.name in names):
            if any(row["cell"] == cell.name and row["at"] == arguments.seconds for row in rows):
                continue
            if cell.method in PEERS and not os.environ.get(PEERS[cell.method][0]):
                continue
            born = any((row["entries"], row["init"], row["at"]) == (cell.entries, cell.init, 0) for row in rows)
            run_cell(workshop, cell, arguments.seconds, note, skip_start=born)
    if births.is_file():
        table = read_json_lines(births, ("entries",))
        for page in arguments.page:
            fill_page(page, {"births": write_births(table, "zh" if page.parent.name == "zh" else "en")})
        print(write_births(table, "en") + "\n")
    result = summarize(rows, [cell.name for cell in CELLS], workshop.snippets())
    for page in arguments.page:
        fill_page(page, write_tables(result, "zh" if page.parent.name == "zh" else "en"))
    if arguments.pictures and result["cells"]:
        draw_cells(result, arguments.pictures / "worth_cells.svg")
    if arguments.pictures and result["peers"]:
        draw_peers(result, arguments.pictures / "worth_peers.svg")
    print("\n\n".join(write_tables(result, "en").values()))
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
