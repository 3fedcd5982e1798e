"""How long `extend_vocabulary` takes to learn entries from text of a given size.

    python bench/learn_entries.py TOKENIZER TEXT [ENTRIES] [MEGABYTES]

TOKENIZER is a folder with a tokenizer, TEXT a .jsonl or .txt file, of which the first MEGABYTES (20) of UTF-8 are read,
ENTRIES the new entries (8000). Reading the file is not counted. The last line is one JSON object: seconds on the clock
and of the processor, and the entries that were learned.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from command_line import existing_path, positive_int, refuse, run_main

from hanlin.core.discover import read_texts
from hanlin.tokenizer.extend import extend_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer


def first_texts(file: Path, size: int) -> list[str]:
    """Texts from the beginning of the file, of exactly so many bytes; a character that is cut is left out."""
    texts: list[str] = []
    left = size
    for text in read_texts([file]):
        data = text.encode()[:left]
        left -= len(data)
        texts.append(data.decode(errors="ignore"))
        if not left:
            return texts
    refuse(f"{file} has only {(size - left) / 1e6:.1f} MB of text")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=existing_path)
    parser.add_argument("text", type=existing_path)
    parser.add_argument("entries", type=positive_int, nargs="?", default=8000)
    parser.add_argument("megabytes", type=positive_int, nargs="?", default=20)
    arguments = parser.parse_args()
    entries, megabytes = arguments.entries, arguments.megabytes
    tokenizer = Tokenizer.load(arguments.tokenizer)
    texts = first_texts(arguments.text, megabytes * 1_000_000)
    started, used = time.monotonic(), time.process_time()
    extension = extend_tokenizer(tokenizer, texts, entries)
    row = {
        "megabytes": megabytes,
        "characters": sum(map(len, texts)),
        "entries": len(extension.pieces),
        "seconds": round(time.monotonic() - started, 1),
        "processor_seconds": round(time.process_time() - used, 1),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    run_main(main)
