"""Extend an existing vocabulary by Chinese pieces learned from text, appended after all existing entries.

Nothing but Chinese text is split otherwise afterwards: every text has its old ids again if each new id is replaced by
the old ids of its piece (`verify_ids`). The embeddings of the new entries are `models/extend_vocab`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.tokenizer.bpe_trainer import BARRIER, BpeTrainer
from hanlin.tokenizer.byte_alphabet import BYTE_TO_CHAR, CHAR_TO_BYTE
from hanlin.tokenizer.prefix_space import flatten_steps
from hanlin.tokenizer.tokenizer import Tokenizer

IDEOGRAPHS = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U000323af"
"""The Chinese characters of Unicode 15 that are letters and that no normalization changes."""

MARKS = "，。、；：？！…—·“”‘’（）《》〈〉「」『』【】"
"""The marks that an entry may hold where the tokenizer leaves them in one word with Chinese characters.

Llama 3 splits text so that a word takes the one mark before it along (`，而` is one word of its); Llama 2 splits at no
mark (`曰：“`). Of 20,000 entries for Llama 2 those with a mark before a word make modern text 5 % and classical text
6 % shorter in tokens; with marks on both sides it is another 1 % and 5 %."""

MAX_WORD_LENGTH = 32
"""Characters of a word that a user gives at most."""

_WORD = re.compile(f"[{IDEOGRAPHS}]+")
_WORD_AFTER_MARK = re.compile(f"(?:(?<![{MARKS}])[{MARKS}])?[{IDEOGRAPHS}]+")
_WORDS_AND_MARKS = re.compile(f"(?<![{MARKS}])[{MARKS}]*[{IDEOGRAPHS}][{MARKS}{IDEOGRAPHS}]*")
_PIECE = re.compile(f"[{MARKS}]{{,2}}[{IDEOGRAPHS}]+[{MARKS}]{{,2}}")
_RUNS_PER_BATCH = 20_000
_WEIGHT_UNIT = 100
"""Counts of weighted texts are multiples of a hundredth, so that they are whole numbers and the order of texts does
not matter."""
_MAX_WORD_COUNT = 2**40
_HARMLESS_NORMALIZERS = ("Prepend", "NFC", "NFD", "NFKC", "NFKD")
"""Normalizers that change no Chinese character."""
_FRAGMENT = re.compile(
    rb"\xe3[\x90-\xbf]|\xe4[\x80-\xb6\xb8-\xbf]|[\xe5-\xe9][\x80-\xbf]|\xf0[\xa0-\xb2][\x80-\xbf]?", re.DOTALL
)
"""First bytes that only ideographs begin with (U+3400 to U+9FFF but the hexagrams of U+4DC0; U+20000 to U+32FFF)."""

MergePair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Extension:
    """A tokenizer with more entries than its base.

    `pieces` are the texts of the new entries in the order of their ids, the first of which is `first_id`; `old_ids[i]`
    are the ids that spelled `pieces[i]` before. A byte-level piece may be the first bytes of a character, which read as
    U+FFFD: a character that was spelled in three bytes is merged by way of its first two.
    """

    tokenizer: Tokenizer
    first_id: int
    pieces: tuple[str, ...]
    old_ids: tuple[tuple[int, ...], ...]
    has_chinese: bool = True
    """Whether there was a Chinese character to learn from."""


def extend_tokenizer(
    tokenizer: Tokenizer,
    texts: Iterable[str | tuple[str, float]],
    new_entries: int,
    *,
    words: Sequence[str] = (),
    min_saved: int = 5,
    max_length: int = 8,
    progress: Progress | None = None,
) -> Extension:
    """Learn at most `new_entries` Chinese pieces from `texts` and append them to the vocabulary of `tokenizer`.

    Learning continues where the tokenizer stops: runs of Chinese characters, with the marks that it leaves in one word
    with them, split as the tokenizer splits them, are merged further by byte pair encoding. All new merges rank after
    all old ones and give pieces with a Chinese character only, so every other text is split as before; new ids follow
    the highest old one. A piece that the finished tokenizer does not encode as its single id is left out, and the next
    one is taken in its stead, as it is for one that exists already. The result depends on the arguments alone.

    Args:
        tokenizer: Byte-level BPE (Llama 3) or SentencePiece BPE with byte fallback in `tokenizer.json` (Llama 2).
        texts: What to learn from; a text may have a weight, with which it counts as so many.
        new_entries: Maximum number of new pieces.
        words: Chinese words that become entries before anything else is learned, with the pieces that build them.
        min_saved: Tokens of `texts` that a piece must save at least.
        max_length: Maximum characters of a piece.
        progress: Where to report progress.

    Raises:
        UserError: If the tokenizer is of another kind, a word is not Chinese, or `new_entries` are too few for `words`.

    Memory: about 100 bytes for each token of the distinct Chinese runs.
    """
    vocabulary = _BaseVocabulary(tokenizer)
    _check_words(words)
    runs, unit = _count_runs(texts, vocabulary.run_pattern())
    has_chinese = bool(runs)
    wanted = [word for word in dict.fromkeys(words) if not vocabulary.has_entry(word)]
    # more often than any pair of the texts, a run of which may hold one many times, and often enough to be learned
    letters = sum(len(run) * count for run, count in runs.items())
    word_count = min(letters + min_saved * unit, _MAX_WORD_COUNT)
    for word in wanted:
        runs[word] += word_count
    limits = _Limits(min_saved * unit, max_length, _parts_of(wanted))
    pieces, extended = _learn_reachable_pieces(vocabulary, runs, new_entries, limits, progress)
    _check_unchanged(tokenizer, extended)
    _check_words_added(wanted, map(vocabulary.text_of, pieces), new_entries)
    return Extension(
        extended,
        len(tokenizer),
        tuple(map(vocabulary.text_of, pieces)),
        tuple(tuple(vocabulary.old_ids(piece)) for piece in pieces),
        has_chinese,
    )


def is_known_bpe(tokenizer: Tokenizer, model: Mapping[str, Any]) -> bool:
    """Whether the `model` of a `tokenizer.json` is byte-level BPE or SentencePiece BPE with byte fallback."""
    return (
        model["type"] == "BPE"
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
        and (not model.get("byte_fallback")) == ("ByteLevel" in tokenizer.decoder_steps)
    )


def verify_ids(before: Tokenizer, extension: Extension, texts: Sequence[str]) -> None:
    """Verify that texts have their old ids if each new id is replaced by the old ids of its piece.

    So no text is split at another place than before, and what is not Chinese in it has the ids that it had.

    Raises:
        RuntimeError: Names the first text that has others.
    """
    first, old_ids = extension.first_id, extension.old_ids
    for text, old, new in zip(texts, before.encode_batch(texts), extension.tokenizer.encode_batch(texts), strict=True):
        spelled = (old_ids[token_id - first] if token_id >= first else (token_id,) for token_id in new)
        if list(chain.from_iterable(spelled)) != old:
            raise RuntimeError(f"the extended tokenizer splits {text[:80]!r} at other places than before")


def _check_words(words: Iterable[str]) -> None:
    for word in words:
        if not _WORD.fullmatch(word) or not 2 <= len(word) <= MAX_WORD_LENGTH:
            hint = tr("an entry with other letters or signs would change how other text is split")
            what = tr("{word!r} is no word of 2 to {limit} Chinese characters", word=word[:80], limit=MAX_WORD_LENGTH)
            raise UserError(what, "words", hint)


def _check_words_added(words: Sequence[str], pieces: Iterable[str], new_entries: int) -> None:
    missing = set(words).difference(pieces)
    if missing:
        what = tr(
            "{new_entries} new entries are too few for the {count} words given: {missing} of them are left out, such "
            "as {word!r}",
            new_entries=new_entries,
            count=len(words),
            missing=len(missing),
            word=next(word for word in words if word in missing),
        )
        hint = tr("raise `new_entries`: a word of n characters may need n - 1 entries, and those of its characters")
        raise UserError(what, "words", hint)


def _count_runs(texts: Iterable[str | tuple[str, float]], run_pattern: re.Pattern[str]) -> tuple[Counter[str], int]:
    """The runs of Chinese characters with their counts, in multiples of the returned unit (1 without weights)."""
    runs: Counter[str] = Counter()
    weighted: dict[float, Counter[str]] = {}
    for text in texts:
        if isinstance(text, str):
            runs.update(run_pattern.findall(text))
        else:
            weighted.setdefault(text[1], Counter()).update(run_pattern.findall(text[0]))
    if not weighted:
        return runs, 1
    total = Counter({run: count * _WEIGHT_UNIT for run, count in runs.items()})
    for weight, counts in weighted.items():
        for run, count in counts.items():
            total[run] += count * max(1, round(weight * _WEIGHT_UNIT))
    return total, _WEIGHT_UNIT


def _parts_of(words: Iterable[str]) -> frozenset[str]:
    """All pieces that a word may be built of, the word included."""
    return frozenset(
        word[start:end] for word in words for start in range(len(word)) for end in range(start + 1, len(word) + 1)
    )


@dataclass(frozen=True, slots=True)
class _Limits:
    """Which pieces are learned: the tokens that one saves at least, its characters, and those of any length."""

    min_saved: int
    max_length: int
    any_length: frozenset[str]


class _BaseVocabulary:
    """The base vocabulary: how it writes Chinese pieces, and how it is extended.

    A byte-level vocabulary writes a piece in the characters that stand for its bytes, a SentencePiece one as it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.data: dict[str, Any] = json.loads(tokenizer.backend.to_str())
        model = self.data["model"]
        self.is_byte_level = not model.get("byte_fallback")
        if not is_known_bpe(tokenizer, model):
            raise UserError(
                tr("this kind of vocabulary cannot be extended"),
                tokenizer.folder,
                tr("supported: byte-level BPE and SentencePiece BPE"),
            )
        self._check_normalizer()
        self.entries: dict[str, int] = model["vocab"]
        self.added = {token["content"]: token["id"] for token in self.data["added_tokens"]}
        self.tokens = {number: token for token, number in self.entries.items()}

    def _check_normalizer(self) -> None:
        """Refuse what may change a Chinese character: entries are learned from text as it is written."""
        for step in flatten_steps(self.data["normalizer"], "normalizers"):
            kind = step["type"]
            replaces_space = kind == "Replace" and step["pattern"] == {"String": " "}
            if not (replaces_space or kind in _HARMLESS_NORMALIZERS):
                raise UserError(
                    tr("this tokenizer first changes text in a way that is not known here: {kind}", kind=kind),
                    self.tokenizer.folder,
                    tr("extend the vocabulary of a tokenizer that takes text as it is written"),
                )

    def run_pattern(self) -> re.Pattern[str]:
        """What is learned from: Chinese characters with the marks that the tokenizer leaves in one word with them."""
        splitter = self.tokenizer.backend.pre_tokenizer
        if splitter is None or len(splitter.pre_tokenize_str("而，而")) == 1:
            return _WORDS_AND_MARKS
        return _WORD_AFTER_MARK if len(splitter.pre_tokenize_str("，而")) == 1 else _WORD

    def has_entry(self, text: str) -> bool:
        return self.written(text) in self.entries or text in self.added

    def written(self, text: str) -> str:
        return "".join(BYTE_TO_CHAR[byte] for byte in text.encode()) if self.is_byte_level else text

    def bytes_of(self, piece: str) -> bytes:
        return bytes(CHAR_TO_BYTE[letter] for letter in piece) if self.is_byte_level else piece.encode()

    def text_of(self, piece: str) -> str:
        return self.bytes_of(piece).decode(errors="replace")

    def old_ids(self, piece: str) -> list[int]:
        return [token.id for token in self.tokenizer.backend.model.tokenize(piece)]

    def allows(self, piece: str, limits: _Limits) -> bool:
        """Whether a piece is new and is whole Chinese characters, not too many, or the first bytes of one.

        The characters may have marks before and after them, at most two each.
        """
        if piece in self.entries or piece in self.added:
            return False
        data = self.bytes_of(piece)
        if _FRAGMENT.fullmatch(data):
            return True
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return False
        fits = len(text) <= limits.max_length or text in limits.any_length
        return fits and _PIECE.fullmatch(text) is not None

    def all_merges(self, pieces: Sequence[str]) -> list[MergePair]:
        """Every pair of entries that makes a piece, in the order of the pieces.

        SentencePiece and llama.cpp join any two that make a piece, by the score of the piece; with these merges
        `tokenizer.json` does the same.
        """
        ids = {**self.entries, **{piece: len(self.tokenizer) + index for index, piece in enumerate(pieces)}}
        merges: list[MergePair] = []
        for piece in pieces:
            pairs = [(piece[:index], piece[index:]) for index in range(1, len(piece))]
            known = [(left, right) for left, right in pairs if left in ids and right in ids]
            merges += sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))
        return merges

    def build_extended(self, pieces: Sequence[str], merges: Sequence[MergePair]) -> Tokenizer:
        """A tokenizer with the pieces and merges appended.

        Added tokens are written into the model's vocabulary too; the library would renumber them otherwise.
        """
        model = dict(self.data["model"])
        first = len(self.tokenizer)
        model["vocab"] = {**self.entries, **self.added, **{piece: first + i for i, piece in enumerate(pieces)}}
        as_lists = not model["merges"] or isinstance(model["merges"][0], list)
        model["merges"] = model["merges"] + [list(pair) if as_lists else " ".join(pair) for pair in merges]
        backend = tokenizers.Tokenizer.from_str(json.dumps({**self.data, "model": model}, ensure_ascii=False))
        config = {name: value for name, value in self.tokenizer.config.items() if name != "added_tokens_decoder"}
        return Tokenizer(backend, config, self.tokenizer.folder)

    def unreachable_pieces(self, extended: Tokenizer, pieces: Sequence[str]) -> list[str]:
        """The pieces that the extended tokenizer does not encode as their own single id."""
        texts = extended.encode_batch([self.text_of(piece) for piece in pieces], continuation=True)
        unreachable: list[str] = []
        for token_id, (piece, ids) in enumerate(zip(pieces, texts, strict=True), start=len(self.tokenizer)):
            piece_ids = [token.id for token in extended.backend.model.tokenize(piece)]
            fragment = _FRAGMENT.fullmatch(self.bytes_of(piece)) is not None
            if piece_ids != [token_id] or not (fragment or ids == [token_id]):
                unreachable.append(piece)
        return unreachable


def _learn_reachable_pieces(
    vocabulary: _BaseVocabulary,
    runs: Mapping[str, int],
    new_entries: int,
    limits: _Limits,
    progress: Progress | None,
) -> tuple[list[str], Tokenizer]:
    """At most `new_entries` pieces that the tokenizer, which is returned too, encodes as their own single id.

    Later merges rank after those that make a piece, so what is learned to make up for pieces that are left out changes
    nothing of the others.
    """
    learner = _Learner(vocabulary, runs, limits)
    goal = new_entries
    while True:
        may_learn_more = learner.learn(goal, progress)
        pieces, merges = learner.pieces, learner.merges
        surplus: Sequence[str] = ()
        while True:
            if not vocabulary.is_byte_level:
                merges = vocabulary.all_merges(pieces)
            extended = vocabulary.build_extended(pieces, merges)
            surplus = vocabulary.unreachable_pieces(extended, pieces) or pieces[new_entries:]
            if not surplus:
                break
            pieces, merges = _remove_pieces(surplus, pieces, merges)
        missing = new_entries - len(pieces)
        if missing <= 0 or not may_learn_more:
            return pieces, extended
        goal += missing + missing // 8 + 8


class _Learner:
    """Learns pieces from runs, so many as are wanted; `pieces` and `merges` are in the order of learning."""

    def __init__(self, vocabulary: _BaseVocabulary, runs: Mapping[str, int], limits: _Limits) -> None:
        self.pieces: list[str] = []
        self.merges: list[MergePair] = []
        self._vocabulary, self._limits = vocabulary, limits
        self._first = len(vocabulary.tokenizer)
        self._symbols: dict[str, int] = {}
        words, self._byte_spelled = _segment_runs(vocabulary, list(runs))
        trainer = BpeTrainer(words, list(runs.values()), self._first, limits.min_saved)
        self._learned = trainer.merges(self._symbol_for)

    def learn(self, goal: int, progress: Progress | None) -> bool:
        """Learn until there are `goal` pieces; return whether there may be more."""
        while len(self.pieces) < goal:
            merge = next(self._learned, None)
            if merge is None:
                return False
            left, right = self._spelled(merge.left), "" if merge.right is None else self._spelled(merge.right)
            if merge.right is not None:
                self.merges.append((left, right))
            if merge.symbol == self._first + len(self.pieces):
                self.pieces.append(left + right)
                self._symbols[left + right] = merge.symbol
                if progress is not None:
                    progress.update(len(self.pieces), goal, tr("entries"))
        return goal > 0

    def _spelled(self, symbol: int) -> str:
        if symbol < BARRIER:
            return self._byte_spelled[-2 - symbol]
        first = self._first
        return self.pieces[symbol - first] if symbol >= first else self._vocabulary.tokens[symbol]

    def _symbol_for(self, left: int, right: int | None, new: int) -> int | None:
        piece = self._spelled(left) + ("" if right is None else self._spelled(right))
        return self._symbols.get(piece, new) if self._vocabulary.allows(piece, self._limits) else None


def _segment_runs(vocabulary: _BaseVocabulary, runs: Sequence[str]) -> tuple[Iterator[Sequence[int]], list[str]]:
    """The runs as the tokenizer splits them, one after the other.

    In SentencePiece a character without an entry is spelled in bytes that nothing merges: it becomes a barrier, -2 for
    the first character of the returned list.
    """
    if vocabulary.is_byte_level:
        return _encode_runs(vocabulary.tokenizer, runs), []
    characters = set().union(*runs)
    byte_spelled = sorted(character for character in characters if character not in vocabulary.entries)
    barriers = {character: -2 - index for index, character in enumerate(byte_spelled)}
    if not any(len(entry) > 1 and characters.issuperset(entry) for entry in vocabulary.entries):
        symbols = {character: vocabulary.entries.get(character, -1) for character in characters} | barriers
        return ([symbols[character] for character in run] for run in runs), byte_spelled
    if not barriers:
        return _encode_runs(vocabulary.tokenizer, runs), []
    return _encode_between_barriers(vocabulary.tokenizer, runs, barriers), byte_spelled


def _encode_runs(tokenizer: Tokenizer, runs: Sequence[str]) -> Iterator[list[int]]:
    for start in range(0, len(runs), _RUNS_PER_BATCH):
        yield from tokenizer.encode_batch(runs[start : start + _RUNS_PER_BATCH], continuation=True)


def _encode_between_barriers(
    tokenizer: Tokenizer, runs: Sequence[str], barriers: Mapping[str, int]
) -> Iterator[list[int]]:
    cut = re.compile(f"([{''.join(barriers)}])")
    for start in range(0, len(runs), _RUNS_PER_BATCH):
        parts = [[part for part in cut.split(run) if part] for run in runs[start : start + _RUNS_PER_BATCH]]
        texts = list(dict.fromkeys(part for row in parts for part in row if part not in barriers))
        ids = dict(zip(texts, tokenizer.encode_batch(texts, continuation=True), strict=True))
        ids.update({character: [barrier] for character, barrier in barriers.items()})
        yield from ([symbol for part in row for symbol in ids[part]] for row in parts)


def _remove_pieces(
    unreachable: Iterable[str], pieces: Sequence[str], merges: Sequence[MergePair]
) -> tuple[list[str], list[MergePair]]:
    """Remove unreachable pieces and their merges, and the pieces that only those merges lead to."""
    producible = {left + right for left, right in merges}
    removed = set(unreachable)
    while True:
        merges = [pair for pair in merges if not removed.intersection((*pair, "".join(pair)))]
        remaining = {"".join(pair) for pair in merges}
        orphans = {piece for piece in pieces if piece in producible and piece not in remaining and piece not in removed}
        if not orphans:
            return [piece for piece in pieces if piece not in removed], list(merges)
        removed |= orphans


def _check_unchanged(before: Tokenizer, after: Tokenizer) -> None:
    """Raise UserError unless every old entry keeps its id and no special token can be typed."""
    old = before.backend.get_vocab(with_added_tokens=True)
    new = after.backend.get_vocab(with_added_tokens=True)
    special = [token for token, added in after.added_tokens.items() if added.special]
    moved = [token for token, token_id in old.items() if new[token] != token_id]
    typed = [token for token in special if new[token] in after.encode(token)]
    if moved or typed:
        raise UserError(
            tr("the vocabulary cannot take more entries: {moved!r} would change", moved=(moved or typed)[0]),
            before.folder,
            tr("leave the vocabulary as it is"),
        )
