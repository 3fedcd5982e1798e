"""What the child process of a proof does: load a tokenizer and encode texts that make patterns slow."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import tokenizers

_LENGTH = 2_000
_MIXED = (
    "Hello, world! 你好，世界。 3.14 + 2 = 5.14\n\n\t"
    "it's 12,345  spaces   \u3000全角 ８８ é e\u0301 😀 <|x|> a_b-c/d\\e"
)


def prove_tokenizer(file: str) -> int:
    """Load a `tokenizer.json` and encode the texts of the proof.

    Returns:
        The number of token ids. Raises whatever the library raises.
    """
    tokenizer = tokenizers.Tokenizer.from_file(file)
    tokenizer.encode("", add_special_tokens=True)  # a template that names tokens that are not there fails here
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return sum(len(tokenizer.encode(text).ids) for text in _texts(Path(file)))


def _texts(file: Path) -> Iterator[str]:
    """Runs of one character, of pairs, and a mix: of the usual characters and of those in the file's own patterns."""
    yield _MIXED * 20
    patterns = json.dumps(_patterns(json.loads(file.read_bytes())), ensure_ascii=False)
    letters = sorted({*"aA1 \n\t.'好，é_-", *patterns})[:128]
    for letter in letters:
        yield letter * _LENGTH
        yield letter * _LENGTH + "\u0000"
    for letter, other in itertools.pairwise(letters):
        yield (letter + other) * (_LENGTH // 2) + "\u0000"


def _patterns(data: object) -> list[str]:
    found, stack = [], [data]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            regex = item.get("Regex")
            found += [regex] if isinstance(regex, str) else []
            stack.extend(value for name, value in item.items() if name not in ("vocab", "merges", "added_tokens"))
        elif isinstance(item, list):
            stack.extend(item)
    return found
