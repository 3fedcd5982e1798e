"""Was it worth it? What each choice of continued pre-training gains and loses, at equal processor time of one thread.

    OMP_NUM_THREADS=1 python bench/worth.py GGUF WORK --data FOLDER [--seconds 120] [--cells NAME,...]
    python bench/worth.py GGUF WORK --table [--pictures FOLDER]

GGUF is SmolLM2-135M-Instruct (`make real` downloads it), FOLDER holds the texts of docs/en/a_real_model.md. Every cell
differs from the first, the center, in one thing. A cell trains for `--seconds` of processor time (all threads of the
process; loading, measuring and the birth of new entries are not counted) and is measured at half and at the end.
Each measurement is appended to WORK/rows.jsonl; a cell that is there is not run again, so that a run which was stopped
goes on. The last lines printed are the table as Markdown and as one JSON object.

Held-out texts are cut into snippets of 256 characters (English: 1,024), each read on its own, so that all vocabularies
have the same text before a character. Intervals come from drawing snippets anew, the same ones for both cells.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worth_table import CHINESE, SEED, Row, summarize, to_markdown

Init = Literal["mean", "omp", "distilled"]
Method = Literal["full", "lora", "two stages"]

ROW, STEP_TOKENS, MIX_TOKENS = 512, 1024, 400_000
WARMUP_STEPS, MAX_STEPS = 5, 100_000
ROWS_RATE, ROWS_SHARE = 1e-3, 0.25
"""Of `two stages`: the learning rate of the new rows alone, and their share of the time."""
SNIPPETS = {"modern": (256, 3000), "classical": (256, 1000), "dialogue": (256, 1000), "english": (1024, 4000)}
"""Of each held-out text: characters of a snippet, and of all of them."""
CHINESE_TEXTS: dict[str, dict[str, str]] = {
    "csl_science_abstracts": {}, "dureader_web_documents": {}, "baike_qa_sample": {"text": "answer"},
    "lctt_linux_articles": {}, "howtocook_recipes": {}, "luxun_collected": {}, "vernacular_novels_ming_qing": {},
    "classics_modern_rendering": {},
}  # fmt: skip
ENGLISH_TEXTS = ("openstax_psychology", "openstax_biology", "openstax_us_history", "rust_book_en")


@dataclass(frozen=True)
class Cell:
    """One choice of everything; the defaults are the center."""

    name: str
    entries: int = 8000
    init: Init = "mean"
    method: Method = "full"
    english: float = 0.25
    across_documents: bool = False
    learning_rate: float = 5e-4

    @property
    def birth(self) -> str:
        """The folder of the model that it starts from."""
        return f"grown_{self.entries}_{self.init}" if self.entries else "base"


CELLS = (
    Cell("center"),
    Cell("entries 0", entries=0),
    Cell("two stages", method="two stages"),
    Cell("LoRA r64", method="lora"),
    Cell("English 0 %", english=0.0),
    Cell("English 10 %", english=0.1),
    Cell("entries 4000", entries=4000),
    Cell("entries 16000", entries=16000),
    Cell("learning rate / 3", learning_rate=5e-4 / 3),
    Cell("learning rate x 3", learning_rate=15e-4),
    Cell("packed across documents", across_documents=True),
    Cell("init omp", init="omp"),
    Cell("init distilled", init="distilled"),
)
"""By importance, so that a run that is cut short is still a table."""


# --- texts and models -------------------------------------------------------------------------------------------------


class Workshop:
    """Makes what the cells start from, each once, by Hanlin's stages."""

    def __init__(self, gguf: Path, work: Path, data: Path) -> None:
        self.gguf, self.work, self.data = gguf, work, data
        work.mkdir(parents=True, exist_ok=True)

    def _make(self, name: str, run: Callable[..., Any], settings: Any, by_field: Mapping[str, Sequence[Path]]) -> Path:
        """The folder of a stage's result, and beside it the processor seconds that it took."""
        from hanlin.core.context import Inputs, StageContext

        folder, partial = self.work / name, self.work / f"{name}.partial"
        if not folder.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            started = time.process_time()
            inputs = Inputs({field: tuple(paths) for field, paths in by_field.items()})
            run(settings, inputs, partial, StageContext(seed=SEED))
            (self.work / f"{name}.seconds").write_text(str(round(time.process_time() - started, 1)))
            partial.rename(folder)
        return folder

    def seconds(self, name: str) -> float:
        """The processor seconds that a folder took."""
        return float((self.work / f"{name}.seconds").read_text())

    def corpus(self, name: str, files: Mapping[str, Mapping[str, str]], **settings: Any) -> Path:
        from hanlin.config.settings.data import Corpus
        from hanlin.data.stages import corpus

        against = settings.pop("dedup_against", ())
        sources = [{"path": f"./{file}", "fields": dict(fields)} for file, fields in files.items()]
        by_field = {f"sources.{index}.path": [self.data / file] for index, file in enumerate(files)}
        if against:
            by_field["dedup_against"] = list(against)
            settings["dedup_against"] = tuple(f"./{folder.name}" for folder in against)
        made = Corpus.model_validate({"sources": sources, "validation_fraction": 0, **settings})
        return self._make(name, corpus.run, made, by_field)

    def held_out(self) -> dict[str, Path]:
        """Folders of documents that no cell trains on."""
        whole: dict[str, Any] = {"rules": [], "dedup": "exact"}
        dialogue = self.work / "dialogue"
        if not dialogue.is_dir():
            dialogue.mkdir()
            rows = json.loads((self.data / "sft" / "alpaca_zh_demo.json").read_text(encoding="utf-8"))
            texts = ["\n".join(filter(None, (row["instruction"], row["input"], row["output"]))) for row in rows]
            lines = [json.dumps({"id": str(i), "text": text}, ensure_ascii=False) for i, text in enumerate(texts)]
            (dialogue / "documents.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        classics = [f"text/classic_{name}.json" for name in ("lunyu", "mengzi", "shijing")]
        return {
            "modern": self.corpus("modern", {"text/wiki_zh_simp_cmrc2018_dev.txt": {}}, **whole),
            "classical": self.corpus("classical", {file: {} for file in classics}, convert="simplified", **whole),
            "dialogue": dialogue,
            "english": self.corpus("en_held_out", {"text/en_c4_demo.dev.jsonl": {}}, **whole),
        }

    def texts(self) -> tuple[Path, Path]:
        """Chinese and English to train on, cleaned, and without near-duplicates of what is held out."""
        held_out = self.held_out()
        rules: dict[str, Any] = {"rules": ["markdown", "default"]}
        chinese = {f"text_zh/{name}.jsonl.gz": fields for name, fields in CHINESE_TEXTS.items()}
        against = [held_out[name] for name in CHINESE]
        english: dict[str, dict[str, str]] = {f"text_en/{name}.jsonl.gz": {} for name in ENGLISH_TEXTS}
        return (
            self.corpus("chinese", chinese, convert="simplified", dedup_against=against, **rules),
            self.corpus("english", english, dedup_against=[held_out["english"]], **rules),
        )

    def model(self, cell: Cell) -> Path:
        """The model that a cell starts from."""
        from hanlin.config.settings.model import ExtendVocabulary
        from hanlin.config.settings.surgery.import_gguf import ImportGguf
        from hanlin.export.gguf import import_gguf
        from hanlin.models import extend_vocab

        base = self._make("base", import_gguf.run, ImportGguf(gguf="./m"), {"gguf": [self.gguf]})
        if not cell.entries:
            return base
        settings = ExtendVocabulary(model="./m", text=("./d",), new_entries=cell.entries, init=cell.init)
        return self._make(cell.birth, extend_vocab.run, settings, {"model": [base], "text": [self.texts()[0]]})

    def mixture(self, cell: Cell) -> Path:
        """The documents that a cell trains on, mixed by tokens of its own vocabulary."""
        from hanlin.config.settings.mix import Mix
        from hanlin.data.stages import mix

        chinese, english = self.texts()
        shares = {chinese: 1 - cell.english, english: cell.english}
        folders = [folder for folder, share in shares.items() if share]
        sources = [{"data": f"./{folder.name}", "share": shares[folder]} for folder in folders]
        made = Mix.model_validate({"sources": sources, "tokenizer": "./m", "tokens": MIX_TOKENS})
        by_field = {f"sources.{index}.data": [folder] for index, folder in enumerate(folders)}
        name = f"text_{cell.birth}_{round(100 * cell.english)}"
        return self._make(name, mix.run, made, {**by_field, "tokenizer": [self.model(cell)]})

    def snippets(self) -> dict[str, list[str]]:
        """The snippets that are measured, from all over the held-out texts."""
        from hanlin.core.discover import read_texts

        chosen = {}
        for name, folder in self.held_out().items():
            length, total = SNIPPETS[name]
            pieces = [
                text[start : start + length]
                for text in read_texts([folder])
                for start in range(0, len(text), length)
                if len(text) - start >= length // 4
            ]
            random.Random(SEED).shuffle(pieces)
            chosen[name] = pieces[: max(1, round(total / (sum(map(len, pieces)) / len(pieces))))]
        return chosen


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
    run.train([dataset], STEP_TOKENS // ROW, lambda model, *_: next_token(model))
    return run.budget.last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--cells", default=",".join(cell.name for cell in CELLS))
    parser.add_argument("--table", action="store_true", help="print the table of what was run")
    arguments = parser.parse_args()
    names = arguments.cells.split(",")
    unknown = set(names) - {cell.name for cell in CELLS}
    if unknown:
        parser.error(f"no cell is named {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in CELLS)}")
    workshop = Workshop(arguments.gguf.absolute(), arguments.work.absolute(), arguments.data.absolute())
    file = workshop.work / "rows.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def note(row: Row) -> None:
        rows.append(row)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps({name: value for name, value in row.items() if name != "nats"}), flush=True)

    if not arguments.table:
        for cell in (cell for cell in CELLS if cell.name in names):
            if any(row["cell"] == cell.name and row["at"] == arguments.seconds for row in rows):
                continue
            born = any((row["entries"], row["init"], row["at"]) == (cell.entries, cell.init, 0) for row in rows)
            run_cell(workshop, cell, arguments.seconds, note, skip_start=born)
    if not rows:
        sys.exit(f"{file}: nothing was measured yet")
    result = summarize(rows, [cell.name for cell in CELLS], workshop.snippets())
    print(to_markdown(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
