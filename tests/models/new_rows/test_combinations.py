"""New rows as combinations of old rows: weighted pieces, similar tokens, orthogonal matching pursuit."""

from __future__ import annotations

import torch

from hanlin.models.new_rows.combinations import (
    ATOMS,
    Combination,
    average_of_similar,
    orthogonal_matching_pursuit,
    weighted_pieces,
)
from hanlin.models.new_rows.token_space import TokenSpace, learn_token_space, spell_out

OTHERWISE = Combination(torch.tensor([[5], [6]]), torch.ones(2, 1))


def unit_space(new: torch.Tensor) -> TokenSpace:
    """Four old tokens, 10 to 13, along the axes."""
    return TokenSpace(torch.arange(10, 14), torch.eye(4), new)


def test_rare_pieces_weigh_more_and_weights_add_up_to_one() -> None:
    counts = torch.tensor([900, 90, 10])
    ids, coefficients = weighted_pieces([[0, 2], [1]], counts)
    assert ids[0].tolist() == [0, 2] and ids[1, 0] == 1
    assert coefficients[0, 1] > 10 * coefficients[0, 0]
    torch.testing.assert_close(coefficients.sum(1), torch.ones(2))


def test_a_piece_that_the_text_does_not_hold_weighs_most() -> None:
    (weights,) = weighted_pieces([[0, 1]], torch.tensor([1000, 0])).coefficients
    assert weights[1] > 0.99


def test_similar_tokens_are_averaged_and_the_most_similar_one_weighs_most() -> None:
    found = average_of_similar(unit_space(torch.tensor([[0.8, 0.6, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])), OTHERWISE)
    assert found.ids[0, 0] == 10 and found.ids[1, 0] == 13
    assert found.coefficients[0, 0] > found.coefficients[0, 1] > 0.1
    torch.testing.assert_close(found.coefficients.sum(1), torch.ones(2))


def test_matching_pursuit_finds_the_tokens_that_a_vector_is_made_of() -> None:
    torch.manual_seed(0)
    old = torch.nn.functional.normalize(torch.randn(40, 64), dim=1)
    new = torch.stack([0.6 * old[3] - 0.4 * old[17], old[5] + old[6] + old[7]])
    found = orthogonal_matching_pursuit(TokenSpace(torch.arange(40), old, new), OTHERWISE)
    assert found.ids.shape[1] == ATOMS
    assert {3, 17} <= set(found.ids[0].tolist()) and {5, 6, 7} <= set(found.ids[1].tolist())
    torch.testing.assert_close(found.apply(old), new, rtol=0, atol=0.01)


def test_a_token_without_a_vector_begins_with_its_pieces() -> None:
    space = unit_space(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    weight = torch.randn(14, 3)
    for method in (average_of_similar, orthogonal_matching_pursuit):
        assert torch.equal(method(space, OTHERWISE).apply(weight)[1], weight[6])


def test_without_a_frequent_old_token_all_begin_with_their_pieces() -> None:
    space = TokenSpace(torch.zeros(0, dtype=torch.long), torch.zeros(0, 4), torch.ones(2, 4))
    for method in (average_of_similar, orthogonal_matching_pursuit):
        assert method(space, OTHERWISE) is OTHERWISE


def test_new_ids_are_spelled_out_in_old_ids() -> None:
    assert spell_out(torch.tensor([7, 1, 8, 7]).numpy(), 7, [[3, 4], [5]]).tolist() == [3, 4, 1, 5, 3, 4]


def test_a_new_token_lies_nearest_to_the_old_one_with_the_same_neighbors() -> None:
    torch.manual_seed(1)
    rows = []
    for _ in range(600):
        left, right = torch.randint(0, 8, (2,)).tolist()
        rows += [[left, 20, right], [left, 30, right]]  # 30 is new: its pieces are 28 and 29
        rows += [[left + 8, 21, right + 8]]
    space = learn_token_space(rows, 30, [[28, 29], [27, 26]])
    nearest = space.old_ids[(space.new[0] @ space.old.T).topk(2).indices].tolist()
    assert 20 in nearest and 21 not in nearest
    assert not space.new[1].any()  # it never occurs


def test_neighbors_do_not_reach_into_another_text() -> None:
    together = learn_token_space([[1, 2]] * 20, 10, [[3, 4]])
    apart = learn_token_space([[1], [2]] * 20, 10, [[3, 4]])
    assert together.old.any() and not apart.old.any()
