"""Meta's original layout and pickled weights become model folders and go back, to the bit, and run nothing."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rights_tried
from hanlin.config.settings.surgery.export_checkpoint import ExportCheckpoint
from hanlin.config.settings.surgery.import_checkpoint import ImportCheckpoint
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_json
from hanlin.core.process import run_bounded
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.layouts import export_checkpoint, import_checkpoint, meta, pickles
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from meta_equations import reference_logits
from tiny_llama import LLAMA3_ROPE, tiny_llama

Make = Callable[..., Path]


def import_from(folder: Path, out: Path, tokenizer: Path | None = None, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    inputs = Inputs({"checkpoint": (folder,), "tokenizer": () if tokenizer is None else (tokenizer,)})
    return import_checkpoint.run(
        ImportCheckpoint.model_validate({"checkpoint": "./c", **settings}), inputs, out, StageContext()
    )


def export_to(model: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    checked = ExportCheckpoint.model_validate({"model": "./m", **settings})
    return export_checkpoint.run(checked, Inputs({"model": (model,)}), out, StageContext())


@pytest.fixture(scope="session")
def make_model(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Saves a random model of 4 heads that share 2 key-value heads; its vocabulary is a multiple of 4."""

    def make(dtype: torch.dtype = torch.float32, **config: Any) -> Path:
        tokenizer = Tokenizer.load(tiny_tokenizer)
        folder = tmp_path_factory.mktemp("model") / "model"
        vocab_size = -(-len(tokenizer) // 4) * 4
        sizes = {"vocab_size": vocab_size, "initializer_range": 0.2, "tie_word_embeddings": False}
        tiny_llama(folder, tokenizer, seed=1, dtype=dtype, **{**sizes, **config})
        tokenizer.save(folder)
        return folder

    return make


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads pickles here: to start a process with torch takes seconds."""

    def convert(_: str, request: dict[str, Any], **limits: Any) -> dict[str, Any]:
        for index, (file, out_path) in enumerate(request["files"]):
            with Path(out_path).open("wb") as out:
                problem = pickles.convert(file, out)
            if problem:
                return {"file": index, "problem": problem}
        return {"file": 0, "problem": ""}

    monkeypatch.setattr(pickles, "run_bounded", convert)


@torch.no_grad()
def test_a_checkpoint_has_the_logits_of_metas_equations(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    export_to(model, tmp_path / "meta")
    weights = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True)
    ids = list(range(5, 25))
    expected = reference_logits(weights, read_json(tmp_path / "meta" / "params.json"), ids)
    actual = load_model(model)(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("in_this_process")
def test_there_and_back_every_weight_keeps_its_bits(
    make_model: Make, tmp_path: Path, shards: int, dtype: torch.dtype
) -> None:
    model = make_model(dtype)
    assert export_to(model, tmp_path / "meta", shards=shards)["files"] == shards
    metrics = import_from(tmp_path / "meta", tmp_path / "back", model)
    source, back = load_file(model / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert source.keys() == back.keys() and metrics["tensors_verified"] == len(source)
    assert all(torch.equal(back[name], weight) and back[name].dtype == dtype for name, weight in source.items())


@pytest.mark.usefixtures("in_this_process")
def test_the_configuration_comes_back(make_model: Make, tmp_path: Path) -> None:
    rope = {**LLAMA3_ROPE, "original_max_position_embeddings": 8192, "factor": 32.0}
    model = make_model(rope_parameters=rope, intermediate_size=101, rms_norm_eps=1e-5)
    export_to(model, tmp_path / "meta")
    params = read_json(tmp_path / "meta" / "params.json")
    hidden = int(params["ffn_dim_multiplier"] * int(2 * 4 * params["dim"] / 3))
    assert -(-hidden // params["multiple_of"]) * params["multiple_of"] == 101
    import_from(tmp_path / "meta", tmp_path / "back", model, context_length=256)
    before, after = (check_model_folder(folder).config for folder in (model, tmp_path / "back"))
    names = ("hidden_size", "intermediate_size", "num_key_value_heads", "rms_norm_eps", "max_position_embeddings")
    assert {name: before[name] for name in names} == {name: after[name] for name in names}
    assert {name: after["rope_parameters"][name] for name in rope} == rope


@pytest.mark.usefixtures("in_this_process")
def test_a_tied_model_stays_tied(make_model: Make, tmp_path: Path) -> None:
    model = make_model(tie_word_embeddings=True)
    export_to(model, tmp_path / "meta")
    assert import_from(tmp_path / "meta", tmp_path / "back", model)["tied_embeddings"]


@pytest.mark.usefixtures("in_this_process")
def test_embeddings_that_are_split_by_columns_are_put_together(make_model: Make, tmp_path: Path) -> None:
    model = make_model()
    export_to(model, tmp_path / "meta", shards=2)
    files = [tmp_path / "meta" / f"consolidated.{index:02d}.pth" for index in range(2)]
    shards = [torch.load(file, weights_only=True) for file in files]
    whole = torch.cat([shard["tok_embeddings.weight"] for shard in shards])
    for index, file in enumerate(files):  # as in Llama 2
        shards[index]["tok_embeddings.weight"] = whole.chunk(2, 1)[index].clone()
        shards[index]["rope.freqs"] = torch.ones(8)
        torch.save(shards[index], file)
    import_from(tmp_path / "meta", tmp_path / "back", model)
    assert torch.equal(
        load_file(tmp_path / "back" / "model.safetensors")["model.embed_tokens.weight"],
        load_file(model / "model.safetensors")["model.embed_tokens.weight"],
    )


def pickled_folder(model: Path, folder: Path, parts: int = 1, *, old: bool = False) -> Path:
    """The model with pickled weights, as older hubs have it."""
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    weights = list(load_file(model / "model.safetensors").items())
    names = [f"pytorch_model-{index + 1:05d}-of-{parts:05d}.bin" for index in range(parts)]
    names = names if parts > 1 else ["pytorch_model.bin"]
    for index, name in enumerate(names):
        torch.save(dict(weights[index::parts]), folder / name, _use_new_zipfile_serialization=not old)
    if parts > 1:
        weight_map = {name: names[index % parts] for index, (name, _) in enumerate(weights)}
        write_json(folder / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    return folder


@pytest.mark.parametrize(("parts", "old"), [(1, True), (2, False)], ids=["one_old_file", "two_files"])
def test_pickled_weights_keep_their_bits(
    make_model: Make, tmp_path: Path, request: pytest.FixtureRequest, parts: int, old: bool
) -> None:
    if old:
        request.getfixturevalue("in_this_process")
    model = make_model(torch.bfloat16)
    metrics = import_from(pickled_folder(model, tmp_path / "pickled", parts, old=old), tmp_path / "back")
    source, back = load_file(model / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert source.keys() == back.keys() and metrics["files"] == parts and metrics["dtype"] == "bfloat16"
    assert all(torch.equal(back[name], weight) for name, weight in source.items())
    load_model(tmp_path / "back")


class Program:
    """A pickle of it runs a command when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def write_hostile(path: Path, kind: str, mark: Path) -> None:
    weights: Any = {"a": torch.ones(2)}
    if kind == "program":
        path.write_bytes(pickle.dumps({"a": Program(mark)}))
    elif kind == "program_in_zip":
        torch.save({"a": Program(mark)}, path)
    elif kind == "huge":
        torch.save({"a": torch.zeros(1).expand(1 << 40)}, path)
    elif kind == "nested":
        torch.save({"model": weights}, path)
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 4)
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("kind", ["program", "program_in_zip", "huge", "nested", "noise", "empty", "cut"])
def test_a_pickle_of_anything_but_weights_ends_in_one_sentence_and_runs_nothing(
    tmp_path: Path, in_this_process: None, kind: str
) -> None:
    refuse_pickle(tmp_path, kind)


def test_the_child_refuses_a_program_too(tmp_path: Path) -> None:
    refuse_pickle(tmp_path, "program_in_zip")


def refuse_pickle(folder: Path, kind: str) -> None:
    file = folder / "pytorch_model.bin"
    write_hostile(file, kind, folder / "mark")
    sentence = "the file is empty" if kind == "empty" else "not a file of weights alone"
    with pytest.raises(UserError, match=sentence) as error:
        pickles.convert_pickles([file], [folder / "out.safetensors"])
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    assert not (folder / "mark").exists() and not (folder / "out.safetensors").exists()


def test_the_process_that_reads_a_pickle_can_do_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    support = str(Path(rights_tried.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([support, os.environ.get("PYTHONPATH", "")]))
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    results = run_bounded("rights_tried:try_everything", {"file": str(file)}, seconds=60)
    if not results:
        pytest.skip("this system has no seccomp")
    assert [results.pop(name) for name in ("read", "own limits")] == ["", ""]
    assert set(results.values()) == {"PermissionError"}, results


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("named_in", ["generation_config.json", "config.json"])
def test_with_another_folders_tokenizer_sampling_and_ends_are_the_checkpoints(
    make_model: Make, tmp_path: Path, named_in: str
) -> None:
    model = make_model()
    folder = pickled_folder(model, tmp_path / "pickled")
    settings = {"do_sample": True, "temperature": 0.6, "eos_token_id": 7}
    if named_in == "generation_config.json":
        write_json(folder / named_in, settings)
    else:
        (folder / "generation_config.json").unlink(missing_ok=True)
        write_json(folder / named_in, {**read_json(folder / named_in), "eos_token_id": 7})
    tokenizer = Path(shutil.copytree(model, tmp_path / "tokenizer"))
    own = Tokenizer.load(tokenizer).eos_id
    write_json(tokenizer / "generation_config.json", {"do_sample": True, "temperature": 0.1, "eos_token_id": own})
    import_from(folder, tmp_path / "back", tokenizer)
    generation = read_json(tmp_path / "back" / "generation_config.json")
    assert (
        {own, 7} <= set(generation["eos_token_id"]) == set(read_json(tmp_path / "back" / "config.json")["eos_token_id"])
    )
    assert generation["temperature"] == (0.6 if named_in == "generation_config.json" else 0.1)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "consolidated.00.pth").unlink(), "no consolidated.00.pth here"),
        (
            lambda folder: (folder / "consolidated.01.pth").unlink(),
            "1 of 2 weight files are missing: .*01.pth",
        ),
        (lambda folder: write_json(folder / "params.json", {"dim": 64}), "'n_layers' is None"),
        (lambda folder: (folder / "params.json").write_text("[]"), "not a JSON object"),
        (lambda folder: (folder / "params.json").unlink(), "there is no checkpoint here"),
        (lambda folder: change_params(folder, n_layers=5), "weights are missing: layers.2"),
        (lambda folder: change_params(folder, n_layers=10**6), "do not fit together"),
        (lambda folder: change_params(folder, n_heads=5), "do not fit together"),
        (lambda folder: change_params(folder, norm_eps="x"), "'rms_norm_eps' is 'x'"),
        (lambda folder: change_params(folder, rope_theta=[1]), r"'rope_theta' is \[1\]"),
        (lambda folder: change_params(folder, rope_theta=-1), "'rope_theta' is -1"),
        (lambda folder: change_params(folder, rope_theta=10**400), "an integer of more than 128 bits"),
        (lambda folder: change_params(folder, rope_scaling_factor={}), "'rope_scaling_factor' is"),
        (lambda folder: change_params(folder, rope_high_freq_factor="4"), "'rope_high_freq_factor' is '4'"),
        (lambda folder: change_params(folder, rope_scaling_factor=0.5), "must be a number of 1 or more"),
        (lambda folder: change_params(folder, use_scaled_rope="no"), "'use_scaled_rope' is 'no'"),
        (lambda folder: (folder / "consolidated.01.pth").write_bytes(b""), "the file is empty"),
        (lambda folder: (folder / "consolidated.01.pth").write_text("version https://git-lfs.x"), "pointer of Git LFS"),
        (lambda folder: (folder / "consolidated.01.pth").write_text(" <html>404"), "this is a web page"),
        (lambda folder: (folder / "consolidated.01.pth").write_text("PK"), "no pickle of tensors|ends too early"),
        (lambda folder: cut(folder / "consolidated.01.pth"), "the file ends too early or is damaged"),
        (
            lambda folder: make_whole_numbers(folder / "consolidated.01.pth"),
            r"'norm.weight' holds whole numbers \(I64\)",
        ),
    ],
)
@pytest.mark.usefixtures("in_this_process")
def test_a_damaged_checkpoint_is_refused_in_one_sentence(
    two_shards: Path, tmp_path: Path, change: Callable[[Path], object], sentence: str
) -> None:
    folder = Path(shutil.copytree(two_shards, tmp_path / "meta"))
    change(folder)
    with pytest.raises(UserError, match=sentence) as error:
        import_from(folder, tmp_path / "back", two_shards.parent / "model")
    assert "\n" not in str(error.value)
    assert [file for file in (tmp_path / "back").iterdir() if file.is_file()] == []
    assert not list((tmp_path / "back").rglob("*.safetensors*")), "a copy of the weights is left in the scratch folder"


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:5000])


def make_whole_numbers(file: Path) -> None:
    torch.save({**torch.load(file), "norm.weight": torch.ones(64, dtype=torch.int64)}, file)


def change_params(folder: Path, **values: Any) -> None:
    params = read_json(folder / "params.json")
    write_json(folder / "params.json", {**params, **values})


@pytest.mark.usefixtures("in_this_process")
def test_values_that_params_json_leaves_empty_are_metas_defaults_and_others_are_said(
    two_shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(two_shards, tmp_path / "meta"))
    change_params(folder, norm_eps=None, vocab_size=7)
    import_from(folder, tmp_path / "back", two_shards.parent / "model")
    assert read_json(tmp_path / "back" / "config.json")["rms_norm_eps"] == 1e-5
    assert "vocab_size is 7, but there are" in caplog.text


@pytest.mark.usefixtures("in_this_process")
def test_settings_that_a_checkpoint_has_no_use_for_are_refused(two_shards: Path, tmp_path: Path) -> None:
    model = two_shards.parent / "model"
    with pytest.raises(UserError, match="this one has none"):
        import_from(two_shards, tmp_path / "scaled", model, rope_factor=4)
    folder = pickled_folder(model, tmp_path / "pickled")
    with pytest.raises(UserError, match="context_length is for Meta's checkpoints"):
        import_from(folder, tmp_path / "long", context_length=99)


@pytest.mark.usefixtures("in_this_process")
def test_a_weight_that_two_files_hold_is_refused(two_shards: Path, tmp_path: Path) -> None:
    folder = pickled_folder(two_shards.parent / "model", tmp_path / "pickled")
    for part in ("1", "2"):
        shutil.copy(folder / "pytorch_model.bin", folder / f"pytorch_model-0000{part}-of-00002.bin")
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="is in another file of the folder too"):
        import_from(folder, tmp_path / "twice")


@pytest.fixture(scope="module")
def two_shards(make_model: Make) -> Path:
    """A checkpoint in two files."""
    model = make_model()
    export_to(model, model.parent / "meta", shards=2)
    return model.parent / "meta"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"attention_bias": True}, "no place for biases"),
        ({"head_dim": 32}, "heads of another width"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "another rotary scaling"),
    ],
)
def test_what_metas_layout_has_no_place_for_is_refused(
    make_model: Make, tmp_path: Path, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        export_to(make_model(**config), tmp_path / "meta")


def test_a_tokenizer_model_that_is_not_the_tokenizer_of_the_model_is_not_exported(
    make_model: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    model = make_model()
    assert not export_to(model, tmp_path / "without")["tokenizer"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{model}: no tokenizer.model is written, the only tokenizer of Meta's layout: name this folder as `tokenizer` "
        "to import the checkpoint again"
    ]
    caplog.clear()
    with (model / "tokenizer.model").open("wb") as file:
        trainer.train(sentence_iterator=iter(["翰林院里春天开满了花"] * 9), model_writer=file, vocab_size=290,
                      model_type="bpe", byte_fallback=True, hard_vocab_limit=False, minloglevel=2)  # fmt: skip
    assert not export_to(model, tmp_path / "other")["tokenizer"]
    assert "tokenizer.model is left out" in caplog.text and "no tokenizer.model is written" in caplog.text
    assert not (tmp_path / "other" / "tokenizer.model").exists()


def test_shards_that_do_not_divide_the_sizes_are_refused(two_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_key_value_heads \(2\) cannot be divided by 4"):
        export_to(two_shards.parent / "model", tmp_path / "meta", shards=4)


def test_a_folder_of_pickles_and_one_of_meta_name_the_way(two_shards: Path, tmp_path: Path) -> None:
    folder = pickled_folder(two_shards.parent / "model", tmp_path / "pickled")
    for path in (folder, two_shards):
        with pytest.raises(UserError, match="import_checkpoint"):
            check_model_folder(path)


def test_ranks_of_tiktoken_become_a_tokenizer_with_the_same_ids(shared_data: Path, tmp_path: Path) -> None:
    from hanlin.models.layouts.meta_tokenizer import load_meta_tokenizer

    tiktoken = pytest.importorskip("tiktoken")
    folder = tmp_path / "llama3"
    folder.mkdir()
    file = Path(shutil.copy(shared_data / "tokenizer" / "tiny" / "tiktoken_small.model", folder / "tokenizer.model"))
    file.write_bytes(file.read_bytes() + b"\n\n")  # as an editor leaves it; tiktoken reads it
    tokenizer = load_meta_tokenizer(folder, tmp_path / "made", later=True)
    from tiktoken.load import load_tiktoken_bpe

    from hanlin.tokenizer.gguf_splitting import LLAMA_3

    ranks = load_tiktoken_bpe(str(file))
    reference = tiktoken.Encoding("x", pat_str=LLAMA_3, mergeable_ranks=ranks, special_tokens={})
    for text in ("翰林院里灯火未熄，It's 12345.67%\n\n\t the  same", "def f(x): return x", "😀 naïve café"):
        assert tokenizer.encode(text) == reference.encode_ordinary(text)
    assert tokenizer.bos_id == len(ranks) and tokenizer.adds_bos
    assert tokenizer.token_id("<|eot_id|>") == len(ranks) + 9 and len(tokenizer) == len(ranks) + 256


def test_the_names_of_meta_are_those_of_its_code() -> None:
    assert meta.meta_name("model.layers.3.mlp.down_proj.weight") == "layers.3.feed_forward.w2.weight"
    assert meta.meta_name("lm_head.weight") == "output.weight"
    assert json.loads(json.dumps(meta.LAYER_NAMES))["self_attn.q_proj"] == "attention.wq"
