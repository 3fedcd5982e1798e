"""Fixtures of the tests of data: write files, run a stage on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Reading
from stage_runs import Made, run_stage


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, str | bytes | list[Any]], Path]:
    """Write a file below a folder of sources: text, bytes, or rows as JSON Lines."""

    def put(name: str, data: str | bytes | list[Any]) -> Path:
        path = tmp_path / "sources" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(data, list):
            data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in data)
        path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
        return path

    return put


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Made]:
    """Run a stage into a folder of its own: `run(Corpus, path, validation_fraction=0)`."""
    count = 0

    def run(kind: type[Reading], *paths: Path, **settings: Any) -> Made:
        nonlocal count
        count += 1
        return run_stage(kind, list(paths), tmp_path / f"out{count}", **settings)

    return run
