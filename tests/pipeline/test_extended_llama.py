"""An extended vocabulary keeps its ids through all that follows, with Llama's real tokenizers and small weights.

`tests/recipes/extended_llama.yaml`: new rows, the rows alone, LoRA, merge, instructions, merge, experts, LoRA over
them, merge, and a GGUF of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "recipes" / "extended_llama.yaml"
STEPS = ("base", "grown", "rows_trained", "base_zh", "merged", "sparse_merged")


def metrics(artifact: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["metrics"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "first_new_id"), [("llama2", 32_000), ("llama3", 128_256)])
def test_every_step_of_an_extended_model_has_one_set_of_ids_in_transformers_and_llama_cpp(
    name: str, first_new_id: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer").symlink_to(request.getfixturevalue(name))
    options = ["--home", str(tmp_path / "home"), "--set", f"root={tmp_path}", "--set", f"base.template={name}"]
    options += ["--set", f"rows_trained.trainable_tokens={first_new_id}"]
    subprocess.run([sys.executable, "-m", "hanlin", "run", str(RECIPE), *options], check=True, cwd=ROOT)
    run = tmp_path / "home" / "runs" / "extended_llama"

    entries = metrics(run / "grown")["entries"]
    assert (entries["before"], entries["after"]) == (first_new_id, first_new_id + 100)
    for step in STEPS:
        found = metrics(run / f"{step}_gguf")
        compared = {backend["name"].split()[0]: backend for backend in found["parity"]["backends"]}
        assert compared.keys() == {"transformers", "llama.cpp"}
        assert all(backend["mismatches"] == 0 and backend["cases"] > 300 for backend in compared.values()), step
        assert found["tokenizer"]["texts_tokenized_differently"] == 0
        assert found["tokenizer"]["vocabulary"] == entries["before" if step == "base" else "after"]
