"""Seeded random texts of the kinds of characters that tokenizers disagree on."""

from __future__ import annotations

import random
from collections.abc import Sequence


def _range(first: int, last: int) -> list[str]:
    return [chr(code) for code in range(first, last)]


ALPHABETS: tuple[Sequence[str], ...] = (
    _range(0x20, 0x7F),
    list(" \t\n\r\v\f\xa0\x85\u2003\u2028\u3000\u200b\ufeff"),
    _range(0x4E00, 0x9FA6),
    list("的一是了不在有人这上大来和我个中地为他生要们以到国时就出说会也子学发着对作能可于成用过动主下而年分得"),
    _range(0xC0, 0x250),
    [*_range(0x370, 0x500), *_range(0x600, 0x700), *_range(0x900, 0x980), *_range(0xE01, 0xE5B)],
    _range(0x300, 0x370),
    [*_range(0x3041, 0x30FF), *_range(0xAC00, 0xAD00)],
    [*_range(0x3001, 0x3030), *_range(0xFF01, 0xFF60)],
    [*_range(0x1F300, 0x1F700), "\u200d", "\ufe0f"],
    [*"01234567890123456789", "½", "①", "Ⅳ", "١", "²", "〇", "𝟘"],
    _range(0x20000, 0x20200),
    ["the ", "'s", "'LL", "'ſ", "</s>", "<s>", "<unk>", "<|eot_id|>", "<|im_end|>", "<0x0A>", "[INST]", "▁", "Ġ"],
)


def random_texts(seed: int, count: int) -> list[str]:
    """Texts of one to eight runs of characters, each run of one alphabet, some of them of one character repeated."""
    source = random.Random(seed)
    return ["".join(_run(source) for _ in range(source.randint(1, 8))) for _ in range(count)]


def _run(source: random.Random) -> str:
    alphabet = source.choice(ALPHABETS)
    if source.random() < 0.15:
        return source.choice(alphabet) * source.randint(1, 20)
    return "".join(source.choice(alphabet) for _ in range(source.randint(1, 6)))
