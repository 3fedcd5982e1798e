"""Statistics of a training stage's data, from the first records of its files; token counts are estimated."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.settings.preference import AlignmentSettings, Kto
from hanlin.config.settings.train import Pretrain, Sft, Training
from hanlin.core.discover import VALIDATION_FILE, record_files
from hanlin.core.files import parse_json
from hanlin.estimate.batch_plan import DatasetStats

SAMPLE = 1 << 20
"""Bytes of a file that are read."""
FILES = 8
"""Files that are looked into, about; the others count by their size."""
PER_TURN = 5
"""Tokens that a chat template sets around a turn."""
CHINESE = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\u3000-\u303f\uff00-\uffef]")
CHINESE_TOKENS = ((100_000, 0.68), (48_000, 0.62), (30_000, 1.4), (8_000, 0.7), (0, 1.0))
"""Tokens of a Chinese character by the least entries of a vocabulary: Llama 3's 128,256 take 0.68 on modern text,
Llama 2's extended to 55,296 or 74,674 take 0.61, and its own 32,000 take 1.43."""
OTHER_TOKENS = 0.27
"""Tokens of any other character."""

Row = Mapping[str, Any]


def sample_dataset(settings: Training, paths: Iterable[Path], vocab_size: int) -> DatasetStats | None:
    """Estimate the statistics of a stage's data from a sample.

    Args:
        settings: The settings of the training stage.
        paths: Artifact folders or files of records.
        vocab_size: The vocabulary size.

    Returns:
        The statistics, or None if nothing can be read.
    """
    kinds = {Pretrain: ("documents",), Sft: ("conversations",), Kto: ("unpaired_preferences", "preferences")}
    read_kinds = kinds.get(type(settings), ("preferences",))
    files = [file for path in paths for file in record_files(path, *read_kinds) if file.name != VALIDATION_FILE]
    read_bytes, units, tokens, learned = 0, 0, 0.0, 0.0
    documents: list[float] = []
    longest = 0.0
    for file in files[:: max(1, len(files) // FILES)]:
        for line, row in _rows(file):
            parts = list(_parts(settings, row))
            read_bytes += line
            if not parts:  # a row of another form, which the stage will refuse
                continue
            units += len(parts) // 2 if isinstance(settings, Kto) else 1
            lengths = [_tokens(text, vocab_size) + PER_TURN for text, _ in parts]
            tokens += sum(lengths)
            own = _documents(settings, lengths)
            documents += own
            if own and max(own) <= settings.max_seq_length:
                longest = max(longest, max(own) if isinstance(settings, Kto) else sum(lengths))
            learned += sum(_tokens(text, vocab_size) + 1 for text, taught in parts if taught)
    if not units or not tokens:
        return None
    total_bytes = sum(file.stat().st_size for file in files)
    return DatasetStats(
        round(units * total_bytes / read_bytes),
        tokens / units,
        min(1.0, learned / tokens),
        tuple(documents),
        longest,
    )


def _rows(file: Path) -> Iterator[tuple[int, Row]]:
    """The first records of a file, each with the bytes of its line."""
    read = 0
    with file.open("rb") as lines:
        for line in lines:
            read += len(line)
            try:
                row = parse_json(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield len(line), row
            if read > SAMPLE:
                return


def _parts(settings: Training, row: Row) -> Iterator[tuple[str, bool]]:
    """The texts of a record that go through the model, and whether each has loss: a pair's answers share a prompt."""
    if isinstance(settings, Pretrain):
        yield str(row.get("text", "")), True
    elif isinstance(settings, Sft):
        for message in _messages(row, "messages"):
            yield _text(message), isinstance(message, dict) and message.get("role") == "assistant"
    elif isinstance(settings, AlignmentSettings):
        prompt = " ".join(_text(message) for message in _messages(row, "prompt"))
        for name in ("chosen", "rejected", "answer"):
            if name in row:
                if name != "rejected" or isinstance(settings, Kto):
                    yield prompt, False
                yield _text(row[name]), True


def _documents(settings: Training, lengths: list[float]) -> list[float]:
    """The tokens of a record's documents, from those of its parts."""
    if isinstance(settings, Pretrain | Sft):
        return [sum(lengths)]
    if isinstance(settings, Kto):  # a prompt before each answer
        return [sum(pair) for pair in zip(lengths[::2], lengths[1::2], strict=True)]
    prompt, *answers = lengths
    return [prompt + answer for answer in answers]


def _messages(row: Row, name: str) -> Sequence[Any]:
    messages = row.get(name)
    return messages if isinstance(messages, list) else ()


def _text(message: Any) -> str:
    return str(message.get("text", "")) if isinstance(message, dict) else ""


def _tokens(text: str, vocab_size: int) -> float:
    chinese = len(CHINESE.findall(text))
    rate = next(rate for least, rate in CHINESE_TOKENS if vocab_size >= least)
    return chinese * rate + (len(text) - chinese) * OTHER_TOKENS
