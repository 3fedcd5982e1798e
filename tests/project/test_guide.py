"""The commands of the guide, run one after another on the demo's data as a reader would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def guide_commands(language: str) -> list[str]:
    """The lines of the blocks marked `bash`."""
    text = (ROOT / "docs" / language / "guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


def test_the_guide_has_ten_chapters_and_most_have_a_command_that_is_run() -> None:
    chapters = re.split(r"^## ", (ROOT / "docs" / "zh" / "guide.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(chapters) == 10
    assert all("hanlin " in chapter for chapter in chapters)
    assert sum("```bash" in chapter for chapter in chapters) >= 8
    assert guide_commands("en") == guide_commands("zh")


@pytest.mark.slow
def test_every_command_of_the_guide_runs(tmp_path: Path) -> None:
    environment = os.environ | {"HANLIN_LANG": "zh", "HANLIN_HOME": str(tmp_path)}
    for line in guide_commands("zh"):
        done = subprocess.run(
            [sys.executable, "-m", *line.split()],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line
