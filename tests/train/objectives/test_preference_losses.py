"""Objectives on preferences: compared with the papers' equations, computed plainly from transformers' own logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings import preference as preference_settings
from hanlin.config.settings.model import LoraSettings
from hanlin.core.errors import UserError
from hanlin.train import trainer
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.mismatched import MismatchedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.distributed.context import DistContext
from hanlin.train.distributed.ddp import DDP
from hanlin.train.objectives.answer_logprobs import (
    AnswerLogprobs,
    compute_answer_logprobs,
    compute_dataset_logprobs,
    compute_pair_logprobs,
)
from hanlin.train.objectives.base import Objective
from hanlin.train.objectives.kto import Kto
from hanlin.train.objectives.pairwise import DPO_LOSSES, Dpo, Hinge, Ipo, Orpo, PairObjective, SimPo
from training_data import CPU, many, preference, unpaired_preference

SETTINGS = preference_settings.Simpo(model="m", data=("d",), max_seq_length=256)
REFERENCE = np.asarray([[-9.0, -11.0], [-60.0, -38.0], [-15.0, -95.5], [-40.0, -41.0]], np.float32)
ALL = range(4)
Plain = tuple[torch.Tensor, torch.Tensor]
THEN = torch.from_numpy(REFERENCE)


@pytest.fixture
def pairs(encoded: Callable, template: ChatTemplate) -> EncodedRecords:
    return encoded(many(preference, 4), ChatEncoder(template, 256, "drop").preferences, width=2)


@pytest.fixture
def answers(encoded: Callable, template: ChatTemplate) -> EncodedRecords:
    return encoded(many(unpaired_preference, 4), ChatEncoder(template, 256, "drop").unpaired_preferences)


def examples_of(store: EncodedRecords) -> list[tuple[list[int], list[bool]]]:
    bounds = zip(store.starts[:-1].tolist(), store.starts[1:].tolist(), strict=True)
    return [(store.ids[start:end].tolist(), store.loss_mask[start:end].tolist()) for start, end in bounds]


def plain(model: Any, examples: Sequence[tuple[list[int], list[bool]]]) -> Plain:
    """Summed log-probabilities and lengths of answers, through transformers' own forward over a padded batch."""
    width = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids, _ in examples])
    seen = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in examples])
    learn = torch.tensor([[*learn, *[False] * (width - len(learn))] for _, learn in examples])[:, 1:]
    shares = model(input_ids=ids, attention_mask=seen).logits[:, :-1].log_softmax(-1)
    found = shares.gather(2, ids[:, 1:, None])[:, :, 0]
    return torch.where(learn, found, torch.zeros(())).sum(1), learn.sum(1).float()


def gradients(model: TrainModel) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone() for name, parameter in model.trainable_parameters() if parameter.grad is not None
    }


def assert_same_gradients(model: TrainModel, theirs: torch.nn.Module) -> None:
    wanted = dict(theirs.named_parameters())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name].grad, atol=2e-5, rtol=1e-3)


# ------------------------------------------------------------------------------------------- the papers' equations


def dpo(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    ratio = sums - THEN
    return -torch.log(torch.sigmoid(0.3 * ratio[:, 0] - 0.3 * ratio[:, 1]))


def smoothed_dpo(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    ratio = sums - THEN
    sure = torch.sigmoid(0.05 * ratio[:, 0] - 0.05 * ratio[:, 1])
    return -0.9 * torch.log(sure) - 0.1 * torch.log(1 - sure)


def ipo(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    ratio = (sums - THEN) / lengths
    return (ratio[:, 0] - ratio[:, 1] - 1 / (2 * 0.4)) ** 2


def smoothed_ipo(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    ratio = (sums - THEN) / lengths
    distance = ratio[:, 0] - ratio[:, 1]
    return 0.8 * (distance - 1 / (2 * 0.4)) ** 2 + 0.2 * (-distance - 1 / (2 * 0.4)) ** 2


def hinge(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    ratio = sums - THEN
    return torch.clamp(1 - (0.3 * ratio[:, 0] - 0.3 * ratio[:, 1]), min=0)


def dpo_with_chosen(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return dpo(sums, lengths) - 0.5 * sums[:, 0] / lengths[:, 0]


def simpo(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    chosen, rejected = 2.5 / lengths[:, 0] * sums[:, 0], 2.5 / lengths[:, 1] * sums[:, 1]
    return -torch.log(torch.sigmoid(chosen - rejected - 1.25))


def orpo(sums: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    likely = torch.exp(sums / lengths)
    odds = likely / (1 - likely)
    return -torch.log(likely[:, 0]) + 0.2 * -torch.log(torch.sigmoid(torch.log(odds[:, 0] / odds[:, 1])))


FORMS: dict[str, tuple[PairObjective, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = {
    "dpo": (Dpo(0.3, 0.0, REFERENCE), dpo),
    "smoothed dpo": (Dpo(0.05, 0.1, REFERENCE), smoothed_dpo),
    "dpo with the chosen answers learned": (Dpo(0.3, 0.0, REFERENCE, 0.5), dpo_with_chosen),
    "ipo": (Ipo(0.4, 0.0, REFERENCE), ipo),
    "smoothed ipo": (Ipo(0.4, 0.2, REFERENCE), smoothed_ipo),
    "hinge": (Hinge(0.3, 0.0, REFERENCE), hinge),
    "simpo": (SimPo(2.5, 1.25), simpo),
    "orpo": (Orpo(0.2), orpo),
}


def test_every_loss_of_the_settings_has_a_class() -> None:
    assert set(DPO_LOSSES) == set(get_args(preference_settings.Dpo.model_fields["loss"].annotation))


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_and_gradient_of_pairs_are_the_paper_s(
    form: str, make_model: Callable, pairs: EncodedRecords, tiny_model: Path
) -> None:
    objective, equation = FORMS[form]
    model = make_model(SETTINGS)
    found = objective.loss(model, PackedDataset.from_records(pairs).collate(ALL))
    found.total.backward()
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    sums, lengths = plain(theirs, examples_of(pairs))
    expected = equation(sums.view(-1, 2), lengths.view(-1, 2)).sum()
    expected.backward()
    assert found.weight == 4
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-5)
    assert_same_gradients(model, theirs)


def kto_of(store: EncodedRecords, reference: np.ndarray = REFERENCE, **changes: float) -> Kto:
    weights = {"beta": 0.2, "desirable_weight": 1.5, "undesirable_weight": 0.7, **changes}
    mismatched = PackedDataset.from_records(MismatchedRecords.from_encoded(store, 256))
    return Kto(**weights, desirable=store.desirable, reference=reference, mismatched=mismatched)


def test_the_loss_and_gradient_of_judged_answers_are_the_paper_s(
    make_model: Callable, answers: EncodedRecords, tiny_model: Path
) -> None:
    model = make_model(SETTINGS)
    reference = REFERENCE.copy()
    reference[:, 1] -= 60  # the policy finds foreign answers likelier than its reference did: the point is not cut at 0
    objective = kto_of(answers, reference).prepare_step(model, np.arange(4), 256, lambda tensors: None)
    found = objective.loss(model, PackedDataset.from_records(answers).collate(ALL))
    found.total.backward()

    theirs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    own = examples_of(answers)
    places = [learn.index(True) for _, learn in own]
    foreign = []
    for number in ALL:  # two answers to each prompt stand together, so the answer of the one before the last is taken
        prompt, answer = places[number], places[number - 2]
        ids = own[number][0][:prompt] + own[number - 2][0][answer:]
        foreign.append((ids, [place >= prompt for place in range(len(ids))]))
    then = torch.from_numpy(reference)
    with torch.no_grad():
        point = (plain(theirs, foreign)[0] - then[:, 1]).mean().clamp(min=0)
    ratio = plain(theirs, own)[0] - then[:, 0]
    good = torch.tensor([True, False, True, False])
    value = torch.where(good, 1.5 * torch.sigmoid(0.2 * (ratio - point)), 0.7 * torch.sigmoid(0.2 * (point - ratio)))
    expected = (torch.where(good, 1.5, 0.7) - value).sum()
    expected.backward()
    assert point > 1 and objective.reference_point == pytest.approx(point.item(), rel=1e-5)
    assert found.weight == 4
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(model, theirs)


def test_a_reference_point_below_zero_counts_as_zero(make_model: Callable, answers: EncodedRecords) -> None:
    reference = np.zeros((4, 2), np.float32)  # the policy finds everything less likely than certain
    objective = kto_of(answers, reference).prepare_step(make_model(SETTINGS), np.arange(4), 256, lambda tensors: None)
    assert objective.reference_point == 0.0


def test_odds_of_an_answer_that_is_certain_are_finite() -> None:
    sums = torch.zeros((1, 2), requires_grad=True)
    rewards = Orpo(0.1).rewards(AnswerLogprobs(sums, torch.ones(1, 2)), (0,))
    rewards.sum().backward()
    assert rewards.isfinite().all() and sums.grad is not None and sums.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------- the shared prompt


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4)])
def test_answers_behind_one_prompt_have_the_log_probabilities_and_gradients_of_separate_rows(
    make_model: Callable, pairs: EncodedRecords, lora: LoraSettings | None
) -> None:
    found = []
    for rows in (PackedDataset.from_records(pairs), PackedDataset.from_records(pairs, share_prompt=False)):
        model = make_model(SETTINGS.model_copy(update={"lora": lora}))
        with torch.no_grad():
            for name, weight in model.trainable_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        model.refresh()
        batch = rows.collate(ALL)
        sums = compute_answer_logprobs(model, batch).sums
        Dpo(0.3, 0.0, REFERENCE).loss(model, batch).total.backward()
        found.append((batch.tokens, sums.detach(), gradients(model)))
    (tokens, sums, gradient), (unshared_tokens, sums_unshared, gradient_unshared) = found
    assert tokens < 0.8 * unshared_tokens
    torch.testing.assert_close(sums, sums_unshared, atol=1e-5, rtol=1e-6)
    for name, value in gradient.items():
        torch.testing.assert_close(value, gradient_unshared[name], atol=1e-5, rtol=1e-4)


# ------------------------------------------------------------------------------------------------------ the start


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, dropout=0.2)])
def test_a_policy_that_equals_its_reference_starts_at_the_known_loss(
    make_model: Callable, pairs: EncodedRecords, answers: EncodedRecords, lora: LoraSettings | None
) -> None:
    model = make_model(SETTINGS.model_copy(update={"lora": lora}))
    singles = PackedDataset.from_records(answers), kto_of(answers).mismatched
    with torch.no_grad():
        of_pairs = compute_pair_logprobs(model, PackedDataset.from_records(pairs).collate(ALL)).sums.numpy()
        of_answers = [compute_answer_logprobs(model, rows.collate(ALL)).sums.numpy() for rows in singles]
    model.hf_model.train()
    known = {
        math.log(2): (Dpo(0.1, 0.0, of_pairs), Dpo(0.1, 0.3, of_pairs)),
        25.0: (Ipo(0.1, 0.0, of_pairs), Ipo(0.1, 0.3, of_pairs)),
        1.0: (Hinge(0.1, 0.0, of_pairs), Hinge(0.1, 0.3, of_pairs)),
        0.5: (kto_of(answers, np.stack(of_answers, 1)),),
    }
    for start, objectives in known.items():
        for objective in objectives:
            rows = PackedDataset.from_records(answers if isinstance(objective, Kto) else pairs)
            now = objective.calibrate_reference(model, rows, np.arange(4), 100, lambda tensors: None)
            found = [now.loss(model, batch) for batch in model.micro_batches(rows, range(4), 100)]
            loss = sum(float(part.metrics["preference_loss"]) for part in found) / sum(part.weight for part in found)
            assert loss == pytest.approx(start, rel=1e-15)
            now.check_first_loss({"preference_loss": loss}, exact=True)


def test_a_great_beta_magnifies_rounding_and_stops_no_run(make_model: Callable, pairs: EncodedRecords) -> None:
    model, data = make_model(SETTINGS, "bfloat16"), PackedDataset.from_records(pairs)
    reference = compute_dataset_logprobs(model, data, ALL, 100).sums.numpy() + 0.02 * np.array([1.0, -1.0])
    Dpo(0.5, 0.0, reference).calibrate_reference(model, data, np.arange(4), 100, lambda tensors: None)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", [Dpo, Ipo, Hinge, Kto])
def test_a_start_is_exact_though_the_reference_was_rounded_otherwise_but_not_of_another_model(
    make_model: Callable, pairs: EncodedRecords, answers: EncodedRecords, form: type[Dpo | Ipo | Kto], precision: str
) -> None:
    model = make_model(SETTINGS, precision)
    data = PackedDataset.from_records(answers if form is Kto else pairs)
    everything = (data, kto_of(answers).mismatched) if form is Kto else (data,)
    reference = np.concatenate(
        [compute_dataset_logprobs(model, rows, ALL, 100).sums.numpy() for rows in everything], axis=1
    )

    def started(off: float) -> Objective:
        given = reference + off * np.array([1.0, -1.0])
        objective = kto_of(answers, given) if issubclass(form, Kto) else form(0.1, 0.0, given)
        return objective.calibrate_reference(model, data, np.arange(4), 100, lambda tensors: None)

    now = started(1e-7)
    found = [now.loss(model, batch) for batch in model.micro_batches(data, range(4), 100)]
    loss = sum(float(part.metrics["preference_loss"]) for part in found) / sum(part.weight for part in found)
    assert loss == pytest.approx({Dpo: math.log(2), Ipo: 25.0, Hinge: 1.0, Kto: 0.5}[form], rel=1e-15)
    with pytest.raises(UserError, match="the first loss is"):
        started(5.0)


@pytest.mark.parametrize(
    ("objective", "loss", "text"),
    [
        (Ipo(0.1, 0.0, REFERENCE), 25.1, "1 / \\(4 beta\\^2\\) = 25.0"),
        (Ipo(0.1, 0.0, REFERENCE), math.log(2), "beta"),
        (Kto(0.1, 1.0, 1.0, REFERENCE, REFERENCE, None), 0.51, "1/2 = 0.5"),  # type: ignore[arg-type]
    ],
)
def test_another_first_loss_stops_the_run(objective: Objective, loss: float, text: str) -> None:
    with pytest.raises(UserError, match=text):
        objective.check_first_loss({"preference_loss": loss}, False)


@pytest.mark.parametrize("objective", [SimPo(2.0, 1.0), Orpo(0.1)])
def test_without_a_reference_any_first_loss_may_be(objective: Objective) -> None:
    objective.check_first_loss({"preference_loss": 3.0}, True)


# ------------------------------------------------------------------------------- how a step is divided changes nothing


@pytest.mark.parametrize("form", [*FORMS, "kto"])
def test_a_step_in_one_pass_equals_one_pass_for_each_unit(
    form: str, make_model: Callable, pairs: EncodedRecords, answers: EncodedRecords
) -> None:
    """Both invariants at once: packed equals unpacked, and accumulated parts equal the whole."""
    objective: Objective = kto_of(answers, REFERENCE - 40) if form == "kto" else FORMS[form][0]
    rows = PackedDataset.from_records(answers if form == "kto" else pairs)
    found = []
    for micro_batch_tokens in (10_000, 1):
        model = make_model(SETTINGS)
        now = objective.prepare_step(model, np.arange(4), micro_batch_tokens, lambda tensors: None)
        sums = trainer.compute_gradients(model, now, rows, np.arange(4), micro_batch_tokens)
        unbounded = SETTINGS.model_copy(update={"max_grad_norm": 1e9})
        DDP(model, unbounded, DistContext(0, 1, CPU)).reduce_and_clip_grads(sums, objective.weight_name)
        found.append((sums, gradients(model)))
    (whole, gradient), (parts, gradient_of_parts) = found
    assert whole == pytest.approx(parts, rel=1e-5)
    for name, value in gradient.items():
        torch.testing.assert_close(gradient_of_parts[name], value, atol=1e-5, rtol=1e-4)


def test_the_reference_point_is_the_same_for_every_process(make_model: Callable, answers: EncodedRecords) -> None:
    model, objective = make_model(SETTINGS), kto_of(answers, REFERENCE - 40)
    alone = objective.prepare_step(model, np.arange(4), 100, lambda tensors: None).reference_point
    reported: list[torch.Tensor] = []
    for rank in range(3):  # of three, with four answers
        objective.prepare_step(
            model, np.arange(4)[rank::3], 100, lambda tensors: reported.extend(t.clone() for t in tensors)
        )
    total = torch.stack(reported).sum(0)

    def set_totals(tensors: Sequence[torch.Tensor]) -> None:
        for tensor in tensors:
            tensor.copy_(total)

    points = [objective.prepare_step(model, np.arange(4)[rank::3], 100, set_totals) for rank in range(3)]
    assert [now.reference_point for now in points] == [pytest.approx(alone, rel=1e-6)] * 3 and alone > 1


def test_measuring_the_reference_point_leaves_no_gradient_and_goes_on_training(
    make_model: Callable, answers: EncodedRecords
) -> None:
    model = make_model(SETTINGS)
    model.hf_model.train()
    kto_of(answers).prepare_step(model, np.arange(4), 100, lambda tensors: None)
    assert model.hf_model.training and gradients(model) == {}


def test_a_large_margin_is_no_infinity() -> None:
    margins = torch.tensor([-200.0, 200.0])
    for objective in (Dpo(0.1, 0.1, REFERENCE), SimPo(2.0, 1.0), Orpo(0.1)):
        assert objective.losses(margins).isfinite().all()


# --------------------------------------------------------------------------------------------- mismatched answers


def test_no_prompt_meets_an_answer_of_its_own(answers: EncodedRecords, template: ChatTemplate) -> None:
    mismatched = MismatchedRecords.from_encoded(answers, 256)
    assert mismatched.shift == 2  # the two answers to a prompt stand together
    batch = PackedDataset.from_records(mismatched).collate([0])
    ids = [*batch.input_ids[0][: batch.tokens].tolist(), int(batch.targets[-1])]
    own = examples_of(answers)
    assert template.tokenizer.decode(ids).endswith("好的，是2") and ids[-1] in template.stop_ids
    assert ids[: own[0][1].index(True)] == own[0][0][: own[0][1].index(True)]
    assert len(batch.targets) == sum(own[2][1])


def test_every_answer_is_mismatched_once(answers: EncodedRecords) -> None:
    mismatched = MismatchedRecords.from_encoded(answers, 256)
    counts = PackedDataset.from_records(mismatched).collate(ALL).target_counts
    assert sorted(counts) == sorted(PackedDataset.from_records(answers).collate(ALL).target_counts)


def test_a_mismatched_answer_is_cut_at_the_end_of_a_row(answers: EncodedRecords) -> None:
    longest = int(answers.lengths.max())
    short = PackedDataset.from_records(MismatchedRecords.from_encoded(answers, longest - 3))
    assert max(short.sample_lengths) == longest - 3
    assert all(count > 0 for count in short.collate(ALL).target_counts)


def test_one_answer_alone_is_refused(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(unpaired_preference, 1), ChatEncoder(template, 256, "drop").unpaired_preferences)
    with pytest.raises(UserError, match="only one answer"):
        MismatchedRecords.from_encoded(store, 256)


def test_where_all_prompts_are_one_the_next_answer_is_taken(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(unpaired_preference, 2), ChatEncoder(template, 256, "drop").unpaired_preferences)
    assert MismatchedRecords.from_encoded(store, 256).shift == 1
