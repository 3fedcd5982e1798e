"""Files of others that the page is made with: unchanged, listed with version and license, and nothing else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

VENDOR = Path(__file__).resolve().parents[2] / "src" / "hanlin" / "web" / "static" / "vendor"
ROW = re.compile(r"^\| `(\S+)` \| \S+ \| [\d.]+ \| `\S+` \| .+? \(\[text\]\((\S+)\)\) \| `([0-9a-f]{64})` \|$", re.M)
ROWS = ROW.findall((VENDOR / "README.md").read_text(encoding="utf-8"))


def test_every_file_of_others_is_listed_with_its_license() -> None:
    files = {file.name for file in VENDOR.iterdir() if file.is_file()} - {"README.md"}
    assert {name for name, _, _ in ROWS} == files
    assert all((VENDOR / license).stat().st_size > 200 for _, license, _ in ROWS)


def test_no_file_of_others_was_changed() -> None:
    assert {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name, _, _ in ROWS} == {
        name: digest for name, _, digest in ROWS
    }
