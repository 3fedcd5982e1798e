"""Embedding rows: new ones are the mean of the rows of the old ids, and untrained ones are found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.models.embedding_rows import find_untrained_rows, resize_embeddings
from hanlin.models.load import load_model


def load_llama(folder: Path) -> LlamaForCausalLM:
    model = load_model(folder)
    assert isinstance(model, LlamaForCausalLM)
    return model


def test_padding_rows_are_used_before_rows_are_added(tiny_model: Path) -> None:
    before, model = load_llama(tiny_model), load_llama(tiny_model)
    rows = before.config.vocab_size
    resize_embeddings(model, rows - 10, [[1, 2], [3]])
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    assert embeddings.weight.shape[0] == model.config.vocab_size == rows
    assert torch.equal(model.lm_head.weight[rows - 9], before.lm_head.weight[3])


def test_the_head_of_an_untied_model_is_resized_too(tiny_model: Path) -> None:
    model = load_llama(tiny_model)
    rows = model.config.vocab_size
    resize_embeddings(model, rows, [[1], [2], [3]])
    assert model.lm_head.weight.shape == model.model.embed_tokens.weight.shape == (rows + 3, 64)


@pytest.mark.parametrize("ids", [[], [300]])
def test_a_new_token_without_valid_old_ids_is_an_error(tiny_model: Path, ids: list[int]) -> None:
    with pytest.raises(RuntimeError, match="has the old ids"):
        resize_embeddings(load_llama(tiny_model), 300, [ids])


@pytest.mark.parametrize("matrix", ["embed_tokens", "lm_head"])
def test_a_row_that_was_never_trained_in_either_matrix_is_found(tiny_model: Path, matrix: str) -> None:
    model = load_llama(tiny_model)
    (model.lm_head if matrix == "lm_head" else model.model.embed_tokens).weight[7] = 1e-9
    read, written = find_untrained_rows(model, [8, 7, 6, 5], [5, 6, 7, 8])
    assert (read, written) == (((7,), ()) if matrix == "embed_tokens" else ((), (7,)))


def test_a_token_that_is_never_generated_needs_no_row_in_the_head(tiny_model: Path) -> None:
    model = load_llama(tiny_model)
    model.lm_head.weight[7] = 0
    assert find_untrained_rows(model, [7], []) == ((), ())
