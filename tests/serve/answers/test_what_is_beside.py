"""What lies beside a model's weights is its own, and what is not there is read where it is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from gguf import LlamaFileType

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf
from hanlin.config.settings.model import LoraSettings
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.export.gguf.export import run
from hanlin.inference.loading import find_model, load_engine, load_template
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from hanlin.serve.admission import Limits
from hanlin.serve.api.ollama.model_info import describe_in_full
from hanlin.serve.loaded_model import EngineConfig, LoadedModel
from hanlin.serve.registry import GenerationParams, ServedModel
from hanlin.tokenizer.generation_config import write_sampling_params
from hanlin.tokenizer.gguf_metadata import _FILE_TYPES
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.train import train_byte_level_bpe
from tiny_gguf import Exported
from tiny_llama import tiny_llama

DEFAULTS = {"temperature": 0.5, "top_p": 0.75}


@pytest.fixture(scope="module")
def exported(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("exported") / "model"
    template = ChatTemplate.load(tiny_tokenizer)
    tiny_llama(folder, template.tokenizer, seed=0, eos_token_id=list(template.stop_ids), num_hidden_layers=1)
    template.save(folder)
    write_sampling_params(folder, DEFAULTS)
    out = folder / "gguf"
    out.mkdir()
    run(Gguf(model="./m", types=("F16",), compare=False), Inputs({"model": (folder,)}), out, StageContext())
    return Exported(folder, out / "model-F16.gguf", [])


@pytest.fixture
def lone(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported.file, tmp_path / "lone-F16.gguf"))


@pytest.mark.parametrize("is_longer", [False, True], ids=["shorter", "longer"])
def test_a_gguf_file_beside_another_models_tokenizer_is_refused(lone: Path, is_longer: bool) -> None:
    own = Tokenizer.load(lone)
    other = train_byte_level_bpe(["天地玄黄宇宙洪荒" * 40], len(own) + (40 if is_longer else -40), (), Path())
    other.save(lone.parent)
    with pytest.raises(UserError, match=r"beside this file is another model's: [\d,]+ of [\d,]+ tokens differ"):
        load_engine(lone)


def test_a_gguf_file_beside_its_own_tokenizer_is_loaded(lone: Path, exported: Exported) -> None:
    Tokenizer.load(exported.folder).save(lone.parent)
    load_engine(lone).engine.close()


def test_stop_ids_and_sampling_defaults_that_are_not_beside_a_gguf_file_are_those_in_it(
    lone: Path, exported: Exported
) -> None:
    alone = load_template(find_model(lone)).stop_ids
    Tokenizer.load(exported.folder).save(lone.parent)
    (lone.parent / "generation_config.json").unlink()
    opened = load_engine(lone)
    try:
        served = ServedModel("tiny", opened, Limits())
        assert set(served.stop_ids) == set(alone)
        sampling = served.make_job([(1,)], GenerationParams(), "prompt").requests[0].sampling
        assert (sampling.temperature, sampling.top_p) == (DEFAULTS["temperature"], DEFAULTS["top_p"])
    finally:
        opened.engine.close()


@pytest.fixture(scope="module")
def base(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose generation settings name a further stop id, and sampling defaults."""
    folder = tmp_path_factory.mktemp("base") / "model"
    shutil.copytree(tiny_model, folder)
    write_sampling_params(folder, DEFAULTS)
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8"))
    stops = generation["eos_token_id"]
    generation["eos_token_id"] = [*(stops if isinstance(stops, list) else [stops]), 11]
    file.write_text(json.dumps(generation), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As most trainers save it: with the tokenizer and the template, without `generation_config.json`."""
    folder = tmp_path_factory.mktemp("adapter") / "red"
    save_adapter(attach_lora(load_model(base), LoraSettings(rank=2), seed=0), folder, base=base)
    ChatTemplate.load(base).save(folder)
    (folder / "generation_config.json").unlink()
    return folder


def test_an_adapter_without_generation_settings_stops_and_samples_as_its_base(base: Path, adapter: Path) -> None:
    location = find_model(adapter)
    assert location.folder == adapter and location.settings_folder.resolve() == base.resolve()
    assert 11 in load_template(location).stop_ids

    loaded = LoadedModel(str(base), {"red": adapter}, EngineConfig(options={"separate_process": False}), Limits())
    loaded.load()
    try:
        plain, red = loaded.served
        assert red.stop_ids == plain.stop_ids and 11 in red.stop_ids
        sampled = [model.make_job([(1,)], GenerationParams(), "prompt").requests[0].sampling for model in (plain, red)]
        assert sampled[0] == sampled[1] and sampled[0].temperature == DEFAULTS["temperature"]
    finally:
        loaded.close()


def test_what_changes_beside_a_gguf_file_makes_it_stale(lone: Path, exported: Exported) -> None:
    ChatTemplate.load(exported.folder).save(lone.parent)
    loaded = LoadedModel(str(lone), {}, EngineConfig(options={"separate_process": False}), Limits())
    loaded.load()
    loaded.close()
    assert not loaded.is_stale
    for name in ("chat_template.jinja", "generation_config.json"):
        status = (lone.parent / name).stat()
        os.utime(lone.parent / name, ns=(1, 1))
        assert loaded.is_stale
        os.utime(lone.parent / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    (lone.parent / "notes.txt").write_text("x", encoding="utf-8")
    assert not loaded.is_stale


def test_ollamas_clients_hear_what_a_gguf_file_holds_whatever_it_is_called(lone: Path) -> None:
    named = lone.rename(lone.parent / "my-model.Q8_0.gguf")
    opened = load_engine(named)
    try:
        shown = describe_in_full(ServedModel("tiny", opened, Limits()))
    finally:
        opened.engine.close()
    assert shown["details"]["quantization_level"] == "F16" and shown["details"]["parameter_size"]
    assert shown["model_info"]["llama.block_count"] == 1
    assert shown["model_info"]["llama.embedding_length"] > 1


def test_the_numbers_of_file_types_are_those_of_llama_cpp() -> None:
    known = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
    assert {number: name for number, name in known.items() if number < 1024} == _FILE_TYPES
