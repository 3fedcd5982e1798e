"""How long `extend_vocabulary` takes to learn entries from text of a given size.

    python bench/learn_entries.py TOKENIZER TEXT [ENTRIES] [MEGABYTES]

TOKENIZER is a folder with a tokenizer, TEXT a .jsonl or .txt file, of which the first MEGABYTES (20) of UTF-8 are read,
ENTRIES the new entries (8000). Reading the file is not counted. The last line is one JSON object: seconds on the clock
and of the processor, and the entries that were learned.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

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
    sys.exit(f"{file} has only {(size - left) / 1e6:.1f} MB of text")


def main() -> None:
    folder, file = (Path(name) for name in sys.argv[1:3])
    entries = int(sys.argv[3]) if len(sys.argv) > 3 else 8000
    megabytes = int(sys.argv[4]) if len(sys.argv) > 4 else 20
    tokenizer = Tokenizer.load(folder)
    texts = first_texts(file, megabytes * 1_000_000)
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
    main()
