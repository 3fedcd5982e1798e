"""The stage `init_model`: the shapes asked for, weights from the seed alone, and a folder that can be served."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import InitModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.models import init_model
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import logits

SMALL = {"tokenizer": "./t", "hidden_size": 32, "layers": 2, "heads": 4, "key_value_heads": 2, "context_length": 64}


def make(tokenizer: Path, out: Path, seed: int = 3, **more: Any) -> dict[str, Any]:
    out.mkdir()
    settings = InitModel.model_validate({**SMALL, **more})
    return init_model.run(settings, Inputs({"tokenizer": (tokenizer,)}), out, StageContext(seed=seed))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_new_model_can_be_loaded(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "new")
    assert logits(load_model(tmp_path / "new")).shape == (1, 8, len(Tokenizer.load(tiny_tokenizer)))


def test_the_shapes_are_those_of_the_settings(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "new", intermediate_size=48, rope_theta=5e5)
    config = check_model_folder(tmp_path / "new").config
    named = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    assert [config[name] for name in named] == [32, 2, 4, 2, 48]
    assert (config["max_position_embeddings"], config["rope_theta"]) == (64, 5e5)


def test_equal_seeds_give_equal_bytes(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "one")
    make(tiny_tokenizer, tmp_path / "other")
    assert files_of(tmp_path / "one") == files_of(tmp_path / "other")


def test_another_seed_gives_another_model(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "one", seed=1)
    make(tiny_tokenizer, tmp_path / "other", seed=2)
    assert not torch.equal(weights(tmp_path / "one")["lm_head.weight"], weights(tmp_path / "other")["lm_head.weight"])


def test_initializing_a_model_leaves_the_global_random_state_alone(tiny_tokenizer: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    make(tiny_tokenizer, tmp_path / "new")
    assert torch.equal(torch.get_rng_state(), before)


def test_files_of_a_killed_run_change_nothing(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "whole")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "again" / "generation_config.json").write_text('{"eos_token_id": 1}', encoding="utf-8")
    settings = InitModel.model_validate(SMALL)
    init_model.run(settings, Inputs({"tokenizer": (tiny_tokenizer,)}), tmp_path / "again", StageContext(seed=3))
    assert files_of(tmp_path / "again") == files_of(tmp_path / "whole")


def test_tied_embeddings_are_written_once(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "new", tie_embeddings=True)
    assert "lm_head.weight" not in weights(tmp_path / "new")


def test_bfloat16_on_disk_is_the_rounded_float32_model(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "fine")
    make(tiny_tokenizer, tmp_path / "coarse", dtype="bfloat16")
    coarse = weights(tmp_path / "coarse")
    assert all(torch.equal(coarse[name], weight.bfloat16()) for name, weight in weights(tmp_path / "fine").items())


def test_the_vocabulary_rows_are_the_tokenizers_entries(tiny_tokenizer: Path, tmp_path: Path) -> None:
    metrics = make(tiny_tokenizer, tmp_path / "new")
    assert metrics["vocabulary_rows"] == metrics["vocabulary_entries"] == len(Tokenizer.load(tiny_tokenizer))


def test_the_vocabulary_rows_are_padded_when_asked(tiny_tokenizer: Path, tmp_path: Path) -> None:
    metrics = make(tiny_tokenizer, tmp_path / "new", vocabulary_multiple=64)
    assert metrics["vocabulary_rows"] % 64 == 0
    assert 0 <= metrics["vocabulary_rows"] - metrics["vocabulary_entries"] < 64


def test_the_count_of_parameters_is_that_of_the_file(tiny_tokenizer: Path, tmp_path: Path) -> None:
    metrics = make(tiny_tokenizer, tmp_path / "new")
    assert metrics["parameters"] == sum(weight.numel() for weight in weights(tmp_path / "new").values())


def test_residual_projections_are_initialized_smaller(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "new", hidden_size=256)
    deviation = {name: weight.std().item() for name, weight in weights(tmp_path / "new").items()}
    assert deviation["model.layers.0.mlp.up_proj.weight"] == pytest.approx(0.02, rel=0.02)
    assert deviation["model.layers.0.mlp.down_proj.weight"] == pytest.approx(0.01, rel=0.02)


def test_every_stop_id_is_in_the_new_folder(tiny_tokenizer: Path, tmp_path: Path) -> None:
    metrics = make(tiny_tokenizer, tmp_path / "new")
    generation = json.loads((tmp_path / "new" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == metrics["stop_ids"] == list(ChatTemplate.load(tiny_tokenizer).stop_ids)


def test_the_feed_forward_width_follows_the_rule_of_llama(tiny_tokenizer: Path) -> None:
    widths = {size: InitModel(tokenizer="./t", hidden_size=size).feed_forward for size in (96, 384, 512, 4096)}
    assert widths == {96: 256, 384: 1024, 512: 1536, 4096: 11008}


@pytest.mark.parametrize(("name", "value"), [("hidden_size", 36), ("key_value_heads", 3), ("layers", 0)])
def test_shapes_that_do_not_fit_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValidationError):
        InitModel.model_validate({**SMALL, name: value})


def test_a_named_template_replaces_a_missing_one(tiny_tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare" / name).write_bytes((tiny_tokenizer / name).read_bytes())
    make(tmp_path / "bare", tmp_path / "new", template="llama3")
    hello = [Message("user", "你好")]
    expected = ChatTemplate.load(tiny_tokenizer).render(hello, prompt=True).ids
    assert ChatTemplate.load(tmp_path / "new").render(hello, prompt=True).ids == expected


def test_an_unknown_template_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="llama33"):
        make(tiny_tokenizer, tmp_path / "new", template="llama33")


def pack(tokenizer: Path, folder: Path) -> Path:
    (folder / "instruct").mkdir(parents=True)
    (folder / "tokenizer.json.gz").write_bytes(gzip.compress((tokenizer / "tokenizer.json").read_bytes()))
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        (folder / "instruct" / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def test_a_compressed_tokenizer_is_the_same_tokenizer(tiny_tokenizer: Path, tmp_path: Path) -> None:
    make(tiny_tokenizer, tmp_path / "plain")
    make(pack(tiny_tokenizer, tmp_path / "packed"), tmp_path / "unpacked")
    assert weights(tmp_path / "plain").keys() == weights(tmp_path / "unpacked").keys()
    assert files_of(tmp_path / "plain")["tokenizer.json"] == files_of(tmp_path / "unpacked")["tokenizer.json"]
    assert files_of(tmp_path / "plain")["chat_template.jinja"] == files_of(tmp_path / "unpacked")["chat_template.jinja"]


def test_a_damaged_compressed_tokenizer_is_refused(tiny_tokenizer: Path, tmp_path: Path) -> None:
    packed = pack(tiny_tokenizer, tmp_path / "packed")
    whole = (packed / "tokenizer.json.gz").read_bytes()
    (packed / "tokenizer.json.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        make(packed, tmp_path / "new")


def test_a_model_is_initialized_for_the_real_llama3_tokenizer(shared_data: Path, tmp_path: Path) -> None:
    metrics = make(shared_data / "tokenizer" / "llama3", tmp_path / "new", hidden_size=8, heads=2, template="llama3")
    assert metrics["vocabulary_rows"] == 128_256
    assert metrics["stop_ids"] == [128_001, 128_009]
    tokenizer = Tokenizer.load(tmp_path / "new")
    assert tokenizer.decode(tokenizer.encode("翰林院 Academy 2024")) == "翰林院 Academy 2024"
