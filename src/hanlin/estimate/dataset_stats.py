"""Statistics of a training stage's data, from the first records of its files; token counts are estimated."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    """The texts of a record that go through the model, and whether each has loss: a pair's answers share a prompt.

    Calls and reasoning are a part of their turn's text, tools of the first text that is read.
    """
    if isinstance(settings, Pretrain):
        yield str(row.get("text", "")), True
    elif isinstance(settings, Sft):
        tools = _tools(row)
        if tools:
            yield tools, False
        yield from _turns(settings, _messages(row, "messages"))
    elif isinstance(settings, AlignmentSettings):
        prompt = " ".join([*filter(None, [_tools(row)]), *(_text(turn) for turn in _messages(row, "prompt"))])
        for name in ("chosen", "rejected", "answer"):
            if name in row:
                if name != "rejected" or isinstance(settings, Kto):
                    yield prompt, False
                yield _text(row[name], _reasoning_of(settings)), True


def _turns(settings: Sft, messages: Sequence[Any]) -> Iterator[tuple[str, bool]]:
    """The texts of a conversation: what is learned of it is what its data, else `train_on`, says."""
    answers = [
        index for index, turn in enumerate(messages) if isinstance(turn, dict) and turn.get("role") == "assistant"
    ]
    for index, turn in enumerate(messages):
        is_answer = index in answers
        own = turn.get("train") if is_answer else None
        is_learned = is_answer and (
            own if isinstance(own, bool) else settings.train_on == "all" or index == answers[-1]
        )
        reasoning, text = _reasoning_of(settings)(turn) if is_answer else "", _text(turn)
        if reasoning and settings.reasoning == "read":
            yield reasoning, False
            reasoning = ""
        yield reasoning + text, is_learned


def _reasoning_of(settings: Any) -> Callable[[Any], str]:
    """What goes through the model of an answer's reasoning: all of it, unless the settings drop it."""
    if getattr(settings, "reasoning", "learn") == "drop":
        return lambda turn: ""
    return lambda turn: str(turn.get("reasoning") or "") if isinstance(turn, dict) else ""


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


def _tools(row: Row) -> str:
    tools = row.get("tools")
    return json.dumps(tools, ensure_ascii=False) if isinstance(tools, list) and tools else ""


def _text(message: Any, read_reasoning: Callable[[Any], str] = lambda turn: "") -> str:
    """The text of a turn with the calls in it, which templates write as JSON."""
    if not isinstance(message, dict):
        return ""
    calls = message.get("tool_calls")
    written = json.dumps(calls, ensure_ascii=False) if isinstance(calls, list) and calls else ""
    return read_reasoning(message) + str(message.get("text", "")) + written


def _tokens(text: str, vocab_size: int) -> float:
    chinese = len(CHINESE.findall(text))
    rate = next(rate for least, rate in CHINESE_TOKENS if vocab_size >= least)
    return chinese * rate + (len(text) - chinese) * OTHER_TOKENS
