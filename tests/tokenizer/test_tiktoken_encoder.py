"""The faster encoder gives the ids of the tokenizers library, and is there only where that is proven."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.tokenizer import tiktoken_encoder
from hanlin.tokenizer.byte_alphabet import CHAR_TO_BYTE
from hanlin.tokenizer.tiktoken_encoder import VERIFIED_SPLIT_PATTERNS, TiktokenEncoder
from hanlin.tokenizer.tokenizer import Tokenizer

PIECES = [
    "我们",
    "，。",
    "哈哈哈哈",
    "the",
    "atata",
    "erere",
    "'S",
    "'ſ",
    " ",
    "    ",
    "\t",
    "\r\n",
    "\n\n",
    "1234",
    "---",
]
PIECES += [
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|",
    "🀄️👩‍👩‍👧",
    "\u3000",
    "\x85",
    "\u200d",
    "é",
    "e\u0301",
    "٣",
    "Ⅷ",
    "\0",
]
WILD = st.lists(st.sampled_from(PIECES) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=14)


@pytest.fixture(scope="module")
def pair_of() -> Callable[[Path], tuple[Tokenizer, Tokenizer]]:
    """A tokenizer as it is, and quickened; both made once."""
    made: dict[Path, tuple[Tokenizer, Tokenizer]] = {}

    def of(folder: Path) -> tuple[Tokenizer, Tokenizer]:
        if folder not in made:
            made[folder] = Tokenizer.load(folder), Tokenizer.load(folder)
            made[folder][1].enable_fast_encoder()
            assert made[folder][1].uses_fast_encoder
        return made[folder]

    return of


@settings(max_examples=300, deadline=None)
@given(pieces=WILD)
def test_a_trained_tokenizer_gives_the_same_ids_quickened(
    pair_of: Callable, tiny_tokenizer: Path, pieces: list[str]
) -> None:
    plain, quick = pair_of(tiny_tokenizer)
    assert quick.encode("".join(pieces)) == plain.encode("".join(pieces))


@settings(max_examples=500, deadline=None)
@given(pieces=WILD)
def test_llama_3_gives_the_same_ids_quickened(pair_of: Callable, llama3: Path, pieces: list[str]) -> None:
    plain, quick = pair_of(llama3)
    assert quick.encode_batch(["".join(pieces), *pieces]) == plain.encode_batch(["".join(pieces), *pieces])


@settings(max_examples=100, deadline=None)
@given(piece=st.text(st.sampled_from(" at-\t=哈\n"), min_size=1, max_size=3), times=st.integers(1, 400))
def test_llama_3_gives_the_same_ids_of_what_repeats(pair_of: Callable, llama3: Path, piece: str, times: int) -> None:
    plain, quick = pair_of(llama3)
    assert quick.encode(piece * times) == plain.encode(piece * times)


def test_a_text_that_is_too_long_or_no_unicode_is_the_library_s(
    pair_of: Callable, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, quick = pair_of(tiny_tokenizer)
    encoder = quick._fast_encoder
    assert encoder is not None and encoder.encode("\ud83d") is None
    monkeypatch.setattr(tiktoken_encoder, "MAX_TEXT_LENGTH", 4)
    assert encoder.encode("12345") is None
    assert quick.encode_batch(["12345", "好"]) == plain.encode_batch(["12345", "好"])


def changed(folder: Path, change: Callable[[dict], object]) -> TiktokenEncoder | None:
    rules = json.loads(Tokenizer.load(folder).backend.to_str())
    change(rules)
    backend = tokenizers.Tokenizer.from_str(json.dumps(rules))
    backend.encode_special_tokens = True
    return TiktokenEncoder.from_tokenizer(backend, CHAR_TO_BYTE)


def swap_merges(rules: dict) -> None:
    merges = rules["model"]["merges"]
    merges[3], merges[7] = merges[7], merges[3]


@pytest.mark.parametrize(
    "change",
    [
        swap_merges,
        lambda rules: rules["model"]["merges"].pop(),
        lambda rules: rules["model"].update(ignore_merges=False),
        lambda rules: rules.update(normalizer={"type": "NFC"}),
        lambda rules: rules["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+"}),
        lambda rules: rules["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        lambda rules: rules["added_tokens"][0].update(special=False),
    ],
)
def test_a_tokenizer_for_which_the_proof_fails_is_not_quickened(
    tiny_tokenizer: Path, change: Callable[[dict], object]
) -> None:
    assert changed(tiny_tokenizer, lambda rules: None) is not None
    assert changed(tiny_tokenizer, change) is None


@given(
    tokens=st.lists(st.text(st.sampled_from("abc"), min_size=2, max_size=7), min_size=1, max_size=30, unique=True),
    token=st.text(st.sampled_from("abc"), min_size=2, max_size=9),
    rising=st.booleans(),
)
def test_what_is_known_of_two_halves_is_what_joining_arrives_at(tokens: list[str], token: str, rising: bool) -> None:
    if rising:
        tokens.sort(key=len)
    ranks = {letter: 1000 + place for place, letter in enumerate("abc")} | {t: n for n, t in enumerate(tokens)}
    known: dict[str, tuple[str, str]] = {}
    made = dict.fromkeys("abc", -1)
    for one in tokens:
        if (halves := tiktoken_encoder._halves(one, ranks)) and all(half in made for half in halves):
            known[one], made[one] = halves, ranks[one]
    arrived = tiktoken_encoder._halves(token, ranks)
    for cut in range(1, len(token)):
        halves = (token[:cut], token[cut:])
        told = tiktoken_encoder._arrives_at(*halves, ranks, known, made)
        assert told == (halves == arrived and all(half in made for half in halves))


def test_other_versions_of_the_libraries_are_not_trusted(tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiktoken, "__version__", "0.99.0")
    assert TiktokenEncoder.from_tokenizer(Tokenizer.load(tiny_tokenizer).backend, CHAR_TO_BYTE) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", [r"\p{L}", r"\p{N}", r"\s", r"[^\s\p{L}\p{N}]", "(?i:[sdmtlrve])", r"[\r\n]", r"\S"])
def test_both_libraries_mean_the_same_characters(kind: str) -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("kind", pat_str=f"{kind}+", mergeable_ranks=bytes_alone, special_tokens={})
    theirs = bytes(encoding.encode_ordinary(everything)).decode()
    others = tokenizers.normalizers.Replace(tokenizers.Regex(f"{kind}+"), "").normalize_str(everything)
    assert set(theirs) == set(everything) - set(others)
    assert any(
        "(?i:'s" in split for split in VERIFIED_SPLIT_PATTERNS
    )  # the letters of contractions are among the kinds
