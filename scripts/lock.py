"""Write `uv.lock` at the versions of `constraints.txt`, and prove that it names no registry but PyPI.

`make lock` runs it, as `python scripts/lock.py [UV]`; it needs a network and uv, whose path is UV (0.13 was run). The
lock is made twice: under constraints, and then from pyproject.toml alone, which keeps the versions that stand in the
file. So `uv lock --check` and `uv sync` need no list of constraints beside constraints.txt.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copy, copytree
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
FREE = ("protobuf",)
"""Packages of which two conflicting extras want different releases: no one constraint holds for both."""
HOSTS = {"pypi.org", "files.pythonhosted.org"}


def main(uv: str = "uv") -> None:
    """Lock in a copy of what uv reads, and put the file beside pyproject.toml.

    Args:
        uv: The program.

    Raises:
        SystemExit: uv has no solution, or the lock names another host.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if "==" in line and re.split("==", line)[0].lower() not in FREE]
    constraints = "".join(f'  "{pin}",\n' for pin in pins)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        for name in ("setup.py", "README.md", "LICENSE"):
            copy(ROOT / name, project / name)
        copytree(ROOT / "src" / "hanlin" / "core", project / "src" / "hanlin" / "core")  # the version is read from it
        copy(ROOT / "src" / "hanlin" / "__init__.py", project / "src" / "hanlin")
        held = text.replace("[tool.uv]\n", f"[tool.uv]\nconstraint-dependencies = [\n{constraints}]\n", 1)
        for content in (held, text):
            (project / "pyproject.toml").write_text(content, encoding="utf-8")
            done = subprocess.run([uv, "lock", "--default-index", "https://pypi.org/simple"], cwd=project, check=False)
            if done.returncode != 0:
                sys.exit(done.returncode)
        lock = (project / "uv.lock").read_text(encoding="utf-8")
    others = {urlsplit(url).hostname for url in re.findall(r'"(https?://[^"]+)"', lock)} - HOSTS
    if others:
        sys.exit(f"uv.lock names {', '.join(map(str, sorted(others, key=str)))}")
    (ROOT / "uv.lock").write_text(lock, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
