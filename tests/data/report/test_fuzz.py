"""Whatever becomes of a valid file, its readers answer with records or with one clear error, never with a traceback.

The long run is `bench/fuzz_readers.py`; here a few hundred of its cases run, and bytes of hypothesis' choosing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import format_samples
from hanlin.data.report.inspect import inspect

sys.path.append(str(Path(__file__).resolve().parents[3] / "bench"))
import fuzz_readers

SAMPLES = format_samples.files()
QUICK = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_a_broken_file_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    outcome, name = fuzz_readers.run_case(seed, SAMPLES, tmp_path)
    assert outcome in ("read", "refused") and name in SAMPLES


@pytest.mark.parametrize("seed", [774, 5010, 100025, 201096, 5003071])
def test_a_case_that_once_failed_is_read_or_refused(tmp_path: Path, seed: int) -> None:
    fuzz_readers.run_case(seed, SAMPLES, tmp_path)


@QUICK
@given(data=st.binary(max_size=300), ending=st.sampled_from(["txt", "json", "jsonl", "csv", "parquet", "arrow", "gz"]))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes, ending: str) -> None:
    path = tmp_path / f"any.{ending}"
    path.write_bytes(data)
    (row,) = inspect([str(path)])
    assert "error" in row or row["rows_in"] == row["kept"] + sum(row["dropped"].values())
