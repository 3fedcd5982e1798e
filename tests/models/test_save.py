"""A saved model is a complete folder: equal weights, everything an engine needs, reproducible bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import logits


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path) -> Path:
    save_model(load_model(tiny_model), tmp_path / "saved", tokenizer=Tokenizer.load(tiny_model))
    return tmp_path / "saved"


def test_a_saved_model_comes_back_bit_for_bit(saved: Path, tiny_model: Path) -> None:
    before, after = load_model(tiny_model).state_dict(), load_model(saved).state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_transformers_loads_a_saved_model(saved: Path, tiny_model: Path) -> None:
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(saved)), logits(load_model(tiny_model)))
    assert len(AutoTokenizer.from_pretrained(saved)) == len(Tokenizer.load(tiny_model))


def test_generation_config_and_config_name_every_stop_id(saved: Path) -> None:
    stops = list(ChatTemplate.load(saved).stop_ids)
    assert len(stops) > 1
    assert read(saved / "generation_config.json")["eos_token_id"] == stops
    assert read(saved / "config.json")["eos_token_id"] == stops


def test_rope_settings_have_the_names_of_old_and_new_readers(saved: Path) -> None:
    config = read(saved / "config.json")
    assert config["rope_theta"] == 10000.0
    assert config["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}


def test_rope_scaling_is_saved(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    stretched = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
    }  # fmt: skip
    model.config.rope_parameters = stretched
    save_model(model, tmp_path / "saved", tokenizer=Tokenizer.load(tiny_model))
    assert load_model(tmp_path / "saved").config.rope_parameters == stretched


def test_the_dtype_on_disk_is_the_one_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    files = save_model(
        load_model(tiny_model), tmp_path / "saved", tokenizer=Tokenizer.load(tiny_model), dtype="bfloat16"
    )
    assert files.dtype == "bfloat16"
    assert files.config["dtype"] == "bfloat16"


def test_equal_models_are_equal_bytes(saved: Path, tiny_model: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_model), tmp_path / "again", tokenizer=Tokenizer.load(tiny_model))
    assert all((tmp_path / "again" / file.name).read_bytes() == file.read_bytes() for file in saved.iterdir())


def test_shards_have_the_weights_of_one_file(saved: Path, tiny_model: Path, tmp_path: Path) -> None:
    save_model(
        load_model(tiny_model), tmp_path / "shards", tokenizer=Tokenizer.load(tiny_model), shard_bytes=100_000
    )  # fmt: skip
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "shards")), logits(load_model(saved)))


def test_files_of_an_earlier_save_are_replaced(saved: Path, tiny_model: Path) -> None:
    whole = {file.name for file in saved.iterdir()}
    save_model(load_model(tiny_model), saved, tokenizer=Tokenizer.load(tiny_model), shard_bytes=100_000)
    (saved / "model.safetensors.writing").write_bytes(b"cut")
    save_model(load_model(tiny_model), saved, tokenizer=Tokenizer.load(tiny_model))
    assert {file.name for file in saved.iterdir()} == whole


def test_a_tied_model_is_written_with_one_matrix(tied_model: Path) -> None:
    assert "lm_head.weight" not in load_file(tied_model / "model.safetensors")
    assert read(tied_model / "config.json")["tie_word_embeddings"] is True


def test_a_head_that_differs_from_its_embeddings_is_saved_untied(tied_model: Path, tmp_path: Path) -> None:
    model = load_model(tied_model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    save_model(model, tmp_path / "saved", tokenizer=Tokenizer.load(tied_model))
    assert read(tmp_path / "saved" / "config.json")["tie_word_embeddings"] is False
    assert torch.equal(logits(load_model(tmp_path / "saved")), logits(model))


def test_weights_that_are_not_finite_are_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    model.model.norm.weight.data[0] = float("inf")
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight"):
        save_model(model, tmp_path / "saved", tokenizer=Tokenizer.load(tiny_model))
    assert not (tmp_path / "saved").exists()


def test_gathered_weights_replace_those_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    gathered = {name: weight + 1 for name, weight in model.state_dict().items()}
    save_model(model, tmp_path / "saved", tokenizer=Tokenizer.load(tiny_model), state=gathered)
    assert torch.equal(load_file(tmp_path / "saved" / "model.safetensors")["model.norm.weight"],
                       gathered["model.norm.weight"])  # fmt: skip


def test_a_base_model_without_a_template_stops_at_its_end_of_text(tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    bare = Tokenizer(tokenizer.backend, tokenizer.config, tmp_path)
    save_model(load_model(tiny_model), tmp_path / "saved", tokenizer=bare)
    assert read(tmp_path / "saved" / "generation_config.json")["eos_token_id"] == tokenizer.eos_id
    assert not (tmp_path / "saved" / "chat_template.jinja").exists()


def test_the_weights_have_the_permissions_of_the_configuration(saved: Path) -> None:
    assert (saved / "model.safetensors").stat().st_mode == (saved / "config.json").stat().st_mode


def test_a_base_model_without_a_template_keeps_the_ends_that_it_names(tiny_model: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny_model, tmp_path / "source"))
    (source / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}), encoding="utf-8")
    (source / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer = Tokenizer.load(source)
    assert find_template(tokenizer) is None
    save_model(load_model(source), tmp_path / "out", tokenizer=tokenizer)
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "out" / name).read_text(encoding="utf-8"))
        assert written["eos_token_id"] == [tokenizer.eos_id, 5, 7]
