"""What a plan says of a model that `import_gguf` will make is what it will be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.config.settings.export import Gguf
from hanlin.config.settings.surgery.import_gguf import ImportGguf
from hanlin.core.context import StageContext
from hanlin.estimate.gguf_shape import read_gguf_shape
from hanlin.estimate.shapes import ModelShape
from hanlin.export.gguf.source import load_source
from hanlin.export.gguf.writer import write_files
from tiny_llama import tie_embeddings

SETTINGS = ImportGguf(gguf="./g")


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_in_a_gguf_file_is_that_of_its_model(tied: bool, tmp_path: Path, tiny_model: Path) -> None:
    model = tie_embeddings(tmp_path / "tied", tiny_model) if tied else tiny_model
    folder = tmp_path / "gguf"
    folder.mkdir()
    write_files(["F32"], Gguf(model="./m", types=("F32",)), load_source(model), folder, StageContext())
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    assert read_gguf_shape(folder, SETTINGS) == ModelShape.of_config(config, "float32")
    (file,) = folder.glob("*.gguf")
    assert read_gguf_shape(file, ImportGguf(gguf="./g", dtype="bfloat16")) == ModelShape.of_config(config, "bfloat16")


def test_a_file_that_cannot_be_read_is_said_to_be_unknown(tmp_path: Path) -> None:
    assert read_gguf_shape(tmp_path, SETTINGS) == "there is no GGUF file here"
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    assert "GGUF" in str(read_gguf_shape(tmp_path, SETTINGS))
    (tmp_path / "a.gguf").write_bytes(b"nothing")
    assert read_gguf_shape(tmp_path, SETTINGS) == "not a GGUF file"
