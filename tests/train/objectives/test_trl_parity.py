"""TRL's own trainers, given the same records, compute the same losses and gradients; skipped where TRL is missing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.preference import Simpo
from hanlin.core.records import Message, Preference, UnpairedPreference
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.mismatched import MismatchedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.objectives.answer_logprobs import compute_answer_logprobs
from hanlin.train.objectives.base import LossSum
from hanlin.train.objectives.kto import Kto
from hanlin.train.objectives.pairwise import DPO_LOSSES, Dpo, Orpo, SimPo
from training_data import SENTENCES, many, preference

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
trl = pytest.importorskip("trl", reason="TRL is not installed: pip install trl==1.16.*")
pytestmark = pytest.mark.filterwarnings("ignore")  # another project's warnings

SETTINGS = Simpo(model="m", data=("d",), max_seq_length=256)
COUNT = 4
BETA = 0.3


@pytest.fixture
def moved(make_model: Callable[..., TrainModel]) -> Callable[[], TrainModel]:
    """A policy that has moved away from its reference, which is the tiny model."""

    def of() -> TrainModel:
        model = make_model(SETTINGS)
        torch.manual_seed(4)  # with it the reference point is above 0
        with torch.no_grad():
            for _, parameter in model.trainable_parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
        model.refresh()
        return model

    return of


def to_dicts(messages: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


def trainer_of(
    kind: str, tiny_model: Path, model: TrainModel, rows: list[dict[str, Any]], out: Path, **options: Any
) -> Any:
    """A trainer of TRL whose policy has the weights of `model` and whose reference is the tiny model."""
    from datasets import Dataset

    if kind in ("CPO", "ORPO"):
        module = __import__(f"trl.experimental.{kind.lower()}", fromlist=[kind])
    else:
        module = trl
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    policy.load_state_dict(model.hf_model.state_dict())
    config = getattr(module, f"{kind}Config")(
        output_dir=str(out),
        use_cpu=True,
        bf16=False,
        report_to=[],
        max_length=256,
        per_device_train_batch_size=COUNT,
        gradient_checkpointing=False,
        beta=BETA,
        **options,
    )
    others: dict[str, Any] = {}
    if kind in ("DPO", "KTO"):
        others["ref_model"] = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    return getattr(module, f"{kind}Trainer")(
        model=policy,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        **others,
    )


def assert_same(found: LossSum, model: TrainModel, loss: torch.Tensor, policy: torch.nn.Module) -> None:
    """TRL's mean is our sum by our weight, and so are the gradients."""
    (found.total / found.weight).backward()
    loss.backward()
    assert found.total.item() / found.weight == pytest.approx(loss.item(), abs=1e-5)
    wanted = dict(policy.named_parameters())
    furthest = 0.0
    for name, parameter in model.trainable_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, atol=1e-5, rtol=1e-3)
        furthest = max(furthest, float((parameter.grad - wanted[name].grad).abs().max()))  # type: ignore[operator]
    print(f"loss {found.total.item() / found.weight:.7f} / {loss.item():.7f}, gradients differ by {furthest:.1e}")


def reference_of(make_model: Callable[..., TrainModel], *rows: PackedDataset) -> np.ndarray:
    model = make_model(SETTINGS)
    with torch.no_grad():
        found = [compute_answer_logprobs(model, part.collate(range(COUNT))).sums for part in rows]
    return torch.cat([part.view(COUNT, -1) for part in found], 1).numpy()


@pytest.fixture
def pairs(encoded: Callable, template: ChatTemplate) -> EncodedRecords:
    return encoded(many(preference, COUNT), ChatEncoder(template, 256, "drop").preferences, width=2)


@pytest.mark.parametrize(("loss_type", "form"), DPO_LOSSES.items())
def test_dpo_and_its_variants(
    loss_type: str,
    form: type[Dpo],
    make_model: Callable,
    moved: Callable,
    pairs: EncodedRecords,
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    records: list[Preference] = many(preference, COUNT)
    data = [
        {"prompt": to_dicts(r.prompt), "chosen": to_dicts((r.chosen,)), "rejected": to_dicts((r.rejected,))}
        for r in records
    ]
    model, rows = moved(), PackedDataset.from_records(pairs)
    trainer = trainer_of(
        "DPO", tiny_model, model, data, tmp_path, loss_type=[loss_type], train_sampling_strategy="sequential"
    )
    loss = trainer._compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())), return_outputs=False)
    found = form(BETA, 0.0, reference_of(make_model, rows)).loss(model, rows.collate(range(COUNT)))
    assert_same(found, model, loss, trainer.model)


def test_kto(
    make_model: Callable, moved: Callable, encoded: Callable, template: ChatTemplate, tiny_model: Path, tmp_path: Path
) -> None:
    """With the batch as all of the data, TRL's shift by one within the batch is ours."""
    records = [
        UnpairedPreference((Message("user", SENTENCES[n]),), Message("assistant", SENTENCES[n + 1]), n != 2, f"j{n}")
        for n in range(COUNT)
    ]
    data = [{"prompt": to_dicts(r.prompt), "completion": to_dicts((r.answer,)), "label": r.good} for r in records]
    model = moved()
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.8}
    trainer = trainer_of("KTO", tiny_model, model, data, tmp_path, **weights)
    loss = trainer._compute_loss(trainer.model, next(iter(trainer.get_train_dataloader())), return_outputs=False)
    store = encoded(records, ChatEncoder(template, 256, "drop").unpaired_preferences)
    rows, mismatched = (
        PackedDataset.from_records(store),
        PackedDataset.from_records(MismatchedRecords.from_encoded(store, 256)),
    )
    objective = Kto(BETA, 1.3, 0.8, store.desirable, reference_of(make_model, rows, mismatched), mismatched)
    now = objective.prepare_step(model, np.arange(COUNT), 100, lambda tensors: None)
    (point,) = trainer._metrics["eval"]["kl"]
    print(f"reference point {now.reference_point:.7f} / {point:.7f}")
    assert now.reference_point == pytest.approx(point, abs=1e-5) and point > 0
    assert_same(now.loss(model, rows.collate(range(COUNT))), model, loss, trainer.model)


def padded(store: EncodedRecords, examples: range, name: str) -> dict[str, torch.Tensor]:
    """Examples as ORPO's and CPO's collator leaves them."""
    ids = [store.ids[store.starts[n] : store.starts[n + 1]].tolist() for n in examples]
    learn = [store.loss_mask[store.starts[n] : store.starts[n + 1]].tolist() for n in examples]
    width = max(map(len, ids))
    labels = [[i if taught else -100 for i, taught in zip(*row, strict=True)] for row in zip(ids, learn, strict=True)]

    def fill(rows: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([row + [value] * (width - len(row)) for row in rows])

    return {
        f"{name}_input_ids": fill(ids, 0),
        f"{name}_attention_mask": fill([[1] * len(row) for row in ids], 0),
        f"{name}_labels": fill(labels, -100),
    }


def unpaired(store: EncodedRecords, first: int = 0, last: int = COUNT) -> dict[str, torch.Tensor]:
    return padded(store, range(2 * first, 2 * last, 2), "chosen") | padded(
        store, range(2 * first + 1, 2 * last, 2), "rejected"
    )


ANY = [{"prompt": "问", "chosen": "好", "rejected": "坏"}]


def test_simpo(moved: Callable, pairs: EncodedRecords, tiny_model: Path, tmp_path: Path) -> None:
    model = moved()
    trainer = trainer_of("CPO", tiny_model, model, ANY, tmp_path, loss_type="simpo", simpo_gamma=0.7, cpo_alpha=0.0)
    loss, _ = trainer.get_batch_loss_metrics(trainer.model, unpaired(pairs))
    assert_same(
        SimPo(BETA, 0.7).loss(model, PackedDataset.from_records(pairs).collate(range(COUNT))),
        model,
        loss,
        trainer.model,
    )


def test_the_odds_ratio_of_orpo(moved: Callable, pairs: EncodedRecords, tiny_model: Path, tmp_path: Path) -> None:
    model = moved()
    trainer = trainer_of("ORPO", tiny_model, model, ANY, tmp_path)
    loss, metrics = trainer.get_batch_loss_metrics(trainer.model, unpaired(pairs))
    objective = Orpo(BETA, sft_weight=0.0)
    # what TRL learns beside the odds is the whole text of the chosen answers, their prompts too
    whole = trainer.concatenated_forward(trainer.model, unpaired(pairs))[4]
    assert whole.item() == pytest.approx(metrics["nll_loss"], abs=1e-6)
    found = objective.loss(model, PackedDataset.from_records(pairs).collate(range(COUNT)))
    assert float(found.metrics["preference_loss"]) / COUNT == pytest.approx(-metrics["log_odds_ratio"], abs=1e-5)
    assert_same(found, model, loss - whole, trainer.model)


def test_what_orpo_learns_of_a_chosen_answer(
    moved: Callable, pairs: EncodedRecords, tiny_model: Path, tmp_path: Path
) -> None:
    """A pair at a time, CPO's plain loss is the mean over the chosen answer's tokens that ORPO's paper has."""
    model = moved()
    trainer = trainer_of("CPO", tiny_model, model, ANY, tmp_path, loss_type="simpo", simpo_gamma=0.0, cpo_alpha=1.0)
    plain = torch.stack(
        [trainer.concatenated_forward(trainer.model, unpaired(pairs, n, n + 1))[4] for n in range(COUNT)]
    )
    found = Orpo(0.0).loss(model, PackedDataset.from_records(pairs).collate(range(COUNT)))
    assert_same(found, model, plain.mean(), trainer.model)
