"""Run a data stage on files, and read back what it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences, Reading, UnpairedPreferences
from hanlin.core.context import Inputs, StageContext
from hanlin.data.stages import conversations, corpus, preferences, unpaired_preferences

STAGES: dict[type[Reading], tuple[Any, str]] = {
    Corpus: (corpus, "documents.jsonl"),
    Conversations: (conversations, "conversations.jsonl"),
    Preferences: (preferences, "preferences.jsonl"),
    UnpairedPreferences: (unpaired_preferences, "unpaired_preferences.jsonl"),
}


@dataclass(frozen=True)
class Made:
    """The folder of a stage that was run, and the metrics that it returned."""

    out: Path
    metrics: dict[str, Any]

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.out / name
        return (
            [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []
        )

    @property
    def kept(self) -> list[dict[str, Any]]:
        (name,) = {name for _, name in STAGES.values() if (self.out / name).exists()}
        return self.rows(name)

    @property
    def validation(self) -> list[dict[str, Any]]:
        return self.rows("validation.jsonl")

    @property
    def dropped(self) -> list[dict[str, Any]]:
        return self.rows("dropped.jsonl")

    @property
    def ledger(self) -> dict[str, Any]:
        ledger: dict[str, Any] = json.loads((self.out / "ledger.json").read_text(encoding="utf-8"))
        return ledger

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.kept]

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.out.iterdir()) if path.is_file()}


def run_stage(
    kind: type[Reading],
    paths: list[Path],
    out: Path,
    job: StageContext | None = None,
    source: Any = None,
    **settings: Any,
) -> Made:
    """Run a stage on files or folders as the worker does; `source` are settings of every source."""
    sources = [{"path": f"./{path.name}", **(source or {})} for path in paths]
    inputs = Inputs({f"sources.{place}.path": (path,) for place, path in enumerate(paths)})
    out.mkdir(parents=True, exist_ok=True)
    metrics = STAGES[kind][0].run(kind(sources=sources, **settings), inputs, out, job or StageContext())
    return Made(out, metrics)


@contextmanager
def stopped_at_write(monkeypatch: pytest.MonkeyPatch, moment: int) -> Iterator[None]:
    """Stop what runs inside with KeyboardInterrupt at its `moment`-th write of a file, from 1; it must get that far."""
    replace, count = os.replace, 0

    def stopping(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == moment:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield
