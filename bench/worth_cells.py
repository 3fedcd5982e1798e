"""The cells of `bench/worth.py`, and what they start from: texts, grown models, mixtures."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worth_table import CHINESE, SEED

Init = Literal["mean", "omp", "distilled"]
Method = Literal["full", "lora", "two stages", "trl", "llamafactory"]

MIX_TOKENS = 400_000
SNIPPETS = {"modern": (256, 3000), "classical": (256, 1000), "dialogue": (256, 1000), "english": (1024, 4000)}
"""Of each held-out text: characters of a snippet, and of all of them."""
CHINESE_TEXTS: dict[str, dict[str, str]] = {
    "csl_science_abstracts": {}, "dureader_web_documents": {}, "baike_qa_sample": {"text": "answer"},
    "lctt_linux_articles": {}, "howtocook_recipes": {}, "luxun_collected": {}, "vernacular_novels_ming_qing": {},
    "classics_modern_rendering": {},
}  # fmt: skip
SMALL_TEXTS = ("dureader_web_documents", "baike_qa_sample")
"""Of the recipe's small budget."""
ENGLISH_TEXTS = ("openstax_psychology", "openstax_biology", "openstax_us_history", "rust_book_en")


@dataclass(frozen=True)
class Cell:
    """One choice of everything; the defaults are the center."""

    name: str
    entries: int = 8000
    init: Init = "distilled"
    method: Method = "full"
    english: float = 0.25
    across_documents: bool = False
    one_text_a_row: bool = False
    learning_rate: float = 1.7e-4

    @property
    def birth(self) -> str:
        """The folder of the model that it starts from."""
        return f"grown_{self.entries}_{self.init}" if self.entries else "base"


CELLS = (
    Cell("center"),
    Cell("entries 0", entries=0),
    Cell("TRL", entries=0, method="trl"),
    Cell("LLaMA-Factory", entries=0, method="llamafactory"),
    Cell("entries 1000", entries=1000),
    Cell("two stages", method="two stages"),
    Cell("LoRA r64", method="lora"),
    Cell("English 0 %", english=0.0),
    Cell("English 10 %", english=0.1),
    Cell("entries 4000", entries=4000),
    Cell("entries 16000", entries=16000),
    Cell("learning rate / 3", learning_rate=1.7e-4 / 3),
    Cell("learning rate x 3", learning_rate=5.1e-4),
    Cell("packed across documents", across_documents=True),
    Cell("one text a row", one_text_a_row=True),
    Cell("init omp", init="omp"),
    Cell("init mean", init="mean"),
)
"""By importance, so that a run that is cut short is still a table. TRL and LLaMA-Factory are beside `entries 0`."""


# --- texts and models -------------------------------------------------------------------------------------------------


class Workshop:
    """Makes what the cells start from, each once, by Hanlin's stages."""

    mix_tokens = MIX_TOKENS

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

    def small_birth(self, entries: int) -> Path:
        """A model whose entries are learned from the text of the recipe's small budget; the base for none."""
        from hanlin.config.settings.model import ExtendVocabulary
        from hanlin.models import extend_vocab

        base = self.model(Cell("entries 0", entries=0))
        if not entries:
            return base
        files = {f"text_zh/{name}.jsonl.gz": CHINESE_TEXTS[name] for name in SMALL_TEXTS}
        rules = ["markdown", "default"]
        text = self.corpus("small", files, convert="simplified", dedup_against=[self.held_out()["modern"]], rules=rules)
        settings = ExtendVocabulary(model="./m", text=("./d",), new_entries=entries, init="mean")
        return self._make(f"small_{entries}", extend_vocab.run, settings, {"model": [base], "text": [text]})

    def measure_birth(self, entries: int) -> dict[str, Any]:
        """Characters per token and bits per character of the modern snippets, before any training."""
        from hanlin.config.settings.evaluate import Perplexity
        from hanlin.core.context import Inputs, StageContext
        from hanlin.evaluate import perplexity

        model, file, out = self.small_birth(entries), self.work / "snippets.jsonl", self.work / "measured"
        lines = [json.dumps({"id": str(i), "text": text}) for i, text in enumerate(self.snippets()["modern"])]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        settings = Perplexity(model="./m", data="./d", dtype="bfloat16", window=1024)
        metrics = perplexity.run(settings, Inputs({"model": (model,), "data": (file,)}), out, StageContext(seed=SEED))
        shutil.rmtree(out)
        return {"entries": entries, **{name: metrics[name] for name in ("characters_per_token", "bits_per_character")}}

    def mixture(self, cell: Cell) -> Path:
        """The documents that a cell trains on, mixed by tokens of its own vocabulary."""
        from hanlin.config.settings.mix import Mix
        from hanlin.data.stages import mix

        chinese, english = self.texts()
        shares = {chinese: 1 - cell.english, english: cell.english}
        folders = [folder for folder, share in shares.items() if share]
        sources = [{"data": f"./{folder.name}", "share": shares[folder]} for folder in folders]
        made = Mix.model_validate({"sources": sources, "tokenizer": "./m", "tokens": self.mix_tokens})
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
