"""A signal at any moment ends a command in time, with the right exit code, no process left; the next run goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from test_killed_at_any_moment import ROOT, command, visible_artifacts_are_whole, weights_of

from endings import CODES, Ending, end_by

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

SECONDS = float(os.environ.get("HANLIN_SECONDS_TO_END", "60"))
"""Within which a command ends. 1.5 holds on a quiet machine: a second, and the process around it."""
TRIES = int(os.environ.get("HANLIN_SIGNALS", "20"))


def assert_ended(ending: Ending, number: signal.Signals, what: str, codes: Sequence[int] = ()) -> None:
    assert ending.left == [], f"{what}: {ending}"
    if "Traceback" in ending.output and "/hanlin/cli/" not in ending.output:
        return  # Python itself was starting, before the first line of the command
    assert ending.code in (CODES[number], *codes), f"{what}: {ending}"
    assert "Traceback" not in ending.output, f"{what}: {ending.output}"
    if "saved after step" not in ending.output:
        assert ending.seconds < SECONDS, f"{what}: {ending}"


def moments(longest: float, seed: int) -> Iterator[tuple[float, signal.Signals]]:
    """Seeded moments and signals."""
    random_numbers = random.Random(seed)
    for index in range(TRIES):
        yield random_numbers.uniform(0.02, longest), list(CODES)[index % 3]


def test_a_signal_at_the_start_and_in_a_stage_ends_a_run(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nstages: { world: { kind: demo_world, passages: 50000 } }\n", encoding="utf-8")
    for moment, number in ((0.05, signal.SIGINT), (0.5, signal.SIGHUP), (2.0, signal.SIGTERM)):
        ending = end_by(["run", str(recipe), "--home", str(tmp_path)], number, moment, cwd=tmp_path)
        if ending.signaled:
            assert_ended(ending, number, f"{number.name} after {moment} s")


@pytest.mark.slow
def test_a_run_ended_at_many_moments_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    begun = time.monotonic()
    subprocess.run(command(unbroken), check=True, cwd=ROOT)
    longest = time.monotonic() - begun
    for moment, number in moments(longest, seed=1):
        ending = end_by(command(broken)[3:], number, moment, cwd=ROOT)
        if ending.signaled:
            assert_ended(ending, number, f"{number.name} after {moment:.2f} s")
            if (broken / "artifacts").is_dir():
                visible_artifacts_are_whole(broken)
        else:
            assert ending.code == 0, ending.output
            shutil.rmtree(broken)  # it came through: begin anew, so that there is more to end
    subprocess.run(command(broken), check=True, cwd=ROOT)
    assert weights_of(broken) == weights_of(unbroken)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models")
    subprocess.run(command(home), check=True, cwd=ROOT)
    return home / "runs" / "short_pipeline"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "serve {models}/gguf:Q8_0 --port 0",
        "serve {models}/merged --port 0",
        "gguf --model {models}/merged --types [Q8_0,Q4_0]",
        "package {models}/gguf --for llama_cpp --file Q8_0 --out package",
        "generate {models}/gguf:Q8_0 --data questions.txt --out answers.json --max-new-tokens 200",
        "template check {models}/merged",
        "chat {models}/gguf:Q8_0 -m 你好 --max-new-tokens 200",
    ],
    ids=lambda words: "_".join(words.split()[:2]).replace("{models}/", ""),
)
def test_a_command_ended_at_many_moments_leaves_nothing_half_made(words: str, models: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("\n".join(f"第{n}题？" for n in range(400)), encoding="utf-8")
    for moment, number in moments(8.0, seed=2):
        if words.startswith("serve") and number == signal.SIGHUP:
            continue  # it loads the models again
        home = tmp_path / "home"
        home.mkdir()
        # a server that has begun to serve lets answers end, and that is no failure
        codes = [0] if words.startswith("serve") and number == signal.SIGTERM else []
        environment = {"HANLIN_HOME": str(home)}
        ending = end_by(words.format(models=models).split(), number, moment, cwd=tmp_path, env=environment)
        if ending.signaled:
            assert_ended(ending, number, f"{number.name} after {moment:.2f} s", codes)
            assert not (tmp_path / "package").exists() and not (tmp_path / "answers.json").exists()
        for path in (tmp_path / "package", tmp_path / "answers.json.partial", home):
            shutil.rmtree(path, ignore_errors=True)
        (tmp_path / "answers.json").unlink(missing_ok=True)


def test_a_stage_that_is_killed_or_crashes_is_told_with_the_way_out(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: r\nstages: { world: { kind: demo_world, passages: 50000 } }\n", encoding="utf-8")
    code = (
        "import os, sys, threading, time, signal; from hanlin.core.process import descendants\n"
        "def strike():\n"
        "    while len(found := descendants(os.getpid())) < 2: time.sleep(0.01)\n"
        "    time.sleep(0.3); os.kill(found[-1], NUMBER)\n"
        "threading.Thread(target=strike, daemon=True).start()\n"
        "from hanlin.cli.main import main; main()"
    )
    for number, told in ((9, "as systems do when memory runs out"), (11, "crashed (signal 11)"), (15, "from outside")):
        words = ["run", str(recipe), "--home", str(tmp_path)]
        environment = {**os.environ, "HANLIN_LANG": "en", "PYTHONPATH": os.pathsep.join(sys.path)}
        run = [sys.executable, "-c", code.replace("NUMBER", str(number)), *words]
        done = subprocess.run(run, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 2 and told in done.stderr and "hint: " in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
