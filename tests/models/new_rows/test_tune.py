"""New rows trained by the loss of the next token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.core.progress import Progress
from hanlin.models.embedding_rows import resize_embeddings
from hanlin.models.load import load_model
from hanlin.models.new_rows import tune
from hanlin.models.new_rows.tune import HeadTargets, TrainedRows, cut_stream, train_head, tune_rows

OLD_IDS = [[20, 21], [22, 23, 24], [25, 26]]
BEGIN = 1
QUIET = Progress(quiet=True)


def grown(folder: Path) -> tuple[LlamaForCausalLM, int]:
    """The model with three new tokens and the id of the first."""
    model = load_model(folder)
    assert isinstance(model, LlamaForCausalLM)
    first = model.config.vocab_size
    resize_embeddings(model, first, OLD_IDS)
    return model, first


def test_texts_are_cut_into_rows_one_behind_the_other() -> None:
    texts = [[5] * 200, [6] * 200, [7] * 200]
    first, second = cut_stream(texts, BEGIN, 2)
    assert first == [BEGIN, *[5] * 200, BEGIN, *[6] * 54]
    assert second == [*[6] * 146, BEGIN, *[7] * 109]
    assert len(cut_stream(texts, BEGIN, 9)) == 3
    assert cut_stream([], BEGIN, 2) == []


def test_the_loss_of_head_targets_is_that_of_the_whole_vocabulary() -> None:
    torch.manual_seed(0)
    old, new, states = torch.randn(12, 8), torch.randn(3, 8), torch.randn(6, 8)
    ids = torch.tensor([0, 12, 3, 14, 11, 13])
    targets = HeadTargets.of(states, ids, old)
    whole = functional.cross_entropy(states @ torch.cat([old, new]).T, ids, reduction="sum")
    torch.testing.assert_close(targets.loss_sum(new, 12), whole)
    part = torch.tensor([1, 4])
    torch.testing.assert_close(
        targets.select(part).loss_sum(new, 12),
        functional.cross_entropy((states @ torch.cat([old, new]).T)[part], ids[part], reduction="sum"),
    )


def test_the_head_learns_which_states_a_token_follows() -> None:
    torch.manual_seed(1)
    old = torch.randn(30, 8)
    states = torch.randn(4000, 8)
    ids = torch.where(states[:, 0] > 0, 30, 32)  # 31 never occurs
    targets = HeadTargets.of(states, ids, old)
    start = torch.zeros(3, 8)
    moment = states.T @ states / len(states)
    counts = torch.bincount(ids, minlength=33)[30:]
    rows = train_head(TrainedRows(old, start, OLD_IDS, counts, moment), targets, 30, seed=1, progress=QUIET)
    assert targets.loss_sum(rows, 30) < targets.loss_sum(start, 30)
    assert rows[0, 0] > rows[2, 0]


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_tuning_lowers_the_loss_and_changes_new_rows_alone(kind: str, tiny_model: Path, tied_model: Path) -> None:
    model, first = grown(tied_model if kind == "tied" else tiny_model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    text = [BEGIN, *[30, first, 31, first + 1] * 12]
    ids = torch.tensor([text])

    def loss() -> float:
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    begun = loss()
    moment = torch.eye(model.config.hidden_size)
    figures = tune_rows(model, first, OLD_IDS, [text] * 80, moment, seed=1, progress=QUIET)
    assert loss() < begun and figures["loss"] < figures["loss_before"]
    for name, weight in model.state_dict().items():
        old, new = (before[name][:first], weight[:first]) if len(weight) == first + 3 else (before[name], weight)
        assert torch.equal(old, new), name
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings


def test_without_texts_rows_stay_as_they_are(tied_model: Path) -> None:
    model, first = grown(tied_model)
    before = model.lm_head.weight.clone()
    assert tune_rows(model, first, OLD_IDS, [], torch.eye(model.config.hidden_size), seed=1, progress=QUIET) == {}
    assert torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("change", [50.0, math.nan, math.inf], ids=["large", "nan", "infinite"])
@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_rows_that_predict_worse_after_training_are_left_where_they_begin(
    kind: str, change: float, tiny_model: Path, tied_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = grown(tied_model if kind == "tied" else tiny_model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def spoil(modules: Sequence[TrainedRows], *_: object) -> None:
        for rows in modules:
            rows.own.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(change)

    monkeypatch.setattr(tune, "_optimize", spoil)
    text = [BEGIN, *[30, first, 31, first + 1] * 12]
    moment = torch.eye(model.config.hidden_size)
    figures = tune_rows(model, first, OLD_IDS, [text] * 16, moment, seed=1, progress=QUIET)
    assert figures["loss"] == figures["loss_before"]
    for name, weight in model.state_dict().items():
        assert torch.equal(before[name], weight), name


def test_tokens_that_do_not_occur_move_only_as_all_do() -> None:
    torch.manual_seed(1)
    rows = TrainedRows(torch.randn(30, 8), torch.zeros(3, 8), OLD_IDS, torch.tensor([4, 0, 400]), None)
    with torch.no_grad():
        rows.own.fill_(1.0)
        change = rows()
        assert (change[1] == 0).all() and (change[2] > change[0]).all()
        rows.bias.fill_(0.5)
        torch.testing.assert_close(rows() - change, torch.full((3, 8), 0.5))
        rows.scale(0.0)
        assert (rows() == 0).all()
