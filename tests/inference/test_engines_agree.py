"""Two engines over one model: the same answers, the same draws, the same scores."""

from __future__ import annotations

import pytest

from hanlin.inference.protocol import Engine, GenerationRequest, SamplingParams
from random_requests import requests_of

PAIRS = [((20, 30, 40), (50, 60, 70)), ((20, 30, 40), (50,)), ((20, 30, 40), (51,)), ((99,), (98, 97, 96, 95)),
         (tuple(range(20, 120)), (120, 121)), ((20, 30), (40, 50, 61))]  # fmt: skip


def test_greedy_answers_are_equal(hf: Engine, cpp: Engine) -> None:
    requests = requests_of(80)
    replies = hf.generate(requests)
    assert replies == cpp.generate(requests)
    assert {reply.finish_reason for reply in replies} == {"stop", "length"}


def test_sampled_answers_are_equal_for_an_equal_seed(hf: Engine, cpp: Engine) -> None:
    requests = requests_of(40, temperature=0.9, top_p=0.9, top_k=40, repetition_penalty=1.1)
    assert hf.generate(requests) == cpp.generate(requests)


def test_scores_are_equal(hf: Engine, cpp: Engine) -> None:
    for one, other in zip(hf.score(PAIRS), cpp.score(PAIRS), strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert one.greedy == other.greedy


def test_a_greedy_answer_scores_as_greedy_and_another_does_not(engine: Engine) -> None:
    prompt = (20, 30, 40)
    (reply,) = engine.generate([GenerationRequest(prompt, (), SamplingParams(max_new_tokens=6))])
    changed = (*reply.ids[:-1], (reply.ids[-1] + 1) % 300)
    likely, unlikely = engine.score([(prompt, reply.ids), (prompt, changed)])
    assert likely.greedy and not unlikely.greedy
    assert likely.logprob > unlikely.logprob


def test_a_score_is_the_sum_of_the_models_log_probabilities(engine: Engine, spoken_model: object) -> None:
    import torch

    from hanlin.models.load import load_model

    model = load_model(spoken_model)  # type: ignore[arg-type]
    for (prefix, continuation), score in zip(PAIRS, engine.score(PAIRS), strict=True):
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prefix, *continuation]])).logits[0].log_softmax(-1)
        expected = sum(float(logprobs[len(prefix) - 1 + place, number]) for place, number in enumerate(continuation))
        assert score.logprob == pytest.approx(expected, abs=1e-3)
