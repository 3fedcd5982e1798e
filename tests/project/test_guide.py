"""The commands of the guide, run one after another on the demo's data as a reader would."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.main import get_command

from hanlin.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = "http://127.0.0.1:8000"
CHEAP = ("recipe new", "catalog", "kinds")
"""Commands that only read and print, whose lines the default suite runs too; the others take seconds to minutes."""


def guide_commands(language: str) -> list[str]:
    """The lines of the blocks marked `bash`."""
    text = (ROOT / "docs" / language / "guide.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line]


@contextmanager
def serving(line: str, folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """A server by a line of the guide, at a free port instead of the one it names; its address, once it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *line.split(), "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(240):
            assert server.poll() is None, (folder / "server.log").read_text(encoding="utf-8")
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(60)


def test_the_guide_has_ten_chapters_and_each_has_a_command_that_is_run() -> None:
    chapters = re.split(r"^## ", (ROOT / "docs" / "zh" / "guide.md").read_text(encoding="utf-8"), flags=re.M)[1:]
    assert len(chapters) == 10
    assert all("hanlin " in chapter for chapter in chapters)
    assert all("```bash" in chapter for chapter in chapters)
    assert guide_commands("en") == guide_commands("zh")


def test_commands_of_the_guide_that_only_read_and_print_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [line.split()[1:] for line in guide_commands("zh") if line.removeprefix("hanlin ").startswith(CHEAP)]
    assert len(lines) == len(CHEAP)
    for words in lines:
        get_command(app)(words, standalone_mode=False)
        assert capsys.readouterr().out.strip(), words
    assert (tmp_path / "first.yaml").is_file()


@pytest.mark.slow
def test_every_command_of_the_guide_runs(tmp_path: Path) -> None:
    environment = os.environ | {"HANLIN_LANG": "zh", "HANLIN_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}

    def run(line: str) -> None:
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
        assert (done.stdout + done.stderr).strip(), line

    *lines, serve, chat = guide_commands("zh")
    assert serve.startswith("hanlin serve ") and ADDRESS in chat
    for line in lines:
        run(line)
    with serving(serve, tmp_path, environment) as address:
        run(chat.replace(ADDRESS, address))
