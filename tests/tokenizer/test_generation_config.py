"""The end ids of a model: those of its generation settings, or of its configuration where these name none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanlin.core.files import write_json
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.trim.generation_ids import named_token_ids

SAMPLED = {"do_sample": True, "temperature": 0.6}


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        (None, (5, 7)),
        ({}, (5, 7)),
        (SAMPLED, (5, 7)),
        ({**SAMPLED, "eos_token_id": None}, (5, 7)),
        ({**SAMPLED, "eos_token_id": []}, (5, 7)),
        ({**SAMPLED, "eos_token_id": 0}, (0,)),
        ({"eos_token_id": [3, 4]}, (3, 4)),
    ],
)
def test_generation_settings_that_name_no_end_leave_it_to_the_configuration(
    generation: dict[str, Any] | None, expected: tuple[int, ...], tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", {"eos_token_id": [5, 7]})
    if generation is not None:
        write_json(tmp_path / "generation_config.json", generation)
    assert read_eos_token_ids(tmp_path) == expected
    assert named_token_ids(tmp_path) == set(expected)
