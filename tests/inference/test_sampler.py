"""How an id is chosen from logits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.core.errors import UserError
from hanlin.inference.protocol import SamplingParams
from hanlin.inference.sampler import Sampler, log_softmax, token_logprobs

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))


def draws(count: int = 4000, **settings: object) -> dict[int, float]:
    chooser = Sampler(SamplingParams(temperature=1.0, seed=0, **settings), ())  # type: ignore[arg-type]
    counts = Counter(chooser.sample(LOGITS) for _ in range(count))
    return {number: counts[number] / count for number in sorted(counts)}


def test_at_temperature_zero_the_likeliest_of_equal_ones_the_lowest() -> None:
    assert Sampler(SamplingParams(), ()).sample(np.array([1.0, 3.0, 3.0], np.float32)) == 1


def test_draws_follow_the_probabilities() -> None:
    assert draws() == pytest.approx({0: 0.5, 1: 0.25, 2: 0.15, 3: 0.1}, abs=0.03)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert draws(top_k=2) == pytest.approx({0: 2 / 3, 1: 1 / 3}, abs=0.03)


def test_of_equal_logits_at_the_border_the_lowest_ids_are_kept() -> None:
    """Logits in bfloat16 are often equal; a partition takes any of them."""
    random = np.random.default_rng(0)
    for seed in range(40):
        logits = random.integers(0, 4, size=50).astype(np.float32)
        order = sorted(range(50), key=lambda token_id: (-logits[token_id], token_id))
        assert [token_id for token_id, _ in token_logprobs(logits, 0, 3).top] == order[:3]
        assert Sampler(SamplingParams(temperature=1.0, top_k=1, seed=seed), ()).sample(logits) == order[0]


def test_min_p_keeps_those_near_the_likeliest() -> None:
    assert draws(min_p=0.4) == pytest.approx({0: 2 / 3, 1: 1 / 3}, abs=0.03)


def test_a_bias_is_added_to_a_logit() -> None:
    assert draws(logit_bias=((3, 100.0), (9999, 1.0))) == {3: 1.0}


def test_presence_and_frequency_penalties_count_the_answer_alone() -> None:
    sampling = SamplingParams(presence_penalty=0.5, frequency_penalty=0.3)
    chooser = Sampler(sampling, (0, 0, 0))
    assert [chooser.sample(LOGITS) for _ in range(5)] == [0, 1, 0, 0, 2]


def test_log_probabilities_are_of_the_logits_as_they_came() -> None:
    chooser = Sampler(SamplingParams(logit_bias=((2, 100.0),), top_logprobs=2), ())
    assert chooser.sample(LOGITS) == 2
    (likely,) = chooser.logprobs
    assert likely.logprob == pytest.approx(np.log(0.15))
    assert [number for number, _ in likely.top] == [0, 1]


def test_a_constraint_has_the_last_word() -> None:
    class Only:
        failed = ""
        spec: Mapping[str, Any] = {}

        def __init__(self) -> None:
            self.took_ids: list[int] = []

        def is_ready(self, seconds: float = 0.0) -> bool:
            return True

        def close(self) -> None:
            pass

        def allowed_tokens(self) -> np.ndarray:
            return np.array([False, False, True])  # shorter than the logits: the rest may not come

        def accept_token(self, token_id: int) -> None:
            self.took_ids.append(token_id)

    only = Only()
    chooser = Sampler(SamplingParams(temperature=1.0, seed=0, logit_bias=((0, 100.0),)), (), only)
    assert [chooser.sample(LOGITS) for _ in range(5)] == [2] * 5 == only.took_ids


@pytest.mark.parametrize("temperature", [5e-324, 1e-30])
def test_the_smallest_temperature_is_greedy(temperature: float) -> None:
    assert Sampler(SamplingParams(temperature=temperature, seed=0), ()).sample(LOGITS) == 0


def test_top_p_keeps_the_fewest_that_reach_it() -> None:
    assert draws(top_p=0.7) == pytest.approx({0: 2 / 3, 1: 1 / 3}, abs=0.03)
    assert draws(top_p=0.3) == {0: 1.0}


def test_a_low_temperature_sharpens() -> None:
    chooser = Sampler(SamplingParams(temperature=0.05, seed=0), ())
    assert {chooser.sample(LOGITS) for _ in range(200)} == {0}


def test_ids_of_the_prompt_and_the_answer_are_penalised() -> None:
    logits = np.array([2.0, 1.9, -1.0, 1.8], np.float32)
    chooser = Sampler(SamplingParams(repetition_penalty=2.0), (0,))
    assert [chooser.sample(logits) for _ in range(3)] == [1, 3, 0]
    assert logits.tolist() == np.array([2.0, 1.9, -1.0, 1.8], np.float32).tolist()


def test_what_ends_an_answer_is_not_penalised_though_the_prompt_holds_it_after_each_turn() -> None:
    logits = np.array([2.0, 1.9, -1.0, 1.8], np.float32)
    for window in (-1, 4):
        sampling = SamplingParams(repetition_penalty=2.0, repeat_last_n=window)
        assert Sampler(sampling, (0, 1), stop_ids=(0,)).sample(logits) == 0, window
        chooser = Sampler(sampling, (0, 1), stop_ids=(7,))
        assert [chooser.sample(logits) for _ in range(2)] == [3, 0], window


def test_an_equal_seed_gives_equal_draws_and_none_fresh_ones() -> None:
    def answer(seed: int | None) -> list[int]:
        chooser = Sampler(SamplingParams(temperature=1.0, seed=seed), ())
        return [chooser.sample(LOGITS) for _ in range(60)]

    assert answer(5) == answer(5)
    assert answer(5) != answer(6)
    assert answer(None) != answer(None)


@settings(deadline=None)
@given(
    st.lists(st.floats(-80, 80, width=32), min_size=1, max_size=40),
    st.floats(0.01, 5),
    st.floats(0.01, 1),
    st.integers(0, 50),
)
def test_what_is_drawn_is_always_an_id_that_is_allowed(
    values: list[float], temperature: float, top_p: float, top_k: int
) -> None:
    logits = np.array(values, np.float32)
    chooser = Sampler(SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, seed=1), ())
    number = chooser.sample(logits)
    assert 0 <= number < len(values)
    if top_k:
        assert (logits > logits[number]).sum() < top_k


def test_log_softmax_is_that_of_torch() -> None:
    import torch

    logits = np.random.default_rng(0).standard_normal((3, 1000)).astype(np.float32) * 10
    assert np.allclose(log_softmax(logits), torch.tensor(logits).log_softmax(-1).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -1},
     {"repetition_penalty": 0.0}, {"max_new_tokens": 0}],
    ids=str,
)  # fmt: skip
def test_a_setting_out_of_range_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SamplingParams(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_p": 0.999, "min_p": 1e-7}, {"top_k": 40}]
)
@pytest.mark.parametrize("spread", [0.5, 4.0, 20.0])
def test_a_draw_among_the_likeliest_is_the_draw_among_all(settings: dict, spread: float) -> None:
    """Whether a distribution is flat, so that all ids are sorted, or steep, so that few are."""
    random = np.random.default_rng(1)
    for seed in range(40):
        logits = (random.normal(size=9000) * spread).astype(np.float32)
        logits[:3000] = logits[3000:6000]  # equal ones, of which the lowest comes first
        chooser = Sampler(SamplingParams(temperature=0.8, seed=seed, **settings), ())
        numbers = np.arange(len(logits))
        if "top_k" in settings:
            numbers = np.sort(np.argpartition(-logits, 39)[:40])
        scaled = (logits[numbers].astype(np.float64) - logits.max()) / 0.8
        weights = np.exp(scaled)
        order = np.argsort(-weights, kind="stable")
        summed = np.cumsum(weights[order])
        kept = len(order)
        if "top_p" in settings:
            kept = int(np.searchsorted(summed, settings["top_p"] * summed[-1])) + 1
        if "min_p" in settings:
            kept = min(kept, int((weights[order] >= settings["min_p"]).sum()))
        chance = np.random.default_rng(seed).random()
        drawn = int(np.searchsorted(summed[:kept], chance * summed[kept - 1], side="right"))
        assert chooser.sample(logits) == numbers[order[min(drawn, kept - 1)]]


def test_penalties_look_at_the_latest_tokens_only() -> None:
    logits = np.array([2.0, 1.5, 0.0], np.float32)
    for window, expected in ((-1, 1), (0, 0), (1, 0), (3, 1)):
        sampler = Sampler(SamplingParams(repetition_penalty=4.0, repeat_last_n=window), (0, 2, 2))
        assert sampler.sample(logits) == expected, window
    sampler = Sampler(SamplingParams(presence_penalty=1.0, repeat_last_n=1), (0, 0))
    assert [sampler.sample(logits) for _ in range(4)] == [0, 1, 0, 1]


def test_typical_sampling_keeps_what_is_nearest_to_the_entropy() -> None:
    logits = np.log(np.array([0.05, 0.7, 0.25], np.float32))
    drawn = {
        Sampler(SamplingParams(temperature=1.0, typical_p=0.6, seed=seed), ()).sample(logits) for seed in range(64)
    }
    assert drawn == {1}
    flat = np.log(np.array([0.4, 0.12, 0.12, 0.12, 0.12, 0.12], np.float32))
    drawn = {Sampler(SamplingParams(temperature=1.0, typical_p=0.5, seed=seed), ()).sample(flat) for seed in range(64)}
    assert 0 not in drawn and len(drawn) > 1


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize(
    "settings",
    [
        {"typical_p": 0.8},
        {"typical_p": 0.9, "top_p": 0.7},
        {"typical_p": 0.9, "min_p": 0.3},
        {"typical_p": 0.95, "top_k": 12, "top_p": 0.9, "min_p": 0.05},
    ],
    ids=str,
)
def test_with_typical_p_the_steps_come_in_the_order_of_llama_cpp(settings: dict[str, Any], temperature: float) -> None:
    """`common_params_sampling.samplers` of llama.cpp: top_k, typ_p, top_p, min_p, and temperature last."""
    logits = np.random.default_rng(7).normal(0, 2, 40).astype(np.float32)
    kept = sorted(range(40), key=lambda index: (-logits[index], index))[: settings.get("top_k", 40)]

    def probs(ids: list[int], temperature: float = 1.0) -> dict[int, float]:
        weights = {index: math.exp((float(logits[index]) - float(logits.max())) / temperature) for index in ids}
        return {index: weight / sum(weights.values()) for index, weight in weights.items()}

    def reach(ids: list[int], mass: float) -> list[int]:
        given, sums = probs(kept), 0.0
        for count, index in enumerate(ids, start=1):
            sums += given[index]
            if sums >= mass:
                return ids[:count]
        return ids

    given = probs(kept)
    entropy = -sum(value * math.log(value) for value in given.values())
    kept = reach(sorted(kept, key=lambda index: abs(-math.log(given[index]) - entropy)), settings["typical_p"])
    kept = reach(sorted(kept, key=lambda index: -logits[index]), settings.get("top_p", 1.0))
    given = probs(kept)
    kept = [index for index in kept if given[index] >= settings.get("min_p", 0.0) * max(given.values())]
    expected = probs(kept, temperature)
    count = 4000
    drawn = Counter(
        Sampler(SamplingParams(temperature=temperature, seed=seed, **settings), ()).sample(logits)
        for seed in range(count)
    )
    assert set(drawn) <= set(expected)
    for index, share in expected.items():
        assert drawn[index] / count == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count) + 1e-3)


def test_no_stop_token_is_chosen_before_min_tokens() -> None:
    sampler = Sampler(SamplingParams(min_tokens=2), (), stop_ids=(1, 99))
    assert not sampler.is_greedy
    assert [sampler.sample(np.array([0.0, 5.0, 1.0], np.float32)) for _ in range(3)] == [2, 2, 1]
