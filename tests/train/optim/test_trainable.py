"""Special tokens that nobody trained are found before step 0; rows of the vocabulary are trained, and no other row."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings, Merge
from hanlin.config.settings.preference import Dpo, Kto, Orpo, Simpo
from hanlin.config.settings.train import Pretrain, Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.models.adapters import attach_lora, attach_trainable_tokens
from hanlin.models.load import load_model
from hanlin.models.merge import run as merge
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train import stages
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.optim.build import build_optimizer
from tiny_llama import tie_embeddings
from training_data import CPU, conversation, document, many, preference, unpaired_preference

SFT = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_tokens": 512, "precision": "float32"}
PAIRED = {"model": "m", "data": ("d",), "max_seq_length": 128, "batch_pairs": 4, "precision": "float32", "steps": 1}
UNTRAINED_NORM_RATIO = ("<|eot_id|>", "<|start_header_id|>")
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SLOW = {"learning_rate": 1e-2, "steps": 3, "weight_decay": 0.5}


def sft(**changes: Any) -> Sft:
    return Sft(**{**SFT, "learning_rate": 1e-3, "steps": 2, **changes})


def untrained_ids(model: Path) -> list[int]:
    return sorted(
        number for token in UNTRAINED_NORM_RATIO if (number := Tokenizer.load(model).token_id(token)) is not None
    )


@pytest.fixture
def base_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model as a base model comes: rows of the tokens of turns are nearly zero, in both matrices."""
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    for name in (EMBEDDINGS, HEAD):
        weights[name][untrained_ids(tiny_model)] *= 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def tied_base_model(base_model: Path, tmp_path: Path) -> Path:
    return tie_embeddings(tmp_path / "tied", base_model)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


# --------------------------------------------------------------------------------------- tokens that nobody trained


def test_full_training_goes_on_and_names_them(base_model: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.sft(sft(), inputs(many(conversation, 4), base_model), out, StageContext())
    assert sorted(metrics["untrained_tokens"]) == sorted(UNTRAINED_NORM_RATIO)


def test_a_trained_model_has_none(tiny_model: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    metrics = stages.sft(sft(lora=LoraSettings(rank=2)), inputs(many(conversation, 4)), out, StageContext())
    assert "untrained_tokens" not in metrics


@pytest.mark.parametrize(
    ("kind", "settings", "record"),
    [
        ("sft", sft(), conversation),
        ("dpo", Dpo(**PAIRED), preference),
        ("orpo", Orpo(**PAIRED), preference),
        ("simpo", Simpo(**PAIRED), preference),
        (
            "kto",
            Kto(model="m", data=("d",), max_seq_length=128, batch_answers=4, precision="float32", steps=1),
            unpaired_preference,
        ),
    ],
)
def test_an_adapter_that_leaves_them_frozen_is_refused_with_the_ways_out(
    kind: str, settings: Sft, record: Callable, base_model: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    given = inputs(many(record, 8), base_model)
    with pytest.raises(UserError, match=r"never trained on .*<\|eot_id\|>") as caught:
        getattr(stages, kind)(settings.model_copy(update={"lora": LoraSettings(rank=2)}), given, out, StageContext())
    for way in ("trainable_tokens: untrained", "lora.modules_to_save: [embed_tokens, lm_head]", "plain"):
        assert way in str(caught.value.hint)
    assert not (out / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("whole", "refused"), [(("embed_tokens", "lm_head"), False), (("lm_head",), True), (("embed_tokens",), True)]
)
def test_both_matrices_must_be_trained_beside_an_adapter(
    whole: tuple, refused: bool, base_model: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    settings = sft(lora=LoraSettings(rank=2, modules_to_save=whole))
    given = inputs(many(conversation, 4), base_model)
    if refused:
        with pytest.raises(UserError, match="never trained"):
            stages.sft(settings, given, out, StageContext())
    else:
        assert sorted(stages.sft(settings, given, out, StageContext())["untrained_tokens"]) == sorted(
            UNTRAINED_NORM_RATIO
        )


@pytest.mark.parametrize("whole", ["embed_tokens", "lm_head"])
def test_of_tied_matrices_one_is_both(
    whole: Any, tied_base_model: Path, out: Path, inputs: Callable[..., Inputs]
) -> None:
    given = inputs(many(conversation, 4), tied_base_model)
    with pytest.raises(UserError, match="never trained"):
        stages.sft(sft(lora=LoraSettings(rank=2)), given, out, StageContext())
    metrics = stages.sft(sft(lora=LoraSettings(rank=2, modules_to_save=(whole,))), given, out, StageContext())
    assert sorted(metrics["untrained_tokens"]) == sorted(UNTRAINED_NORM_RATIO)


def test_a_template_without_them_needs_none(base_model: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    settings = sft(lora=LoraSettings(rank=2), template="plain")
    assert "untrained_tokens" not in stages.sft(
        settings, inputs(many(conversation, 4), base_model), out, StageContext()
    )


def test_plain_text_needs_no_tokens_of_turns(base_model: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    settings = Pretrain(
        **{**SFT, "max_seq_length": 32, "batch_tokens": 64}, lora=LoraSettings(rank=2), steps=1, learning_rate=1e-3
    )
    stages.pretrain(settings, inputs(many(document, 4), base_model), out, StageContext())


# ------------------------------------------------------------------------------------------------- only chosen rows


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")  # PEFT with transformers 5
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_way_out_trains_those_rows_beside_an_adapter_that_plain_peft_loads(
    tied: bool, request: pytest.FixtureRequest, out: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    base = request.getfixturevalue("tied_base_model" if tied else "base_model")
    settings = sft(lora=LoraSettings(rank=2), trainable_tokens="untrained", **SLOW)
    metrics = stages.sft(settings, inputs(many(conversation, 8), base), out, StageContext())
    assert sorted(metrics["untrained_tokens"]) == sorted(UNTRAINED_NORM_RATIO)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out).eval()
    ids = torch.tensor([[*untrained_ids(base), 5, 6, 7]])
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        torch.testing.assert_close(load_model(out)(input_ids=ids).logits, expected)
    merge(Merge(adapter="a"), Inputs({"adapter": (out,)}), tmp_path / "merged", StageContext())
    after = load_file(tmp_path / "merged" / "model.safetensors")
    rows = untrained_ids(base)
    others = [number for number in range(len(before[EMBEDDINGS])) if number not in rows]
    for name in (EMBEDDINGS,) if tied else (EMBEDDINGS, HEAD):
        assert torch.equal(after[name][others], before[name][others])
        assert (after[name][rows].norm(dim=1) > 0.3 * after[name].norm(dim=1).median()).all()
    assert (HEAD in after) is not tied


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_alone_they_leave_every_other_weight_bit_for_bit(
    precision: str, tied: bool, request: pytest.FixtureRequest, out: Path, inputs: Callable[..., Inputs]
) -> None:
    base = request.getfixturevalue("tied_base_model" if tied else "base_model")
    settings = sft(trainable_tokens="untrained", **{**SLOW, "precision": precision})
    metrics = stages.sft(settings, inputs(many(conversation, 8), base), out, StageContext())
    before, after = (load_file(folder / "model.safetensors") for folder in (base, out))
    rows = untrained_ids(base)
    assert metrics["trainable_parameters"] == len(rows) * 64 * (1 if tied else 2)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        if name in (EMBEDDINGS, HEAD):
            changed = torch.nonzero((weight != after[name]).any(dim=1))[:, 0].tolist()
            assert changed == rows
        else:
            assert torch.equal(weight, after[name])


def test_a_number_trains_the_rows_from_there_on(tiny_model: Path, out: Path, inputs: Callable[..., Inputs]) -> None:
    entries = load_file(tiny_model / "model.safetensors")[EMBEDDINGS].shape[0]
    stages.sft(sft(trainable_tokens=entries - 6, **SLOW), inputs(many(conversation, 4)), out, StageContext())
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model, out))
    changed = torch.nonzero((before[HEAD] != after[HEAD]).any(dim=1))[:, 0].tolist()
    assert changed == list(range(entries - 6, entries))


def test_a_row_moves_by_what_its_token_teaches_and_not_for_having_a_gradient(tiny_model: Path) -> None:
    """One token of 512 teaches 10 times 0.1 of a token's gradient, a softmax of 60,000 a thousandth of it."""
    model = attach_trainable_tokens(load_model(tiny_model, trainable=True), [1, 2])
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    settings = Pretrain(**SFT, trainable_tokens=1, weight_decay=0.0)
    stepped = build_optimizer(settings, trained, CPU)
    before = [weight.detach().clone() for _, weight in trained]
    for group in stepped.param_groups:
        group["lr"] = 1e-3
    for _, weight in trained:
        weight.grad = torch.stack([torch.full_like(weight[0], size / 512) for size in (1.0, 1e-4)])
    stepped.step()
    for (_, weight), start in zip(trained, before, strict=True):
        taught, other = (weight.detach() - start).abs().mean(dim=1).tolist()
        assert taught == pytest.approx(1e-3 / 1.1, rel=1e-3)
        assert other < 2e-6


@pytest.mark.parametrize("rows", ["untrained", 10_000])
def test_rows_that_are_not_there_are_refused(rows: Any, out: Path, inputs: Callable[..., Inputs]) -> None:
    with pytest.raises(UserError, match="selects no row"):
        stages.sft(sft(trainable_tokens=rows), inputs(many(conversation, 4)), out, StageContext())


def test_a_matrix_is_trained_whole_or_by_rows_but_not_both() -> None:
    with pytest.raises(ValueError, match="choose one"):
        sft(trainable_tokens="untrained", lora=LoraSettings(modules_to_save=("lm_head",)))


@pytest.mark.parametrize("adapter", [True, False], ids=["beside_an_adapter", "alone"])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_rows_get_the_gradient_that_peft_gives_them(
    adapter: bool, tied: bool, request: pytest.FixtureRequest, encoded: Callable, template: ChatTemplate
) -> None:
    base = request.getfixturevalue("tied_base_model" if tied else "base_model")
    store = encoded(many(conversation, 1), ChatEncoder(template, 128, "drop").conversations)
    rows = PackedDataset.pack_examples(store, 128)
    ids = untrained_ids(base)
    loaded = load_model(base, trainable=True)
    model = attach_lora(loaded, LoraSettings(rank=2), 1, ids) if adapter else attach_trainable_tokens(loaded, ids)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)), alpha=0.05)
    tokens = torch.from_numpy(store.ids.astype("int64"))
    learn = torch.from_numpy(store.loss_mask[1:].copy())
    logits = model(input_ids=tokens[None]).logits[0, :-1]
    wanted = torch.nn.functional.cross_entropy(logits[learn], tokens[1:][learn], reduction="sum")
    wanted.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("trainable_tokens_delta" in name for name in gradients)
    model.zero_grad()
    network = TrainModel(model, CPU, "float32")
    found = network.loss_sum(rows.collate([0]))
    found.backward()
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    assert gradients.keys() == {name for name, weight in network.trainable_parameters() if weight.grad is not None}
    for name, weight in network.trainable_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], atol=1e-4, rtol=1e-3)
