"""A disk that is full, read-only or somebody else's is one sentence with the way out, and leaves nothing half-made."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hanlin.core.errors import explain_os_error
from hanlin.core.files import write_text

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of POSIX")


def hanlin(*words: str | Path, home: Path, limit: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command whose files may have at most `limit` bytes: as on a full disk, a write fails in its middle."""

    def set_limit() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "HANLIN_HOME": str(home), "HANLIN_LANG": "en", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "hanlin", *map(str, words)]
    return subprocess.run(
        command,
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=set_limit,
        timeout=120,
    )


def assert_refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "error: " in done.stderr and "hint: " in done.stderr, done.stderr
    assert "larger than this system" in done.stderr or "disk is full" in done.stderr


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        {"instruction": f"第{n}问：你叫什么？", "input": "", "output": f"我叫小翰，今年{n}岁。"} for n in range(400)
    ]
    file = tmp_path_factory.mktemp("data") / "chats.json"
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return file


def test_a_stage_and_its_copy_and_a_conversion_on_a_full_disk(chats: Path, tmp_path: Path) -> None:
    stage = ("conversations", "--sources", chats, "--validation-fraction", "0")
    assert_refused(hanlin(*stage, home=tmp_path, limit=4096))
    assert list(tmp_path.glob("artifacts/conversations-*[!l]")) == []
    assert_refused(
        hanlin("data", "convert", chats, "--to", "messages", "--out", "out.jsonl", home=tmp_path, limit=4096)
    )
    assert list(tmp_path.glob("out*")) == []
    assert hanlin(*stage, home=tmp_path).returncode == 0
    assert_refused(hanlin(*stage, "--out", "copy", home=tmp_path, limit=4096))
    assert list(tmp_path.glob("copy*")) == []


@pytest.mark.slow
def test_answers_on_a_full_disk(tiny_model: Path, chats: Path, tmp_path: Path) -> None:
    words = ("generate", tiny_model, "--data", chats, "--max-new-tokens", "2", "--out", "answers.json")
    assert_refused(hanlin(*words, home=tmp_path, limit=2048))
    assert not (tmp_path / "answers.json").exists()


def read_only(folder: Path, words: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a folder as a read-only mount, where a mount of one's own can be had."""
    shell = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec {' '.join(words)}"
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("no mounts of one's own here")
    environment = {**os.environ, "HANLIN_LANG": "en"}
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", shell], cwd=home, env=environment, capture_output=True, text=True, timeout=120
    )
    if "mount:" in done.stderr:
        pytest.skip("no mounts of one's own here")
    return done


@pytest.mark.slow
def test_a_store_that_can_only_be_read_serves_what_is_done(chats: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\nstages: {{ c: {{ kind: conversations, sources: [{chats}] }} }}\n", encoding="utf-8")
    store = tmp_path / "store"
    store.mkdir()
    command = [sys.executable, "-m", "hanlin", "run", str(recipe), "--home", str(store)]
    refused = read_only(store, command, tmp_path)
    assert refused.returncode == 2 and "Read-only file system" in refused.stderr, refused.stderr
    assert "Traceback" not in refused.stderr and "hint: " in refused.stderr
    subprocess.run(command, check=True, capture_output=True)
    done = read_only(store, command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "done before" in done.stderr and "the report is not written" in done.stderr and "rows in 400" in done.stdout


@pytest.mark.parametrize(
    "make",
    [
        lambda: OSError(28, "No space left on device"),
        lambda: shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
        lambda: RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        lambda: RuntimeError(
            "[enforce fail at inline_container.cc:664] PytorchStreamWriter failed writing file data/0"
        ),
        lambda: OSError(27, "File too large"),
        lambda: OSError(122, "Disk quota exceeded"),
    ],
)
def test_every_form_of_a_full_disk_is_known(make: Callable[[], BaseException]) -> None:
    told = explain_os_error(make())
    assert told is not None and told.hint is not None and "free some space" in told.hint


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from hanlin.core.files import write_text\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "try: write_text(Path(sys.argv[1]), 'x' * 10000)\n"
        "except OSError as error: print(error.filename)"
    )
    file = tmp_path / "a.txt"
    write_text(file, "before")
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(file)
    assert file.read_text() == "before" and os.listdir(tmp_path) == ["a.txt"]
