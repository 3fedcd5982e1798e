"""What a person names and what is found there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.evaluate.predictions import PredictSettings, _inputs_hash
from hanlin.inference.loading import ModelLocation, find_model, list_model_files, load_engine, parse_model_spec


@pytest.fixture()
def quants(tmp_path: Path) -> Path:
    """A folder of GGUF files as export names them: only names and sizes count here."""
    for kind, size in (("Q4_K_M", 40), ("Q8_0", 80), ("Q4_0", 40)):
        (tmp_path / f"model-{kind}.gguf").write_bytes(b"x" * size)
    return tmp_path


def test_a_gguf_file_is_chosen_by_its_type(quants: Path) -> None:
    assert find_model(quants, "q4_k_m").weights.name == "model-Q4_K_M.gguf"


def test_a_gguf_file_is_chosen_by_its_name(quants: Path) -> None:
    assert find_model(quants, "model-Q4_0.gguf").weights.name == "model-Q4_0.gguf"


def test_without_a_choice_the_file_that_lost_least_is_taken(quants: Path) -> None:
    assert find_model(quants).weights.name == "model-Q8_0.gguf"


def test_a_gguf_file_may_be_named_itself(quants: Path) -> None:
    found = find_model(quants / "model-Q4_0.gguf")
    assert (found.kind, found.folder, found.name) == ("gguf", found.weights, "model-Q4_0")
    (quants / "tokenizer.json").touch()
    assert find_model(quants / "model-Q4_0.gguf").folder == quants


def test_a_type_that_is_not_there_is_refused_with_what_is(quants: Path) -> None:
    with pytest.raises(UserError, match=r"no GGUF file matches 'Q6_K' .*model-Q4_0.gguf, model-Q4_K_M.gguf"):
        find_model(quants, "Q6_K")


def test_a_model_folder_is_found_and_called_by_its_name(tiny_model: Path) -> None:
    found = find_model(tiny_model)
    assert (found.kind, found.weights, found.name) == ("model", tiny_model, tiny_model.name)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model here"):
        find_model(tmp_path)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        find_model(tmp_path / "nowhere")


def test_a_choice_among_files_that_are_not_there_is_refused(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="'Q8_0' was asked for"):
        find_model(tiny_model, "Q8_0")


def test_an_engine_that_cannot_run_the_file_is_refused(quants: Path, tiny_model: Path) -> None:
    with pytest.raises(UserError, match="transformers does not run"):
        load_engine(quants, engine="transformers")
    with pytest.raises(UserError, match="llama_cpp does not run"):
        load_engine(tiny_model, engine="llama_cpp")


def test_a_file_that_is_not_gguf_is_refused_before_it_is_loaded(quants: Path) -> None:
    with pytest.raises(UserError, match="GGUF file"):
        load_engine(quants)


@pytest.mark.parametrize(
    ("text", "path", "choice"),
    [
        ("runs/gguf:Q8_0", "runs/gguf", "Q8_0"),
        ("runs/gguf", "runs/gguf", ""),
        ("C:\\models", "C:\\models", ""),
        ("a:b/c", "a:b/c", ""),
    ],
)
def test_a_suffix_after_a_colon_chooses_a_file(text: str, path: str, choice: str) -> None:
    assert parse_model_spec(text) == (Path(path), choice)


def test_a_path_that_holds_a_colon_and_exists_is_a_path(tmp_path: Path) -> None:
    (tmp_path / "gguf:Q8_0").mkdir()
    assert parse_model_spec(str(tmp_path / "gguf:Q8_0")) == (tmp_path / "gguf:Q8_0", "")


def test_an_adapter_without_a_tokenizer_takes_that_of_its_base(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny_model)}))
    found = find_model(tmp_path)
    assert (found.kind, found.weights, found.folder) == ("adapter", tmp_path, tiny_model)
    (tmp_path / "tokenizer.json").touch()
    assert find_model(tmp_path).folder == tmp_path


def test_products_in_bfloat16_are_for_the_engine_transformers(quants: Path) -> None:
    with pytest.raises(UserError, match="for the engine transformers"):
        load_engine(quants, precision="bfloat16")


def test_every_file_that_an_answer_depends_on_is_listed(tmp_path: Path) -> None:
    """A run that goes on from kept answers compares them."""
    for folder in ("gguf", "base", "adapter"):
        (tmp_path / folder).mkdir()
    for name in (
        "gguf/m.gguf",
        "gguf/other.gguf",
        "gguf/tokenizer.json",
        "gguf/chat_template.jinja",
        "base/config.json",
    ):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    base = json.dumps({"base_model_name_or_path": "../base"})
    (tmp_path / "adapter/adapter_config.json").write_text(base, encoding="utf-8")
    gguf = ModelLocation(tmp_path / "gguf/m.gguf", tmp_path / "gguf", "gguf")
    assert [file.name for file in list_model_files(gguf)] == ["m.gguf", "tokenizer.json", "chat_template.jinja"]
    adapter = ModelLocation(tmp_path / "adapter", tmp_path / "base", "adapter")
    assert [file.name for file in list_model_files(adapter)] == ["adapter_config.json", "config.json"]
    hashes = []
    for text in ("{}", "{} "):
        (tmp_path / "gguf/chat_template.jinja").write_text(text, encoding="utf-8")
        hashes.append(_inputs_hash(gguf, [], PredictSettings()))
    assert hashes[0] != hashes[1]
