"""A hint for a path that leads nowhere names what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.core.errors import UserError, suggest_path
from hanlin.pipeline.inputs import expand_glob


def test_a_near_name_is_suggested_and_a_far_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").touch()
    (tmp_path / "clone").mkdir()
    assert f"did you mean {tmp_path}/chats.jsonl?" in suggest_path(tmp_path / "chat.jsonl")
    assert "check the name" in suggest_path(tmp_path / "none")


@pytest.mark.parametrize("pattern", ["*.none", "x/*/y.jsonl", "x/**"])
def test_a_pattern_without_matches_names_the_folder_it_was_looked_for_in(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="no file matches") as caught:
        expand_glob(tmp_path / pattern, "sources")
    assert str(tmp_path / pattern.partition("/*")[0] if "/" in pattern else tmp_path) in str(caught.value.hint)
