"""A package that a recipe makes carries in its card what it came from, back to the source files."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.config.recipe import build_recipe
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.hubs.upload import list_upload_files
from hanlin.pipeline.lineage import lineage
from hanlin.pipeline.run import run


@pytest.mark.slow
def test_a_recipes_package_names_its_stages_and_sources_and_is_whole(tmp_path: Path) -> None:
    text = tmp_path / "poems.txt"
    text.write_text("翰林院在城东，春天的时候院子里开满了花。\nThree plus four is seven.\n" * 20, encoding="utf-8")
    shape = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 2, "context_length": 64}
    stages = {
        "words": {"kind": "train_tokenizer", "text": str(text), "entries": 350, "template": "llama3"},
        "base": {"kind": "init_model", "tokenizer": "words", **shape},
        "packed": {"kind": "package", "model": "base", "target": "huggingface", "name": "xiaohan"},
    }
    store = Store(tmp_path / "home")
    run(build_recipe({"name": "r", "stages": stages}, "r.yaml"), store)
    folder = (store.runs / "r" / "packed").resolve()
    card = (folder / "README.md").read_text(encoding="utf-8")
    for said in ("train_tokenizer", "init_model", "hidden_size 32", "entries 350"):
        assert said in card, said
    assert str(tmp_path) not in card
    root = lineage(folder)
    assert [node.kind for node in root.walk()] == ["package", "init_model", "train_tokenizer", ""]
    assert {item.path for item in list_upload_files(folder)} >= {"README.md", "config.json", "model.safetensors"}
