"""The training stages as a recipe calls them: what they read, what they leave, what they refuse."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo, Kto, Orpo, ReferenceLogprobs, Simpo
from hanlin.config.settings.train import Pretrain, SamplingDefaults, Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import VALIDATION_FILE
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Message, write_jsonl
from hanlin.models.load import load_model
from hanlin.tokenizer.generation_config import read_eos_token_ids, read_sampling_params
from hanlin.train import stages
from training_data import conversation, document, many, preference, unpaired_preference

PRETRAIN = Pretrain(
    model="m", data=("d",), max_seq_length=32, batch_tokens=128, learning_rate=1e-3, precision="float32"
)
SFT = Sft(model="m", data=("d",), max_seq_length=200, batch_tokens=800, learning_rate=1e-3, precision="float32")
DPO = Dpo(model="m", data=("d",), max_seq_length=128, batch_pairs=4, learning_rate=1e-4, precision="float32")
PAIRED = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_pairs": 4, "precision": "float32"}
KTO = Kto(model="m", data=("d",), max_seq_length=128, batch_answers=4, learning_rate=1e-4, precision="float32")
LORA = LoraSettings(rank=4, alpha=8)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pretraining_leaves_a_model_that_transformers_loads(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.pretrain(PRETRAIN, inputs(many(document, 12)), tmp_path, StageContext())
    AutoModelForCausalLM.from_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template
    assert metrics["records"] == 12 and metrics["trainable_parameters"] == metrics["parameters"]
    assert metrics["target_tokens"] == metrics["tokens"]  # every token after the begin token, once


def test_a_model_keeps_the_number_format_that_it_came_in(
    tmp_path: Path, inputs: Callable[..., Inputs], tiny_model: Path
) -> None:
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.bfloat16).save_pretrained(half)
    out = tmp_path / "out"
    out.mkdir()
    stages.pretrain(PRETRAIN, inputs(many(document, 6), half), out, StageContext())
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    weights = load_file(half / "model.safetensors")
    weights |= {name: weight.float() for name, weight in weights.items() if "norm" in name}
    save_file(weights, half / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "mixed"
    out.mkdir()
    stages.pretrain(PRETRAIN, inputs(many(document, 6), half), out, StageContext())
    trained = load_file(out / "model.safetensors")
    assert {name: weight.dtype for name, weight in trained.items()} == {n: w.dtype for n, w in weights.items()}


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT with transformers 5
def test_an_adapter_is_one_that_peft_loads(tmp_path: Path, inputs: Callable[..., Inputs], tiny_model: Path) -> None:
    settings = SFT.model_copy(update={"lora": LORA, "epochs": 6, "learning_rate": 1e-2})
    metrics = stages.sft(settings, inputs(many(conversation, 8)), tmp_path, StageContext())
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = PeftModel.from_pretrained(base, tmp_path)
    assert metrics["trainable_parameters"] < 0.5 * metrics["parameters"]
    assert all(tensor.abs().sum() > 0 for name, tensor in adapted.named_parameters() if "lora_B" in name)
    load_model(tmp_path)
    ChatTemplate.load(tmp_path)


def test_the_sampling_defaults_of_the_settings_are_the_models_own_afterwards(
    tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    sampling = SamplingDefaults(repetition_penalty=1.1)
    settings = SFT.model_copy(update={"lora": LORA, "steps": 1, "sampling": sampling})
    stages.sft(settings, inputs(many(conversation, 2)), tmp_path, StageContext())
    assert read_sampling_params(tmp_path) == {"temperature": 0.0, "repetition_penalty": 1.1}
    assert read_eos_token_ids(tmp_path) == ChatTemplate.load(tmp_path).stop_ids
    with pytest.raises(ValueError, match="temperature above 0"):
        SamplingDefaults(top_p=0.9)


def test_dpo_moves_towards_what_is_preferred(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    settings = DPO.model_copy(update={"epochs": 10, "learning_rate": 1e-3, "lora": LORA})
    metrics = stages.dpo(settings, inputs(many(preference, 8)), tmp_path, StageContext())
    first = rows_of(tmp_path / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert metrics["loss"]["last"] < 0.6 and metrics["accuracy"]["last"] == 1.0 and metrics["margin"]["last"] > 0
    assert len(metrics["reference_sha256"]) == 64


@pytest.mark.parametrize(
    ("kind", "settings", "start"),
    [
        ("dpo", Dpo(**PAIRED, loss="ipo", beta=0.5), 1.0),
        ("dpo", Dpo(**PAIRED, label_smoothing=0.1), 0.693147),
        ("orpo", Orpo(**PAIRED), None),
        ("simpo", Simpo(**PAIRED), None),
    ],
)
def test_every_objective_over_pairs_moves_towards_what_is_preferred(
    kind: str, settings: Dpo | Orpo | Simpo, start: float | None, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    settings = settings.model_copy(update={"epochs": 10, "learning_rate": 3e-3, "lora": LORA})
    metrics = getattr(stages, kind)(settings, inputs(many(preference, 8)), tmp_path, StageContext())
    rows = rows_of(tmp_path / "metrics.jsonl")
    assert start is None or rows[0]["preference_loss"] == pytest.approx(start, abs=1e-5)
    assert rows[-1]["preference_loss"] < 0.8 * rows[0]["preference_loss"]
    assert metrics["margin"]["last"] > metrics["margin"]["first"] and metrics["accuracy"]["last"] == 1.0
    assert ("reference_sha256" in metrics) == (start is not None)


@pytest.fixture
def referred(tmp_path: Path) -> Callable[..., Path]:
    """The artifact of a `reference` stage over the given inputs."""

    def of(given: Inputs, **changes: object) -> Path:
        out = tmp_path / f"reference-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        settings = {"model": "m", "data": ("d",), "max_seq_length": 128, "precision": "float32", **changes}
        stages.reference_logprobs(ReferenceLogprobs(**settings), given, out, StageContext())
        shutil.rmtree(out / ".work", ignore_errors=True)  # as sealing does
        return out

    return of


def with_reference(given: Inputs, folder: Path) -> Inputs:
    return Inputs({**given.by_field, "reference": (folder,)})


@pytest.mark.parametrize(
    ("kind", "settings", "records"), [("dpo", DPO, many(preference, 8)), ("kto", KTO, many(unpaired_preference, 8))]
)
def test_a_reference_of_a_stage_of_its_own_gives_the_same_run(
    kind: str, settings: Dpo | Kto, records: list, tmp_path: Path, inputs: Callable[..., Inputs], referred: Callable
) -> None:
    given = inputs(records)
    validation = given.by_field["data"][0] / VALIDATION_FILE
    write_jsonl(validation, records[:3])
    settings = settings.model_copy(update={"eval_steps": 1})
    found: list[dict[str, Any]] = []
    for inputs_of_run in (given, with_reference(given, referred(given, objective=kind))):
        out = tmp_path / f"run-{len(found)}"
        out.mkdir()
        metrics = getattr(stages, kind)(settings, inputs_of_run, out, StageContext())
        found.append({name: metrics[name] for name in ("loss", "reference_sha256", "validation_reference_sha256")})
    assert found[0] == found[1]
    assert not list((tmp_path / "run-1").rglob("reference*.npy"))


def test_a_reference_of_anything_else_is_refused(
    tmp_path: Path, inputs: Callable[..., Inputs], referred: Callable
) -> None:
    given, other = inputs(many(preference, 8)), inputs(many(preference, 9))
    refused = {
        "other records": referred(other),
        "another objective": referred(given, objective="kto"),
        "bfloat16": referred(given, precision="bfloat16"),
    }
    for text, folder in refused.items():
        with pytest.raises(UserError, match=text):
            stages.dpo(DPO, with_reference(given, folder), tmp_path, StageContext())
    validation = Inputs(given.by_field)
    write_jsonl(validation.by_field["data"][0] / VALIDATION_FILE, many(preference, 2))
    with pytest.raises(UserError, match="validation split"):
        settings = DPO.model_copy(update={"eval_steps": 1})
        known = referred(given)
        reference = json.loads((known / "reference.json").read_text(encoding="utf-8"))
        del reference["splits"]["validation"]
        (known / "reference.json").write_text(json.dumps(reference), encoding="utf-8")
        stages.dpo(settings, with_reference(validation, known), tmp_path / "again", StageContext())


def test_the_first_loss_detects_a_reference_of_another_model(
    tmp_path: Path, inputs: Callable[..., Inputs], referred: Callable, tiny_model: Path
) -> None:
    other = tmp_path / "other-model"
    shutil.copytree(tiny_model, other)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    model.save_pretrained(other)
    records = many(preference, 8)
    with pytest.raises(UserError, match="equals its reference"):
        stages.dpo(DPO, with_reference(inputs(records), referred(inputs(records, other))), tmp_path, StageContext())


@pytest.mark.parametrize(
    "records", [many(unpaired_preference, 16), many(preference, 8)], ids=["unpaired_preferences", "pairs"]
)
def test_kto_learns_from_judged_answers_and_from_pairs(
    records: list, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    settings = KTO.model_copy(update={"epochs": 10, "learning_rate": 3e-3, "lora": LORA})
    metrics = stages.kto(settings, inputs(records), tmp_path, StageContext())
    rows = rows_of(tmp_path / "metrics.jsonl")
    assert rows[0]["preference_loss"] == pytest.approx(0.5, abs=1e-5) and rows[0]["reference_point"] < 1e-4
    assert metrics["desirable_answers"] == metrics["undesirable_answers"] == 8 and metrics["records"] == 16
    assert rows[-1]["preference_loss"] < 0.4 and metrics["accuracy"]["last"] == 1.0
    assert max(row["reference_point"] for row in rows) > 0


def test_unpaired_preferences_and_pairs_train_together(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    given, more = inputs(many(unpaired_preference, 5)), inputs(many(preference, 3))
    files = (*given.by_field["data"], *(folder / "preferences.jsonl" for folder in more.by_field["data"]))
    metrics = stages.kto(KTO, Inputs({**given.by_field, "data": files}), tmp_path, StageContext())
    assert (metrics["desirable_answers"], metrics["undesirable_answers"]) == (6, 5)


@pytest.mark.parametrize(
    ("kind", "settings", "file", "start"),
    [
        ("dpo", DPO, "pairs", "log 2"),
        ("dpo", Dpo(**PAIRED, loss="ipo"), "pairs", "beta"),
        ("kto", KTO, "answers", "1/2"),
    ],
)
def test_a_tampered_reference_stops_the_run(
    kind: str, settings: Dpo | Kto, file: str, start: str, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    given = inputs(many(preference, 4))
    folder = tmp_path / ".work" / "reference"
    folder.mkdir(parents=True)
    shape = (4, 2) if file == "pairs" else (8, 1)
    np.save(folder / f"{file}-00000000.npy", np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=start):
        getattr(stages, kind)(settings, given, tmp_path, StageContext())


def test_the_metrics_say_how_much_memory_the_run_took(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.sft(SFT.model_copy(update={"steps": 1}), inputs(many(conversation, 4)), tmp_path, StageContext())
    assert 0.05 < metrics["peak_memory_gb"] < 100


def test_the_curve_has_a_row_for_each_step(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.sft(SFT, inputs(many(conversation, 12)), tmp_path, StageContext())
    rows = rows_of(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, metrics["steps"] + 1))
    assert {"loss", "learning_rate", "grad_norm", "epoch", "tokens", "target_tokens"} <= rows[0].keys()
    assert sum(row["target_tokens"] for row in rows) == metrics["target_tokens"]


def test_the_first_rows_show_every_token_and_its_loss_mask(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    records = {record.id: record for record in many(conversation, 12)}
    stages.sft(SFT, inputs(list(records.values())), tmp_path, StageContext())
    shown = json.loads((tmp_path / "first_rows.json").read_text(encoding="utf-8"))
    documents = [document for row in shown["rows"] for document in row["documents"]]
    assert documents
    for one in documents:
        learned = "".join(token["text"] for token in one["tokens"] if token["learned"])
        answers = [m.text + "<|eot_id|>" for m in records[one["record"]].messages if m.role == "assistant"]
        assert learned == "".join(answers)
        assert one["tokens"][0]["text"] == "<|begin_of_text|>"


def test_the_first_rows_of_pairs_say_which_answer_they_show(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    stages.dpo(DPO, inputs(many(preference, 4)), tmp_path, StageContext())
    shown = json.loads((tmp_path / "first_rows.json").read_text(encoding="utf-8"))
    assert [[one["part"] for one in row["documents"]] for row in shown["rows"]] == [["chosen", "rejected"]] * 3


def test_a_template_that_begins_every_exchange_anew_trains(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    settings = SFT.model_copy(update={"template": "llama2", "steps": 1})
    metrics = stages.sft(settings, inputs(many(conversation, 8)), tmp_path, StageContext())
    assert metrics["records"] == 8 and metrics["refused"] == {}


def test_rows_that_break_the_contract_stop_the_run_before_its_first_step(
    tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    given = inputs(many(conversation, 4))
    made, again = tmp_path / "made", tmp_path / "again"
    made.mkdir()
    stages.sft(SFT.model_copy(update={"steps": 1}), given, made, StageContext())
    shutil.copytree(made / ".work" / "train", again / ".work" / "train")
    learn = np.load(again / ".work" / "train" / "loss_mask.npy", mmap_mode="r+")
    learn[np.load(again / ".work" / "train" / "starts.npy")[3] - 1] = False  # the stop token of the third record
    learn.flush()
    with pytest.raises(UserError, match="no stop token as its last target") as caught:
        stages.sft(SFT, given, again, StageContext())
    assert caught.value.where == "chat-2" and not (again / "metrics.jsonl").exists()


def test_refused_and_changed_records_are_counted_by_reason(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    answer = Message("assistant", "你叫什么名字？" * 12)
    long = Conversation((Message("user", "三加四等于七。"), answer) * 2, "long")
    hopeless = Conversation((Message("user", "三"), Message("assistant", "七" * 200)), "hopeless")
    metrics = stages.sft(SFT, inputs([*many(conversation, 3), long, hopeless]), tmp_path, StageContext())
    assert metrics["refused"] == {"too_long": 1}
    assert metrics["records"] == 4 and metrics["changed"].get("truncate_turns", 0) >= 1


def test_a_row_longer_than_the_model_s_context_is_refused(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    settings = SFT.model_copy(update={"max_seq_length": 512, "batch_tokens": 1024})
    with pytest.raises(UserError, match="256 positions"):
        stages.sft(settings, inputs(many(conversation, 3)), tmp_path, StageContext())


def test_an_adapter_is_no_model_to_train(tmp_path: Path, inputs: Callable[..., Inputs]) -> None:
    given = inputs(many(conversation, 3))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    stages.sft(SFT.model_copy(update={"lora": LORA, "steps": 1}), given, adapter, StageContext())
    with pytest.raises(UserError, match="adapter"):
        stages.sft(SFT, Inputs({**given.by_field, "model": (adapter,)}), tmp_path, StageContext())


def test_conversations_need_a_chat_template(tmp_path: Path, inputs: Callable[..., Inputs], tiny_model: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="no chat template"):
        stages.sft(SFT, inputs(many(conversation, 3), bare), out, StageContext())
    stages.sft(
        SFT.model_copy(update={"template": "llama3", "steps": 1}),
        inputs(many(conversation, 3), bare),
        out,
        StageContext(),
    )
    assert (out / "chat_template.jinja").is_file()


def test_data_without_its_file_is_named(tmp_path: Path, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"conversations\.jsonl"):
        stages.sft(SFT, Inputs({"model": (tiny_model,), "data": (tmp_path,)}), tmp_path, StageContext())


@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_every_precision_trains(tmp_path: Path, inputs: Callable[..., Inputs], precision: str) -> None:
    settings = SFT.model_copy(update={"precision": precision})
    metrics = stages.sft(settings, inputs(many(conversation, 8)), tmp_path, StageContext())
    assert metrics["precision"] in ("float32", "bfloat16")
    assert metrics["loss"]["last"] > 0
