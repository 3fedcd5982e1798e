"""What both engines promise of an answer: where it ends, and that nothing beside it changes it."""

from __future__ import annotations

import threading

import pytest

from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.inference.protocol import Completion, Engine, GenerationRequest, PromptScoreRequest, SamplingParams
from random_requests import CONTEXT, requests_of

PROMPT = (20, 30, 40)


def test_an_answer_is_the_same_alone_and_in_a_batch(engine: Engine) -> None:
    requests = requests_of(40)
    assert engine.generate(requests) == [engine.generate([request])[0] for request in requests]


def test_sampled_answers_do_not_depend_on_their_neighbors(engine: Engine) -> None:
    requests = requests_of(20, temperature=1.0)
    assert engine.generate(requests) == [engine.generate([request])[0] for request in requests]


def test_a_stream_gives_what_generate_gives(engine: Engine) -> None:
    for request in requests_of(12, seed=1):
        stream = engine.stream(request)
        assert stream.finish_reason is None
        ids = tuple(stream)
        assert [Completion(ids, stream.finish_reason)] == engine.generate([request])  # type: ignore[arg-type]


def test_a_stream_tells_how_much_of_its_prompt_was_cached(engine: Engine) -> None:
    prompt = tuple(range(30, 50))
    for ids, cached in ((prompt, None), (prompt, 19), ((*prompt[:12], 7, 7, 7), 12)):
        stream = engine.stream(GenerationRequest(ids, (), SamplingParams(max_new_tokens=3)))
        next(stream)
        assert cached is None or stream.cached_tokens == cached  # known with the first token
        list(stream)


def test_an_answer_ends_before_any_of_its_stop_ids(engine: Engine) -> None:
    (free,) = engine.generate([GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=12))])
    assert free.finish_reason == "length" and len(free.ids) == 12
    for stop in (free.ids[3], free.ids[9]):
        (reply,) = engine.generate([GenerationRequest(PROMPT, (999_999, stop), SamplingParams(max_new_tokens=12))])
        assert reply == Completion(free.ids[: free.ids.index(stop)], "stop")


def test_requests_of_one_batch_have_their_own_stop_ids_and_lengths(engine: Engine) -> None:
    (free,) = engine.generate([GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=12))])
    stop = free.ids[3]
    first, second, third = engine.generate(
        [
            GenerationRequest(PROMPT, (stop,), SamplingParams(max_new_tokens=12)),
            GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=5)),
            GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=12)),
        ]
    )
    assert first.finish_reason == "stop" and stop not in first.ids
    assert second == Completion(free.ids[:5], "length")
    assert third == free


def test_a_stream_can_be_closed_while_another_thread_waits_for_its_next_id(engine: Engine) -> None:
    for _ in range(20):
        stream = engine.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=900)))
        next(stream)
        reader = threading.Thread(target=list, args=(stream,))
        reader.start()
        stream.close()
        reader.join(300)
        assert not reader.is_alive()
        assert stream.finish_reason == "cancelled"


def test_a_cancelled_stream_ends_soon_in_whatever_thread_reads_it(engine: Engine) -> None:
    stream = engine.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=900)))
    next(stream)
    stream.cancel()
    assert len(list(stream)) < 900
    assert stream.finish_reason == "cancelled"


class Breaking:
    """A constraint with a fault."""

    def is_ready(self, seconds: float = 0.0) -> bool:
        raise ZeroDivisionError

    def close(self) -> None:
        pass

    def allowed_tokens(self) -> object:
        raise ZeroDivisionError

    def accept_token(self, token_id: int) -> None:
        raise AssertionError


def test_an_answer_that_breaks_leaves_those_beside_it_alone(cpp: Engine) -> None:
    good = cpp.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=60)))
    bad = cpp.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=60), Breaking()))  # type: ignore[arg-type]
    with pytest.raises(ZeroDivisionError):
        list(bad)
    assert len(list(good)) == 60 and good.finish_reason == "length"


def test_no_requests_give_no_replies(engine: Engine) -> None:
    assert engine.generate([]) == []
    assert engine.score([]) == []


def test_each_completion_and_score_is_told_once_and_is_the_one_returned(engine: Engine) -> None:
    requests = [GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=count)) for count in (9, 2, 5)]
    told: list[tuple[int, object]] = []
    completions = engine.generate(requests, on_completion=lambda *item: told.append(item))
    assert sorted(told, key=lambda item: item[0]) == list(enumerate(completions))
    assert told[0][0] == 1  # the shortest answer is not held back by a longer one before it
    told.clear()
    pairs = [(PROMPT, (50 + number, 60)) for number in range(4)] + [((70, 80), (90,)), (PROMPT, (50, 60))]
    scores = engine.score(pairs, on_score=lambda *item: told.append(item))
    assert sorted(told, key=lambda item: item[0]) == list(enumerate(scores))


def test_an_answer_fills_the_context_and_no_more(engine: Engine) -> None:
    prompt = tuple(10 + number % 300 for number in range(CONTEXT - 5))
    (reply,) = engine.generate([GenerationRequest(prompt, (), SamplingParams(max_new_tokens=50))])
    assert reply.finish_reason == "length" and len(reply.ids) == 5


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ((), "the prompt is empty"),
        (tuple([20] * CONTEXT), f"the prompt is {CONTEXT} tokens long"),
        ((20, 100_000), "token id 100000 is outside"),
        ((-1,), "token id -1 is outside"),
    ],
)
def test_a_prompt_that_cannot_be_run_is_refused_in_words(engine: Engine, prompt: tuple[int, ...], said: str) -> None:
    with pytest.raises(UserError, match=said):
        engine.generate([GenerationRequest(PROMPT, ()), GenerationRequest(prompt, ())])
    with pytest.raises(UserError, match=said):
        engine.stream(GenerationRequest(prompt, ()))


def test_a_pair_that_cannot_be_scored_is_refused_in_words(engine: Engine) -> None:
    with pytest.raises(UserError, match="at least one token each"):
        engine.score([(PROMPT, ())])
    with pytest.raises(UserError, match=f"at most {CONTEXT + 1} can be scored"):
        engine.score([(PROMPT, [20] * CONTEXT)])


def test_a_closed_stream_ends_as_cancelled(engine: Engine) -> None:
    stream = engine.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=900)))
    first = [next(stream) for _ in range(3)]
    stream.close()
    assert stream.finish_reason == "cancelled"
    (reply,) = engine.generate([GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=3))])
    assert list(reply.ids) == first


def test_threads_that_ask_at_once_each_get_their_own_answers(engine: Engine) -> None:
    requests = requests_of(24, seed=5)
    expected = engine.generate(requests)
    found: dict[int, object] = {}

    def ask(start: int) -> None:
        if start % 8:
            found[start] = engine.generate(requests[start : start + 4])
        else:
            found[start] = [Completion(tuple(stream := engine.stream(request)), stream.finish_reason)  # type: ignore[arg-type]
                            for request in requests[start : start + 4]]  # fmt: skip

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(0, 24, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [reply for start in range(0, 24, 4) for reply in found[start]] == expected  # type: ignore[attr-defined]


def test_progress_is_told(engine: Engine, tmp_path: object) -> None:
    file = tmp_path / "progress.json"  # type: ignore[operator]
    engine.generate(requests_of(5), Progress("ask", file, quiet=True, every=0))
    assert '"done": 5, "total": 5' in file.read_text(encoding="utf-8")


def test_every_token_of_a_prompt_is_scored_beside_answers(engine: Engine) -> None:
    ids = tuple(range(20, 60))
    stream = engine.stream(GenerationRequest(PROMPT, (), SamplingParams(max_new_tokens=40)))
    (score, short) = engine.score_prompts([PromptScoreRequest(ids, 3), PromptScoreRequest(ids[:1])])
    assert len(tuple(stream)) == 40
    expected = engine.score([(ids[:place], ids[place : place + 1]) for place in range(1, len(ids))])
    assert [row.logprob for row in score.logprobs] == pytest.approx([row.logprob for row in expected], abs=2e-3)
    assert [row.top[0][1] == row.logprob for row in score.logprobs] == [row.greedy for row in expected]
    assert {len(row.top) for row in (*score.logprobs, score.next_logprobs)} == {3}
    (following,) = engine.generate([GenerationRequest(ids, (), SamplingParams(max_new_tokens=1))])
    assert (score.next_id,) == following.ids
    assert (short.logprobs, short.next_logprobs.top) == ((), ())
    for wrong in ((), (999_999,), (20,) * (CONTEXT + 1)):
        with pytest.raises(UserError):
            engine.score_prompts([PromptScoreRequest(wrong)])
