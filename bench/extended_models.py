"""Does an extended vocabulary pay? Small models with Llama's tokenizers, extended and not, at equal processor time.

    OMP_NUM_THREADS=1 python bench/extended_models.py WORK --data FOLDER --tokenizer FOLDER [--entries 20000]

FOLDER of `--data` holds the texts of docs/en/a_real_model.md, FOLDER of `--tokenizer` is Llama-2's or Llama-3's. A
model with random weights learns English for `--seconds` of processor time, as the model of a foreign language that one
starts from. Then it learns Chinese (a quarter of the tokens is English) for the same time twice: as it is, and after
its vocabulary was extended with `--entries` entries, whose rows begin as means. Learning the entries is not counted;
what it took is printed. At each mark both are measured on held-out text that is cut into snippets of 256 characters,
each read on its own.

Each measurement is appended to WORK/rows.jsonl; a model that is there is not trained again. The last lines printed are
the table as Markdown and as one JSON object.
"""

from __future__ import annotations

import argparse
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from command_line import existing_path, folder_to_write, positive_float, positive_int, read_json_lines, run_main
from worth import train
from worth_cells import Cell, Workshop
from worth_table import Row, measure_bits, paired_interval

SHAPE: dict[str, Any] = {"hidden_size": 256, "layers": 6, "heads": 4, "context_length": 512, "initializer_range": 0.06}
LEARNING_RATE = 1e-3
MARKS = (0.0, 0.1, 0.25, 0.5, 1.0)
NAMES = ("unextended", "extended")


class SmallModels(Workshop):
    """What the two models start from: one model that read English, and the same with an extended vocabulary."""

    mix_tokens = 3_000_000

    def __init__(self, work: Path, data: Path, tokenizer: Path, entries: int, seconds: float) -> None:
        super().__init__(Path(), work, data)
        self.tokenizer, self.entries, self.english_seconds = tokenizer, entries, seconds

    def model(self, cell: Cell) -> Path:
        from hanlin.config.settings.model import ExtendVocabulary, InitModel
        from hanlin.models import extend_vocab, init_model

        made = InitModel(tokenizer="./t", **SHAPE)
        untrained = self._make("untrained", init_model.run, made, {"tokenizer": [self.tokenizer]})
        base = self.work / "base"
        if not base.is_dir():
            trained = self.work / "trained"
            read = Cell("English", learning_rate=LEARNING_RATE)
            start: Row = {"processor_seconds": 0.0, "steps": 0, "tokens": 0}
            snippets, marks = self.snippets(), [self.english_seconds]
            train(read, untrained, self.texts()[1], trained, snippets, marks, False, lambda row: None, start)
            trained.rename(base)
        if not cell.entries:
            return base
        settings = ExtendVocabulary(model="./m", text=("./d",), new_entries=cell.entries, init=cell.init)
        return self._make(cell.birth, extend_vocab.run, settings, {"model": [base], "text": [self.texts()[0]]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=folder_to_write)
    parser.add_argument("--data", type=existing_path, default="data")
    parser.add_argument("--tokenizer", type=existing_path, required=True)
    parser.add_argument("--entries", type=positive_int, default=20_000)
    parser.add_argument("--seconds", type=positive_float, default=300.0)
    arguments = parser.parse_args()
    work, data, tokenizer = (path.absolute() for path in (arguments.work, arguments.data, arguments.tokenizer))
    models = SmallModels(work, data, tokenizer, arguments.entries, arguments.seconds)
    file = models.work / "rows.jsonl"
    rows: list[Row] = read_json_lines(file, ("cell", "at")) if file.is_file() else []
    snippets = models.snippets()

    def note(name: str, measured: Row) -> None:
        row = {"cell": name, **measured}
        rows.append(row)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        shown = {name: value for name, value in row.items() if name != "nats"} | measure_bits(row["nats"], snippets)
        print(json.dumps(shown), flush=True)

    for name in NAMES:
        if any(row["cell"] == name and row["at"] == arguments.seconds for row in rows):
            continue
        rows[:] = [row for row in rows if row["cell"] != name]
        cell = Cell(name, arguments.entries if name == "extended" else 0, "mean", learning_rate=LEARNING_RATE)
        model, data = models.model(cell), models.mixture(cell)
        marks = [share * arguments.seconds for share in MARKS]
        start: Row = {"processor_seconds": 0.0, "steps": 0, "tokens": 0}
        out = models.work / "trained"
        train(cell, model, data, out, snippets, marks, False, partial(note, name), start)
        shutil.rmtree(out)
    print_table(rows, snippets, models.seconds(f"grown_{arguments.entries}_mean"))


def print_table(rows: list[Row], snippets: Any, born: float) -> None:
    """Both models at each mark, and by how much the extended one has fewer bits."""
    by_mark: dict[float, dict[str, Row]] = {}
    for row in rows:
        by_mark.setdefault(row["at"], {})[row["cell"]] = row
    print("| processor seconds | model | tokens | modern | classical | English | modern, extended fewer by |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    result = []
    for at, pair in sorted(by_mark.items()):
        for name in NAMES:
            if name not in pair:
                continue
            bits = measure_bits(pair[name]["nats"], snippets)
            result.append({"cell": name, "at": at, "tokens": pair[name]["tokens"], **bits})
            fewer = "–"
            if name == "extended" and len(pair) == len(NAMES):
                unextended, extended = (pair[each]["nats"]["modern"] for each in NAMES)
                gain, low, high = paired_interval(extended, unextended, snippets["modern"], "modern")
                fewer = f"{gain:+.2f} ({low:+.2f} … {high:+.2f})"
            figures = " | ".join(f"{bits[kind]:.2f}" for kind in ("modern", "classical", "english"))
            print(f"| {at:.0f} | {name} | {pair[name]['tokens']:,} | {figures} | {fewer} |")
    print(json.dumps({"birth_seconds": born, "figures": result}))


if __name__ == "__main__":
    run_main(main)
