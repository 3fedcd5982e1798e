"""The sampling defaults of a model are those of its `generation_config.json`, in a GGUF file too."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from hanlin.export.gguf.writer import add_sampling
from hanlin.tokenizer.generation_config import read_sampling_params, write_sampling_params

SAMPLED = {"temperature": 0.3, "top_p": 0.9, "top_k": 40, "min_p": 0.15, "repetition_penalty": 1.05}


def test_every_default_is_read_and_written_to_a_folder_and_to_a_gguf_file(tmp_path: Path) -> None:
    config = {"do_sample": True, **SAMPLED, "eos_token_id": 2}
    (tmp_path / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    params = read_sampling_params(tmp_path)
    assert params == SAMPLED
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    add_sampling(writer, params)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_sampling_params(tmp_path / "model.gguf") == pytest.approx(SAMPLED)
    write_sampling_params(tmp_path, {"temperature": 0.7})
    assert read_sampling_params(tmp_path) == {"temperature": 0.7}
