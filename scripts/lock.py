"""Write `uv.lock` at the versions of `constraints.txt`: `python scripts/lock.py`, where there is uv and a network.

uv resolves in a copy of `pyproject.toml` to which the versions are added, and then once more without them: it keeps
what a lock holds, so that `pyproject.toml` need not repeat `constraints.txt`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV_LOCK = ("uv", "lock", "--no-config", "--default-index", "https://pypi.org/simple")
"""Settings of this machine, such as a mirror, would go into the file."""


def main() -> None:
    pins = re.findall(r"^[\w.\[\]-]+==[^\s;#]+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary)
        for name in ("README.md", "LICENSE", "setup.py"):
            shutil.copy(ROOT / name, copy)
        shutil.copytree(ROOT / "src", copy / "src")
        pinned = project.replace("\n[tool.uv]\n", f"\n[tool.uv]\nconstraint-dependencies = {json.dumps(pins)}\n")
        assert pinned != project, "pyproject.toml has no [tool.uv]"
        (copy / "pyproject.toml").write_text(pinned, encoding="utf-8")
        subprocess.run(UV_LOCK, cwd=copy, check=True)
        shutil.copy(copy / "uv.lock", ROOT)
    subprocess.run(UV_LOCK, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
