"""However a model is divided among processes, it learns what one learns alone, and goes on where another left off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.train import stages
from launching import launch
from training_data import conversation, many

needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None, reason="DeepSpeed is not installed (pip install 'hanlin[deepspeed]')"
)
STEPS = 20
WHOLE = Sft(
    model="m", data=("d",), max_seq_length=128, batch_tokens=384, micro_batch_tokens=128, steps=STEPS,
    learning_rate=1e-3, precision="float32", save_every_seconds=1e-6, save_total_limit=2 * STEPS,
)  # fmt: skip
FORMS = {"whole": WHOLE, "lora": WHOLE.model_copy(update={"lora": LoraSettings(rank=4)})}
MODES: dict[str, dict[str, Any]] = {
    "ddp": {"mode": "ddp"},
    "fsdp": {"mode": "fsdp"},
    "fsdp_offload": {"mode": "fsdp", "offload": True},
    "zero2": {"mode": "zero2"},
    "zero2_offload": {"mode": "zero2", "offload": True},
    "zero3": {"mode": "zero3"},
    "zero3_offload": {"mode": "zero3", "offload": True},
}
QUICK = {("fsdp", "lora")}


def cases(quick: set[tuple[str, str]]) -> list[Any]:
    found = []
    for mode in MODES:
        for form in FORMS:
            marks = [needs_deepspeed] * mode.startswith("zero") + [pytest.mark.slow] * ((mode, form) not in quick)
            found.append(pytest.param(mode, form, id=f"{mode}-{form}", marks=marks))
    return found


def curve(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(out: Path) -> Path:
    (file,) = out.glob("*model.safetensors")
    return file


def assert_equal_runs(one: Path, other: Path) -> None:
    for expected, actual in zip(curve(one), curve(other), strict=True):
        assert expected["target_tokens"] == actual["target_tokens"]
        assert actual["loss"] == pytest.approx(expected["loss"], abs=1e-4)
        assert actual["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-3)
    found = load_file(weights(other))
    for name, weight in load_file(weights(one)).items():
        torch.testing.assert_close(found[name], weight, atol=1e-4, rtol=1e-3)


def loads_alone(out: Path, base: Path) -> None:
    """Plain transformers, or PEFT over the base, finds every weight and gives finite logits."""
    if (out / "adapter_config.json").is_file():
        model: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out)
        ours = load_file(weights(out))
        assert len(ours) == sum("lora_" in name for name, _ in model.named_parameters())
    else:
        loaded: Any = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        model, told = loaded
        assert not told["missing_keys"] and not told["unexpected_keys"]
    with torch.no_grad():
        assert torch.isfinite(model(torch.arange(8)[None]).logits).all()


def stopped_after(out: Path, step: int, to: Path) -> None:
    """What a run that was killed after a step would have left."""
    shutil.copytree(out, to)
    listed = to / ".work" / "checkpoints.json"
    rows = [row for row in json.loads(listed.read_text(encoding="utf-8")) if row["step"] <= step]
    assert 0 < rows[0]["step"] < STEPS
    listed.write_text(json.dumps(rows), encoding="utf-8")
    weights(to).unlink()


@pytest.fixture
def given(inputs: Callable[..., Inputs], monkeypatch: pytest.MonkeyPatch) -> Inputs:
    monkeypatch.setattr("hanlin.train.callbacks.checkpoint.MIN_INTERVAL_RATIO", 0.0)
    return inputs(many(conversation, 24))


@pytest.fixture
def alone(given: Inputs, tmp_path: Path) -> Callable[[str], Path]:
    """A run of this process alone."""

    def of(form: str, out: str = "alone") -> Path:
        folder = tmp_path / out
        folder.mkdir(exist_ok=True)
        stages.sft(FORMS[form], given, folder, StageContext(seed=5))
        return folder

    return of


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT with transformers 5
@pytest.mark.parametrize(("mode", "form"), cases(QUICK))
def test_two_processes_equal_one_and_save_what_loads_alone(
    mode: str, form: str, tmp_path: Path, given: Inputs, alone: Callable[..., Path], tiny_model: Path
) -> None:
    two = tmp_path / "two"
    launch("sft", FORMS[form], given, two, "in_a_group", 2, **MODES[mode])
    for rank in range(2):
        told = json.loads(two.with_name(f"two-rank-{rank}").read_text(encoding="utf-8"))
        assert (told["processes"], told["mode"]) == (2, MODES[mode]["mode"])
    assert_equal_runs(alone(form), two)
    loads_alone(two, tiny_model)


@pytest.mark.parametrize(("mode", "form"), cases(set()))
def test_a_checkpoint_of_two_processes_resumes_on_one_and_the_reverse(
    mode: str, form: str, tmp_path: Path, given: Inputs, alone: Callable[..., Path]
) -> None:
    one, two = alone(form), tmp_path / "two"
    launch("sft", FORMS[form], given, two, "in_a_group", 2, **MODES[mode])
    stopped_after(two, STEPS // 2, tmp_path / "on-one")
    assert_equal_runs(one, alone(form, "on-one"))
    stopped_after(one, STEPS // 2, tmp_path / "on-two")
    launch("sft", FORMS[form], given, tmp_path / "on-two", "in_a_group", 2, **MODES[mode])
    assert_equal_runs(one, tmp_path / "on-two")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fsdp", pytest.param("zero3", marks=needs_deepspeed)])
def test_what_is_measured_before_a_step_is_so_in_a_divided_model(
    mode: str, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    """KTO's reference, its reference point, held-out loss and probes go through the model without learning, and a step
    of two answers leaves nothing to one of three processes.
    """
    from hanlin.config.settings.preference import Kto
    from hanlin.core.records import write_jsonl
    from training_data import unpaired_preference

    settings = Kto(
        model="m", data=("d",), max_seq_length=128, batch_answers=2, steps=6, learning_rate=1e-4, precision="float32",
        eval_steps=3, probe_every=3, gradient_checkpointing=True,
    )  # fmt: skip
    given = inputs(many(unpaired_preference, 8))
    write_jsonl(given.path("data") / "validation.jsonl", many(unpaired_preference, 4))
    one, three = tmp_path / "one", tmp_path / "three"
    one.mkdir()
    stages.kto(settings, given, one, StageContext(seed=5))
    launch("kto", settings, given, three, "in_a_group", 3, mode=mode)
    for expected, actual in zip(curve(one), curve(three), strict=True):
        assert actual == pytest.approx(expected, abs=1e-4, rel=1e-3)


def test_what_cannot_be_divided_is_refused(tmp_path: Path, given: Inputs) -> None:
    settings = WHOLE.model_copy(update={"optimizer": "adamw_8bit"})
    with pytest.raises(UserError, match="adamw_8bit does not work with sharded"):
        stages.sft(settings, given, tmp_path, StageContext(mode="fsdp", prepare_only=True))
    assert not (tmp_path / ".work" / "train").exists(), "before anything is tokenized"


def test_rows_are_prepared_before_a_group_begins_and_not_in_it(
    tmp_path: Path, given: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")  # as a cluster may set it for the command that starts the group
    assert stages.sft(WHOLE, given, tmp_path, StageContext(prepare_only=True)) == {}
    assert (tmp_path / ".work" / "train" / "index.json").is_file() and not (tmp_path / "metrics.jsonl").exists()
    with pytest.raises(FileNotFoundError, match="index"):
        stages.sft(WHOLE, given, tmp_path / "another", StageContext())
