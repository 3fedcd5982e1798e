"""Rows fitted to what the model does with the old ids."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.core.progress import Progress
from hanlin.models.embedding_rows import resize_embeddings
from hanlin.models.load import load_model
from hanlin.models.new_rows import distill
from hanlin.models.new_rows.distill import distill_rows

OLD_IDS = [[20, 21], [22, 23, 24], [25, 26]]
BEGIN = 1


@pytest.fixture(params=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tiny_model: Path, tied_model: Path) -> Path:
    return tied_model if request.param == "tied" else tiny_model


def grown(folder: Path) -> tuple[LlamaForCausalLM, int]:
    """The model with three new tokens, as the means of their pieces, and the id of the first."""
    model = load_model(folder)
    assert isinstance(model, LlamaForCausalLM)
    first = model.config.vocab_size
    resize_embeddings(model, first, OLD_IDS)
    return model, first


def texts(first: int) -> list[list[int]]:
    """New token 2 does not occur."""
    return [[30, first, 30, 31, first + 1, 31, 40 + number] * 3 for number in range(24)]


def counts_of(first: int) -> torch.Tensor:
    return torch.bincount(torch.tensor(texts(first)).flatten(), minlength=first + 3)


def fit(model: LlamaForCausalLM, first: int) -> float:
    progress = Progress(quiet=True)
    rows, counts = texts(first), counts_of(first)
    figures = distill_rows(model, first, OLD_IDS, rows, [], counts, BEGIN, seed=1, progress=progress)
    return figures["hidden_state_error"]


def test_old_rows_and_all_other_weights_keep_their_bits(folder: Path) -> None:
    model, first = grown(folder)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    fit(model, first)
    for name, weight in model.state_dict().items():
        old, new = (before[name][:first], weight[:first]) if len(weight) == first + 3 else (before[name], weight)
        assert torch.equal(old, new), name
    assert not any(weight.requires_grad for weight in model.parameters())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == model.config.tie_word_embeddings


def test_the_fit_comes_closer_to_the_hidden_states_than_the_beginning(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, first = grown(folder)
    monkeypatch.setattr(distill, "LEARNING_RATE", 0.0)
    monkeypatch.setattr(distill, "SHARED_LEARNING_RATE", 0.0)
    begun = fit(model, first)
    monkeypatch.undo()
    monkeypatch.setattr(distill, "EPOCHS", 8)
    assert fit(model, first) < 0.8 * begun


def test_a_head_row_has_the_logit_of_its_first_piece_minus_how_much_rarer_it_is(tiny_model: Path) -> None:
    model, first = grown(tiny_model)
    fit(model, first)
    states = model.model(input_ids=torch.tensor([[BEGIN, 30, *OLD_IDS[0], 30, 31, 40, 5, 6]])).last_hidden_state[0]
    difference = states @ (model.lm_head.weight[first : first + 2] - model.lm_head.weight[[20, 22]]).T
    # the pieces 20 and 22 occur in no text but in these tokens, so that nothing is rarer
    torch.testing.assert_close(
        difference.mean(0), torch.full((2,), distill.EXTRA_LOGIT), rtol=0, atol=0.5 * distill.EXTRA_LOGIT
    )


def test_a_token_that_no_text_holds_gets_a_finite_row(folder: Path) -> None:
    model, first = grown(folder)
    before = model.model.embed_tokens.weight[first + 2].clone()
    fit(model, first)
    row = model.model.embed_tokens.weight[first + 2]
    assert torch.isfinite(row).all() and not torch.equal(row, before)


def test_equal_inputs_give_equal_rows(tied_model: Path) -> None:
    rows = []
    for _ in range(2):
        model, first = grown(tied_model)
        fit(model, first)
        rows.append(model.lm_head.weight[first:].clone())
    assert torch.equal(*rows)
