"""What trimming Llama 3's vocabulary to Chinese and English saves, and what it costs text that was not counted.

`python bench/trim_vocabulary.py --tokenizer FOLDER --text FILE ... --out FOLDER`

Every 50th text is held out. A small model of random weights with the real vocabulary is trimmed by the stage
`trim_vocabulary` to the other texts for each `min_count`, and what it saves is told for the shapes of Meta's models in
bfloat16. The held-out texts are then counted with both tokenizers. The model trimmed with `min_count` 1 is written as
GGUF by the stage `gguf`, which compares its token ids with llama.cpp's; held-out texts are compared besides.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path

from command_line import existing_file, existing_path, folder_to_write, positive_int, read_json_lines, refuse, run_main

from hanlin.config.settings.export import Gguf
from hanlin.config.settings.model import InitModel, TrimVocabulary
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Document, write_jsonl
from hanlin.export.gguf import export
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.models import init_model, trim_vocab
from hanlin.models.extend_vocab import is_chinese
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.tokenizer import Tokenizer

HELD_OUT_EVERY = 50
SHAPES = {"Llama-3-8B": (8_030_261_248, 4096, 2), "Llama-3.2-3B": (3_212_749_824, 3072, 1),
          "Llama-3.2-1B": (1_235_814_400, 2048, 1)}  # fmt: skip
"""Parameters, hidden size, and matrices with a row for each entry: one if embeddings and head are tied."""


def read_texts(files: list[Path]) -> Iterator[str]:
    for file in files:
        with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as lines:
            if ".jsonl" not in file.name:
                yield from lines
                continue
            for row in read_json_lines(file, lines=iter(lines)):
                if not isinstance(row, dict):
                    refuse(f"{file}: a row is no object")
                yield row["text"] if "text" in row else "\n".join(v for v in row.values() if isinstance(v, str))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=existing_path, required=True)
    parser.add_argument("--text", type=existing_file, nargs="+", required=True)
    parser.add_argument("--out", type=folder_to_write, required=True)
    parser.add_argument("--min-count", type=positive_int, nargs="+", default=[1, 3, 10])
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.is_dir() and any(out.iterdir()):
        parser.error(f"--out: {out} is not empty")
    texts = [text for text in read_texts(arguments.text) if text.strip()]
    held_out = texts[::HELD_OUT_EVERY]
    counted = [text for index, text in enumerate(texts) if index % HELD_OUT_EVERY]
    (out / "text").mkdir(parents=True)
    (out / "base").mkdir()
    write_jsonl(out / "text" / "documents.jsonl", [Document(text, f"d{n}") for n, text in enumerate(counted)])
    settings = InitModel(tokenizer="./t", hidden_size=256, layers=1, heads=4, intermediate_size=256)
    init_model.run(settings, Inputs({"tokenizer": (arguments.tokenizer,)}), out / "base", StageContext())
    before = Tokenizer.load(out / "base")
    print(f"{len(counted):,} texts of {sum(map(len, counted)):,} characters counted; held out: {len(held_out):,} texts")
    print("min_count | entries | " + " | ".join(SHAPES) + " | held-out texts longer | tokens zh | tokens en")
    for min_count in arguments.min_count:
        folder = out / f"trimmed_{min_count}"
        folder.mkdir()
        start = time.process_time()
        inputs = Inputs({"model": (out / "base",), "text": (out / "text",)})
        trimming = TrimVocabulary(model="./m", text="./d", min_count=min_count)
        metrics = trim_vocab.run(trimming, inputs, folder, StageContext())
        after = Tokenizer.load(folder)
        removed = len(before) - len(after)
        saved = [f"{removed * hidden * matrices * 2 / 1e6:,.0f} MB = {removed * hidden * matrices / total:.1%}"
                 for total, hidden, matrices in SHAPES.values()]  # fmt: skip
        pairs = zip(before.encode_batch(held_out), after.encode_batch(held_out), strict=True)
        longer = sum(len(new) > len(old) for old, new in pairs)
        parts = [[t for t in held_out if is_chinese(t)], [t for t in held_out if not is_chinese(t)]]
        growth = [
            f"{characters_per_token(before, part) / characters_per_token(after, part) - 1:+.3%}" for part in parts
        ]
        row = [f"{min_count}", f"{len(after):,}", *saved, f"{longer} of {len(held_out)}", *growth]
        print(" | ".join(row), flush=True)
        print(json.dumps({"cpu_seconds": round(time.process_time() - start, 1), **metrics}), flush=True)
    compare_with_llama_cpp(out / f"trimmed_{arguments.min_count[0]}", held_out, out / "gguf")


def compare_with_llama_cpp(model: Path, texts: list[str], out: Path) -> None:
    out.mkdir()
    written = export.run(Gguf(model="./m", types=("Q8_0",)), Inputs({"model": (model,)}), out, StageContext())
    tokenizer = Tokenizer.load(model)
    (file,) = out.glob("*.gguf")
    vocabulary = LlamaCppModel(file, vocabulary_only=True)
    differ = sum(vocabulary.tokenize(text) != tokenizer.encode(text) for text in texts)
    vocabulary.close()
    print(f"llama.cpp: {differ} of {len(texts)} held-out texts differ; stage gguf: {written.get('parity')}")


if __name__ == "__main__":
    run_main(main)
