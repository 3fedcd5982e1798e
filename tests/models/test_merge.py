"""A merged model has the logits of its adapter, all its tensors are used, and a failed check leaves no files."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings, Merge
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.models import adapter_tensors, merge
from hanlin.models.adapter_tensors import AdapterTensors
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.folder.adapter import check_adapter_folder
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import TensorEntry
from hanlin.models.load import load_model
from hanlin.models.safetensors import read_rows
from hanlin.models.save import save_model
from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params, write_sampling_params
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import MakeAdapter, logits, perturb_trainable

KINDS = [
    ("untied", {}),
    ("untied", {"rslora": True, "rank": 8, "targets": ["q_proj", "down_proj"]}),
    ("untied", {"dora": True}),
    ("untied", {"modules_to_save": ["embed_tokens", "lm_head", "norm"]}),
    ("tied", {}),
    ("tied", {"modules_to_save": ["embed_tokens"]}),
    ("tied", {"modules_to_save": ["lm_head", "norm"], "dora": True}),
]


def merge_into(
    adapter: Path | Sequence[Path], out: Path, dtype: str = "base", base: Path | None = None, **row: object
) -> dict[str, Any]:
    adapters = (adapter,) if isinstance(adapter, Path) else tuple(adapter)
    out.mkdir(exist_ok=True)
    named = {} if base is None else {"model": "./model"}
    settings = Merge.model_validate(
        {"adapter": [f"./{path.name}" for path in adapters], "dtype": dtype, **named, **row}
    )
    paths = {"adapter": adapters, **({} if base is None else {"model": (base,)})}
    return merge.run(settings, Inputs(paths), out, StageContext(progress=Progress("merged")))


@pytest.mark.parametrize(("base", "lora"), KINDS)
def test_merged_logits_equal_adapter_logits(
    make_adapter: MakeAdapter, tmp_path: Path, base: str, lora: dict[str, object]
) -> None:
    adapter = make_adapter(base, **lora)
    metrics = merge_into(adapter, tmp_path / "merged")
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), logits(load_model(adapter)), rtol=0, atol=1e-5)
    assert metrics["max_abs_difference"] < 1e-5
    assert metrics["greedy_agreement"] == 1.0


@pytest.mark.parametrize(("base", "lora"), KINDS)
def test_merged_weights_are_those_of_peft(
    make_adapter: MakeAdapter, tmp_path: Path, base: str, lora: dict[str, object]
) -> None:
    adapter = make_adapter(base, **lora)
    merge_into(adapter, tmp_path / "merged")
    by_peft = cast(PeftModel, load_model(adapter)).merge_and_unload().state_dict()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, weight in merged.items():
        torch.testing.assert_close(weight, by_peft[name], rtol=0, atol=1e-6)


def test_a_merge_changes_the_base(make_adapter: MakeAdapter, store: Path, tmp_path: Path) -> None:
    metrics = merge_into(make_adapter(), tmp_path / "merged")
    assert not torch.allclose(logits(load_model(tmp_path / "merged")), logits(load_model(store / "untied")))
    assert metrics["adapter_kl"] > 0


def test_every_tensor_of_the_adapter_is_counted(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter()
    metrics = merge_into(adapter, tmp_path / "merged")
    assert metrics["adapter_tensors"] == 2 * 7 * 2  # A and B of seven projections in two layers


def test_an_adapter_tensor_that_the_base_does_not_have_stops_the_merge(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors["base_model.model.model.layers.7.mlp.up_proj.lora_A.weight"] = torch.ones(4, 64)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(UserError, match="of the adapter"):
        merge_into(adapter, tmp_path / "merged")
    assert not any((tmp_path / "merged").iterdir())


def test_the_dtype_is_that_of_the_base(make_adapter: MakeAdapter, store: Path, tmp_path: Path) -> None:
    save_model(load_model(store / "untied"), store / "half", tokenizer=Tokenizer.load(store / "untied"),
               dtype="bfloat16")  # fmt: skip
    metrics = merge_into(make_adapter("half"), tmp_path / "merged")
    assert metrics["dtype"] == check_model_folder(tmp_path / "merged").dtype == "bfloat16"


def test_norms_in_float32_beside_bfloat16_keep_their_numbers(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    save_model(load_model(store / "untied"), store / "mixed", tokenizer=Tokenizer.load(store / "untied"),
               dtype="bfloat16")  # fmt: skip
    weights = load_file(store / "mixed" / "model.safetensors")
    weights |= {name: weight.float() + 1e-3 for name, weight in weights.items() if "norm" in name}
    save_file(weights, store / "mixed" / "model.safetensors", metadata={"format": "pt"})
    merge_into(make_adapter("mixed"), tmp_path / "merged")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert {name: weight.dtype for name, weight in merged.items()} == {n: w.dtype for n, w in weights.items()}
    assert all(torch.equal(merged[name], weight) for name, weight in weights.items() if "norm" in name)
    merge_into(make_adapter("mixed"), tmp_path / "half", "bfloat16")
    assert {weight.dtype for weight in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_can_be_chosen(make_adapter: MakeAdapter, tmp_path: Path, dtype: str) -> None:
    merge_into(make_adapter(), tmp_path / "merged", dtype)
    assert check_model_folder(tmp_path / "merged").dtype == dtype


@pytest.mark.parametrize("weights", [None, [0.5, 0.5]])
@pytest.mark.parametrize("way", ["again", "link", "copy"])
def test_one_adapter_is_not_merged_twice(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path, way: str, weights: list[float] | None
) -> None:
    adapter = second = make_adapter()
    if way != "again":
        second = store / "second"
        second.symlink_to(adapter) if way == "link" else shutil.copytree(adapter, second)
    with pytest.raises(UserError, match=f"{second.name} and adapter are the same adapter") as caught:
        merge_into([adapter, second], tmp_path / "merged", weights=weights)
    assert "weights" in str(caught.value.hint) and not any((tmp_path / "merged").iterdir())


def test_adapters_of_equal_tensors_and_other_factors_are_two(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    adapter = make_adapter()
    shutil.copytree(adapter, store / "second")
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    (store / "second" / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 1}), encoding="utf-8")
    assert merge_into([adapter, store / "second"], tmp_path / "merged")["adapters"] == 2


def test_weights_of_zero_alone_are_refused() -> None:
    with pytest.raises(ValidationError, match="with weights of 0 alone nothing is merged"):
        Merge.model_validate({"adapter": ["./a", "./b"], "weights": [0, 0]})


def test_an_adapter_of_weight_zero_is_named(
    make_adapter: MakeAdapter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapters = [make_adapter(name="first"), make_adapter(name="second", rank=2)]
    merge_into(adapters, tmp_path / "merged", weights=[1, 0])
    told = capsys.readouterr().err
    assert "second has the weight 0 and changes nothing" in told and "equals its base" not in told


def test_a_merge_that_changes_nothing_says_so(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = attach_lora(load_model(store / "untied"), LoraSettings(rank=4), seed=1)
    save_adapter(model, store / "untrained", base=store / "untied")
    merge_into(store / "untrained", tmp_path / "merged")
    assert "the merged model equals its base" in capsys.readouterr().err


def test_another_base_than_the_one_that_an_adapter_names_is_told(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = make_adapter()
    (adapter / "base.json").unlink()  # as PEFT leaves it
    shutil.copytree(store / "untied", store / "copy")
    merge_into(adapter, tmp_path / "same", base=store / "copy")
    assert not caplog.records
    weights = load_file(store / "copy" / "model.safetensors")
    save_file({name: weight * 1.5 for name, weight in weights.items()}, store / "copy" / "model.safetensors")
    merge_into(adapter, tmp_path / "other", base=store / "copy")
    (record,) = caplog.records
    assert f"as its base, and {store / 'copy'} has other weights" in record.getMessage()


def test_a_base_that_is_named_by_hub_id_and_cannot_be_compared_is_told(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = make_adapter()
    edit_config(adapter, base_model_name_or_path="meta-llama/Llama-2-7b-hf")
    merge_into(adapter, tmp_path / "recorded", base=store / "untied")
    assert not caplog.records  # its base.json has the fingerprint of the base
    (adapter / "base.json").unlink()  # as PEFT leaves it
    merge_into(adapter, tmp_path / "unknown", base=store / "untied")
    (record,) = caplog.records
    assert "no file tells whether untied is the base" in record.getMessage()
    assert "(meta-llama/Llama-2-7b-hf)" in record.getMessage()


@pytest.mark.parametrize(
    "folder", ["meta-llama/Llama-2-7b-hf", "hub/models--meta-llama--Llama-2-7b-hf/snapshots/0123456789abcdef"]
)
def test_a_base_in_a_folder_of_its_hub_id_passes_unsaid(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, folder: str
) -> None:
    adapter = make_adapter()
    (adapter / "base.json").unlink()
    edit_config(adapter, base_model_name_or_path="meta-llama/Llama-2-7b-hf")
    merge_into(adapter, tmp_path / "merged", base=Path(shutil.copytree(store / "untied", tmp_path / folder)))
    assert not caplog.records


def test_an_adapter_with_the_tokenizer_of_another_model_is_refused(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    """Shapes fit by chance, or because both are of one family: every token would be another."""
    adapter = make_adapter()
    (adapter / "base.json").unlink()
    file = adapter / "tokenizer.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    entries = list(data["model"]["vocab"].items())
    turned = [token_id for _, token_id in entries[-60:]][::-1]
    data["model"]["vocab"] = dict([*entries[:-60], *zip((entry for entry, _ in entries[-60:]), turned, strict=True)])
    file.write_text(json.dumps(data), encoding="utf-8")
    edit_config(adapter, base_model_name_or_path="someone/another-llama")
    with pytest.raises(UserError, match=r"trained on another base than untied: 60 of .* tokens of their tokenizers"):
        merge_into(adapter, tmp_path / "merged", base=store / "untied")
    edit_config(adapter, modules_to_save=["embed_tokens"])  # with rows of its own for all of them
    with pytest.raises(UserError, match=r"does not fit|tensors that it needs are missing"):
        merge_into(adapter, tmp_path / "merged", base=store / "untied")


def test_merged_weights_are_rounded_once(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter()
    merge_into(adapter, tmp_path / "fine", "float32")
    merge_into(adapter, tmp_path / "coarse", "bfloat16")
    fine = load_file(tmp_path / "fine" / "model.safetensors")
    coarse = load_file(tmp_path / "coarse" / "model.safetensors")
    assert all(torch.equal(coarse[name], weight.bfloat16()) for name, weight in fine.items())


def test_the_rounding_loss_is_reported(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter()
    assert merge_into(adapter, tmp_path / "fine", "float32")["rounding_loss"] == 0.0
    assert 0.0 < merge_into(adapter, tmp_path / "coarse", "bfloat16")["rounding_loss"] < 1.0


def test_a_rounding_as_large_as_the_change_is_told(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(load_model(store / "untied"), store / "half", tokenizer=Tokenizer.load(store / "untied"),
               dtype="bfloat16")  # fmt: skip
    model = attach_lora(load_model(store / "half"), LoraSettings(alpha=0.02), seed=1)
    save_adapter(perturb_trainable(model), store / "slight", base=store / "half")
    assert 0.5 < merge_into(store / "slight", tmp_path / "coarse")["rounding_loss"] < 1.0
    assert "as large as what the adapter changes" in capsys.readouterr().err
    merge_into(store / "slight", tmp_path / "fine", "float32")
    assert "as large as" not in capsys.readouterr().err


def test_an_adapter_that_rounding_would_wipe_out_is_refused(store: Path, tmp_path: Path) -> None:
    save_model(load_model(store / "untied"), store / "half", tokenizer=Tokenizer.load(store / "untied"),
               dtype="bfloat16")  # fmt: skip
    model = attach_lora(load_model(store / "half"), LoraSettings(alpha=1e-9), seed=1)
    save_adapter(perturb_trainable(model), store / "faint", base=store / "half")
    with pytest.raises(UserError, match="removes the whole adapter"):
        merge_into(store / "faint", tmp_path / "merged")
    assert not any((tmp_path / "merged").iterdir())


def test_an_untrained_adapter_merges_to_its_base(store: Path, tmp_path: Path) -> None:
    save_adapter(
        attach_lora(load_model(store / "untied"), LoraSettings(), seed=1), store / "new", base=store / "untied"
    )
    metrics = merge_into(store / "new", tmp_path / "merged")
    assert metrics["adapter_kl"] == 0.0
    assert torch.equal(logits(load_model(tmp_path / "merged")), logits(load_model(store / "untied")))


def test_a_tied_model_whose_embeddings_were_trained_stays_tied(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    metrics = merge_into(make_adapter("tied", modules_to_save=["embed_tokens"]), tmp_path / "merged")
    assert metrics["tied_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


def test_a_head_that_an_adapter_trained_apart_from_tied_embeddings_is_kept(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter("tied", modules_to_save=["embed_tokens"])
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    config |= {"ensure_weight_tying": False, "modules_to_save": ["lm_head"]}  # as other programs write it
    (adapter / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(adapter / "adapter_model.safetensors")
    del tensors["base_model.model.model.embed_tokens.weight"]
    save_file(tensors, adapter / "adapter_model.safetensors")
    metrics = merge_into(adapter, tmp_path / "merged")
    assert metrics["tied_embeddings"] is False
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), logits(load_model(adapter)), rtol=0, atol=1e-5)


def test_the_merged_folder_serves_with_template_sampling_and_every_stop_id(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    write_sampling_params(adapter, {"temperature": 0.7, "top_p": 0.9})
    merge_into(adapter, tmp_path / "merged")
    assert read_sampling_params(tmp_path / "merged") == {"temperature": 0.7, "top_p": 0.9}
    assert ChatTemplate.load(tmp_path / "merged").source == ChatTemplate.load(adapter).source
    generation = json.loads((tmp_path / "merged" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == list(ChatTemplate.load(adapter).stop_ids)


def test_equal_adapters_merge_to_equal_bytes_even_over_files_of_an_earlier_run(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    merge_into(adapter, tmp_path / "one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model-00001-of-00002.safetensors").write_bytes(b"cut")
    merge_into(adapter, tmp_path / "other")
    assert {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()} == {
        file.name: file.read_bytes() for file in (tmp_path / "other").iterdir()
    }


def test_another_base_is_refused(make_adapter: MakeAdapter, store: Path, tmp_path: Path) -> None:
    adapter = make_adapter()
    other = load_model(store / "untied")
    other.model.norm.weight.data += 1
    save_model(other, store / "untied", tokenizer=Tokenizer.load(store / "untied"))
    with pytest.raises(UserError, match="another base"):
        merge_into(adapter, tmp_path / "merged")


def test_an_adapter_with_a_larger_vocabulary_than_its_base_is_refused(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    adapter = make_adapter()
    tokenizer = Tokenizer.load(adapter)
    tokenizer.backend.add_tokens([f"词{number}" for number in range(20)])
    Tokenizer(tokenizer.backend, tokenizer.config, adapter).save(adapter)
    with pytest.raises(UserError, match="entries"):
        merge_into(adapter, tmp_path / "merged")


def test_weights_that_differ_on_disk_are_detected(
    make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = AdapterTensors.apply

    def apply_wrongly(self: AdapterTensors, name: str, weight: torch.Tensor, start: int) -> torch.Tensor:
        return real(self, name, weight, start) + 1e-3

    monkeypatch.setattr(AdapterTensors, "apply", apply_wrongly)
    with pytest.raises(RuntimeError, match="was saved with other values than merging gives"):
        merge_into(make_adapter(), tmp_path / "merged")
    assert not any((tmp_path / "merged").iterdir())


def test_a_saved_model_with_other_logits_than_the_adapter_is_detected(make_adapter: MakeAdapter, store: Path) -> None:
    adapter = make_adapter()
    prompts = [[1, 2, 3, 4]]
    expected = merge.compute_logits(load_model(adapter), prompts)
    with pytest.raises(RuntimeError, match="the saved model gives other logits"):
        merge.verify_logits(expected, store / "untied", prompts)


def test_a_model_that_fails_a_check_is_removed(
    make_adapter: MakeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge, "MAX_LOGIT_ERROR", -1.0)
    with pytest.raises(RuntimeError, match="the saved model gives other logits"):
        merge_into(make_adapter(), tmp_path / "merged")
    assert not any((tmp_path / "merged").iterdir())


def test_an_adapter_without_tokenizer_uses_that_of_its_base(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    adapter = Path(shutil.copytree(make_adapter(), store / "bare"))
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter / name).unlink()
    merge_into(adapter, tmp_path / "merged")
    assert (tmp_path / "merged" / "tokenizer.json").read_bytes() == (store / "untied" / "tokenizer.json").read_bytes()


def test_logits_that_are_not_finite_never_pass_for_equal(store: Path) -> None:
    model = load_model(store / "untied")
    model.lm_head.weight[3] = float("nan")
    with pytest.raises(RuntimeError, match="not finite"):
        merge.compute_logits(model, [[1, 2, 3]])


def change(base: Path, merged: Path, name: str) -> torch.Tensor:
    """What merging changed in a weight, float64."""
    before, after = (load_file(folder / "model.safetensors")[name].double() for folder in (base, merged))
    return after - before


Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


def test_adapters_are_merged_one_after_the_other(make_adapter: MakeAdapter, store: Path, tmp_path: Path) -> None:
    adapters = [make_adapter(name="one", dora=True), make_adapter(name="two", rank=2, targets=["q_proj"])]
    metrics = merge_into(adapters, tmp_path / "merged")
    merge_into(adapters[1], tmp_path / "second")
    merge_into(adapters[0], tmp_path / "first")
    added = change(tmp_path / "first", tmp_path / "merged", Q_PROJ)
    torch.testing.assert_close(added, change(store / "untied", tmp_path / "second", Q_PROJ), rtol=0, atol=1e-6)
    assert metrics["adapters"] == 2 and metrics["max_abs_difference"] < 1e-4


def test_weights_are_factors_on_changes_from_the_base(make_adapter: MakeAdapter, store: Path, tmp_path: Path) -> None:
    adapters = [make_adapter(name="one", dora=True), make_adapter(name="two", modules_to_save=["embed_tokens"])]
    metrics = merge_into(adapters, tmp_path / "merged", weights=[0.75, -0.5])
    for index, adapter in enumerate(adapters):
        merge_into(adapter, tmp_path / str(index))
    for name in (Q_PROJ, "model.embed_tokens.weight"):
        one, two = (change(store / "untied", tmp_path / str(index), name) for index in range(2))
        actual = change(store / "untied", tmp_path / "merged", name)
        torch.testing.assert_close(actual, 0.75 * one - 0.5 * two, rtol=0, atol=1e-6)
    assert metrics["max_abs_difference"] < 1e-4


def edit_config(adapter: Path, **values: object) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values), encoding="utf-8")


def test_ranks_and_alphas_of_single_layers_count(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter(rslora=True)
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, weight in tensors.items():
        if "layers.1.mlp.up_proj" in name:
            tensors[name] = (weight[:2] if "lora_A" in name else weight[:, :2]).contiguous()
    save_file(tensors, adapter / "adapter_model.safetensors")
    edit_config(
        adapter, rank_pattern={"layers.1.mlp.up_proj": 2}, alpha_pattern={"up_proj": 3, r".*layers\.0.*q_proj": 64}
    )
    merge_into(adapter, tmp_path / "merged")
    by_peft = cast(PeftModel, load_model(adapter)).merge_and_unload().state_dict()
    for name, weight in load_file(tmp_path / "merged" / "model.safetensors").items():
        torch.testing.assert_close(weight, by_peft[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("base", ["untied", "tied"])
def test_trained_rows_of_the_vocabulary_are_merged(store: Path, tmp_path: Path, base: str) -> None:
    model = perturb_trainable(attach_lora(load_model(store / base), LoraSettings(rank=2), seed=1, token_ids=(9, 3)))
    save_adapter(model, store / "rows", base=store / base)
    merge_into(store / "rows", tmp_path / "merged")
    torch.testing.assert_close(
        logits(load_model(tmp_path / "merged")), logits(load_model(store / "rows")), rtol=0, atol=1e-5
    )


def test_each_trained_row_is_read_once(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = (9, 3, 200, 201, 399)
    model = perturb_trainable(attach_lora(load_model(store / "tied"), LoraSettings(rank=2), seed=1, token_ids=ids))
    save_adapter(model, store / "rows", base=store / "tied")
    monkeypatch.setattr(adapter_tensors, "PIECE_ENTRIES", 8 * 64)  # eight rows
    tensors = AdapterTensors(check_adapter_folder(store / "rows"), check_model_folder(store / "tied"))
    plan = adapter_tensors.MergePlan(check_model_folder(store / "tied"), [tensors], None, torch.float32)
    (entry,) = (entry for _, entry in tensors.rows.values())
    read: list[int] = []

    def read_and_count(asked: TensorEntry, start: int = 0, stop: int | None = None) -> torch.Tensor:
        rows = read_rows(asked, start, stop)
        read.append(len(rows) if asked == entry else 0)
        return rows

    monkeypatch.setattr(adapter_tensors, "read_rows", read_and_count)
    assert sum(map(len, plan.pieces("model.embed_tokens.weight"))) == plan.shape("model.embed_tokens.weight")[0]
    assert sum(read) == len(ids)


def test_the_base_can_be_named_if_the_adapter_names_one_of_a_hub(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    adapter = make_adapter()
    edit_config(adapter, base_model_name_or_path="meta-llama/Meta-Llama-3-8B")
    with pytest.raises(UserError, match="does not exist") as caught:
        merge_into(adapter, tmp_path / "merged")
    assert "name the base: model" in str(caught.value.hint)
    merge_into(adapter, tmp_path / "merged", base=store / "untied")
    edit_config(adapter, base_model_name_or_path="../untied")
    torch.testing.assert_close(logits(load_model(tmp_path / "merged")), logits(load_model(adapter)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("broken", ["adapter", "base"])
def test_numbers_that_are_not_finite_are_named(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path, broken: str
) -> None:
    adapter = make_adapter()
    (adapter / "base.json").unlink()
    file = adapter / "adapter_model.safetensors" if broken == "adapter" else store / "untied" / "model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if "q_proj" in key)
    tensors[name][1, 1] = math.nan
    save_file(tensors, file)
    said = {"base": "q_proj.weight' holds NaN or infinite values", "adapter": "part for .*q_proj.weight holds numbers"}
    with pytest.raises(UserError, match=said[broken]):
        merge_into(adapter, tmp_path / "merged")
    assert not any((tmp_path / "merged").iterdir())


def test_an_adapter_over_a_base_that_was_changed_for_it_is_refused(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    adapter = make_adapter()
    edit_config(adapter, init_lora_weights="olora")
    with pytest.raises(UserError, match="initialized by olora belongs to a changed base"):
        merge_into(adapter, tmp_path / "merged")


def test_without_logits_the_weights_are_checked(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    metrics = merge_into(make_adapter(), tmp_path / "merged", check="weights")
    assert metrics["tensors_checked"] == 12 and "max_abs_difference" not in metrics


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"weights": [1.0, 2.0]}, "one number for each"),
        ({"quantization": "nf4", "check": "weights"}, "measured for one adapter"),
        ({"quantization": "nf4", "weights": [0.5]}, "one adapter without weights"),
        ({"weights": [1e30]}, "between -100 and 100"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(row: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Merge.model_validate({"adapter": "./a", **row})


def test_the_adapter_over_its_quantized_base_is_measured_too(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    metrics = merge_into(make_adapter(), tmp_path / "merged", quantization="int8")
    assert 0 < metrics["quantized_base"]["mean_kl"] < 0.1 and metrics["mean_kl"] < metrics["quantized_base"]["mean_kl"]


def test_the_tokenizer_is_that_of_the_last_adapter_that_has_one(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    first, second = make_adapter(name="first"), make_adapter(name="second", rank=2)
    named = first / "tokenizer_config.json"
    named.write_text(named.read_text(encoding="utf-8").replace("<|end_of_text|>", "<|eot_id|>"), encoding="utf-8")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (second / file).unlink()
    merge_into([first, second], tmp_path / "merged", check="weights")
    assert Tokenizer.load(tmp_path / "merged").eos_id == Tokenizer.load(first).eos_id


def test_adapters_whose_tokenizers_differ_are_refused(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    first, second = make_adapter(name="first"), make_adapter(name="second", rank=2)
    file = first / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace("<|pad|>", "<|fill|>"), encoding="utf-8")
    with pytest.raises(UserError, match=r"tokenizers of first and second differ, first in '<\|fill\|>'"):
        merge_into([first, second], tmp_path / "merged", check="weights")


def test_generation_settings_of_the_base_stay_if_the_adapter_has_none(
    make_adapter: MakeAdapter, store: Path, tmp_path: Path
) -> None:
    base = store / "untied"
    write_sampling_params(base, {"temperature": 0.6, "top_p": 0.9})
    settings = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    (base / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [5, 7]}), encoding="utf-8")
    adapter = make_adapter()
    (adapter / "generation_config.json").unlink()
    merge_into(adapter, tmp_path / "merged", check="weights")
    assert read_sampling_params(tmp_path / "merged") == {"temperature": 0.6, "top_p": 0.9}
    assert {5, 7} <= set(read_eos_token_ids(tmp_path / "merged"))
