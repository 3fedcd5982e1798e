"""Shards: what a processed split leaves on disk."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanlin.core.files import open_atomic
from hanlin.data.dedup.keys import copy_key, exact_key
from hanlin.data.dedup.minhash import band_keys, salted, signatures
from hanlin.data.ingest.spec import Course, Sieve
from hanlin.data.ingest.splits import Piece
from hanlin.data.ledger import FileStats

PART_ROWS = 20_000


PART_CHARACTERS = 1 << 24


_SIGNED_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """A finished part on disk: its account, for each question how many records hold it, and whether the piece is read
    to its end; then `lines` is how many lines the piece has."""

    stem: Path
    account: FileStats
    questions: Mapping[str, int] = field(default_factory=dict)
    last: bool = True
    lines: int = 0
    texts: Path | None = None

    def beside(self, ending: str) -> Path:
        return self.stem.with_name(self.stem.name + ending)

    @property
    def kept(self) -> Path:
        """Where the lines of its records stand."""
        return self.texts or self.beside(".kept.jsonl")

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """A row for each kept record: `number` and `line` count from the piece's beginning; `at`, `bytes` and `tail`
        are where its line begins in `kept`, how long it is, and how many bytes follow its place; `key`, `side` and
        `bands` are what copies are found by."""
        with np.load(self.beside(".npz"), allow_pickle=False) as data:
            return {name: data[name] for name in data.files}

    def signatures(self) -> npt.NDArray[np.uint32]:
        found: npt.NDArray[np.uint32] = np.load(self.beside(".signature.npy"), mmap_mode="r", allow_pickle=False)
        return found


def finished_parts(course: Course, piece: Piece) -> list[Part]:
    """The parts of a piece that an earlier run finished."""
    parts: list[Part] = []
    while not (parts and parts[-1].last):
        stem = course.parts / f"{piece.name}-{len(parts):05d}"
        try:
            row = json.loads(stem.with_name(stem.name + ".json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            break
        account = FileStats(
            **{**row["account"], "dropped": Counter(row["account"]["dropped"]),
               "changed": Counter(row["account"]["changed"])}
        )  # fmt: skip
        texts = piece.file.path if piece.known else None
        parts.append(Part(stem, account, row["questions"], row["last"], row["lines"], texts))
    return parts


class Columns:
    """The arrays of a part, filled record by record; signatures are made of many texts at once, but not of all."""

    def __init__(self, sieve: Sieve[Any, Any], seed: int) -> None:
        self._sieve, self._seed = sieve, seed
        self._rows: list[tuple[int, int, int, int, int]] = []
        self._keys: list[bytes] = []
        self._sides: list[int] = []
        self._texts: list[str] = []
        self._length = 0
        self._signed: list[npt.NDArray[np.uint32]] = []

    def add(self, record: Any, number: int, line: int, size: int, tail: int) -> None:
        sieve = self._sieve
        self._rows.append((number, line, size, tail, sieve.characters(record)))
        self._keys.append(copy_key(sieve.content(record), sieve.dedup.across_scripts))
        self._sides.append(salted(exact_key(sieve.side(record)), self._seed))
        if sieve.dedup.method == "minhash":
            self._texts.append(sieve.compared(record))
            self._length += len(self._texts[-1])
            if self._length >= _SIGNED_AT_ONCE:
                self._sign()

    def _sign(self) -> None:
        self._signed.append(signatures(self._texts, self._sieve.dedup, self._seed))
        self._texts.clear()
        self._length = 0

    def write(self, part: Part, at: Sequence[int] | None = None) -> None:
        """Write them beside the part; `at` says where lines begin, if not one after another."""
        rows = np.array(self._rows, dtype=np.int64).reshape(-1, 5)
        arrays: dict[str, npt.NDArray[Any]] = dict(
            zip(("number", "line", "bytes", "tail", "characters"), rows.T, strict=True)
        )
        arrays["at"] = np.cumsum(rows[:, 2]) - rows[:, 2] if at is None else np.array(at, dtype=np.int64)
        arrays["key"] = np.frombuffer(b"".join(self._keys), dtype="<u8").reshape(-1, 2)
        arrays["side"] = np.array(self._sides, dtype=np.uint64)
        if self._sieve.dedup.method == "minhash":
            self._sign()
            marks = np.concatenate(self._signed)
            arrays["bands"] = band_keys(marks, self._sieve.dedup)
            with open_atomic(part.beside(".signature.npy"), "wb", shared=True) as file:
                np.save(file, marks, allow_pickle=False)
        with open_atomic(part.beside(".npz"), "wb", shared=True) as file:
            np.savez(file, allow_pickle=False, **arrays)
