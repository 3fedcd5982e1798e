"""Answers of a transformers model that come and go beside one another, over one model and its adapters."""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hanlin.config.settings.model import LoraSettings, Projection
from hanlin.core.errors import UserError
from hanlin.inference.backends.transformers.engine import TransformersEngine
from hanlin.inference.backends.transformers.kv_cache import TransformersDecoder, TransformersKVCache
from hanlin.inference.decoder import BatchItem
from hanlin.inference.protocol import Completion, Engine, GenerationRequest, SamplingParams
from hanlin.models.adapters import attach_lora, save_adapter
from hanlin.models.load import load_model
from random_requests import CONTEXT, requests_of

SAMPLINGS: Sequence[dict[str, object]] = (
    {},
    {"temperature": 1.1, "top_p": 0.95},
    {"temperature": 0.8, "top_k": 30, "repetition_penalty": 1.2},
    {"presence_penalty": 0.7, "frequency_penalty": 0.4, "top_logprobs": 3},
)


ADAPTED: dict[str, tuple[Projection, ...]] = {
    "red": ("q_proj", "v_proj"),
    "blue.v2": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


@pytest.fixture(scope="module")
def merged(spoken_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Adapters that change the model's answers, by name: the adapter's folder, and the model with it merged in."""
    made = {}
    for seed, (name, targets) in enumerate(ADAPTED.items()):
        folder = tmp_path_factory.mktemp("adapter")
        model = attach_lora(load_model(spoken_model), LoraSettings(rank=4, targets=targets), seed=seed)
        torch.manual_seed(seed)
        for key, value in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(value, std=0.3)
        save_adapter(model, folder / "adapter", base=spoken_model)
        shutil.copytree(spoken_model, folder / "merged")
        model.merge_and_unload().save_pretrained(folder / "merged")
        made[name] = (folder / "adapter", folder / "merged")
    return made


@pytest.fixture(scope="module")
def adapted(spoken_model: Path, merged: dict[str, tuple[Path, Path]]) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(spoken_model, adapters={name: folder for name, (folder, _) in merged.items()})
    yield engine
    engine.close()


def streamed(engine: Engine, requests: Sequence[GenerationRequest], threads: int = 8) -> list[Completion]:
    """The replies of requests that so many threads ask, each its next one when the last is done."""
    replies: dict[int, Completion] = {}

    def ask(first: int) -> None:
        for place in range(first, len(requests), threads):
            stream = engine.stream(requests[place])
            ids = tuple(stream)
            assert stream.finish_reason is not None
            replies[place] = Completion(ids, stream.finish_reason)

    asking = [threading.Thread(target=ask, args=(first,)) for first in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    return [replies[place] for place in range(len(requests))]


def test_answers_beside_one_another_are_those_of_each_request_alone(spoken_model: Path, hf: Engine) -> None:
    requests = [request for seed, sampling in enumerate(SAMPLINGS) for request in requests_of(10, seed, **sampling)]
    random.Random(1).shuffle(requests)
    alone = TransformersEngine(spoken_model, batch=1)
    expected = [alone.generate([request])[0] for request in requests]
    alone.close()
    assert streamed(hf, requests) == expected
    few = TransformersEngine(spoken_model, batch=3)  # places are given on, and do not lie side by side
    assert streamed(few, requests) == expected
    few.close()


def test_streams_of_different_adapters_answer_as_the_merged_models(
    adapted: TransformersEngine, merged: dict[str, tuple[Path, Path]], hf: Engine
) -> None:
    asked = requests_of(8, seed=4)
    expected: dict[str | None, list[Completion]] = {None: hf.generate(asked)}
    for name, (_, folder) in merged.items():
        engine = TransformersEngine(folder)
        expected[name] = [engine.generate([request])[0] for request in asked]
        engine.close()
    assert len({tuple(replies) for replies in expected.values()}) == 3, "the adapters change nothing"
    mixed = [replace(request, adapter=name) for request in asked for name in expected]
    wanted = [reply for replies in zip(*expected.values(), strict=True) for reply in replies]
    assert streamed(adapted, mixed) == wanted
    assert adapted.generate(mixed) == wanted


def test_what_another_adapter_made_of_a_beginning_is_not_used(adapted: TransformersEngine, hf: Engine) -> None:
    """One after another, all in the place where the beginning of the prompt still lies."""
    asked = GenerationRequest(tuple(range(20, 120)), (), SamplingParams(max_new_tokens=12))
    answers = [adapted.generate([replace(asked, adapter=name)])[0] for name in (None, "red", None, "blue.v2", "red")]
    assert answers[0] == answers[2] == hf.generate([asked])[0]
    assert answers[1] == answers[4]
    assert len(set(answers)) == 3


def test_an_unknown_adapter_is_refused_and_breaks_no_answer(adapted: TransformersEngine) -> None:
    stream = adapted.stream(GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=200)))
    with pytest.raises(UserError, match="no adapter is called 'green'"):
        adapted.stream(GenerationRequest((20, 30), (), adapter="green"))
    assert len(list(stream)) == 200


def test_logits_of_pieces_are_the_models(spoken_model: Path) -> None:
    """Sequences in any places, in any pieces, beside any others: within 1e-4 of the model on the sequence alone."""
    model = load_model(spoken_model)
    context = TransformersKVCache(TransformersDecoder(model, torch.device("cpu"), None), sequences=6, length=64)
    chance = random.Random(5)
    for _ in range(6):
        texts = {place: [chance.randrange(10, 390) for _ in range(chance.randrange(1, 60))] for place in range(6)}
        found: dict[int, list[np.ndarray]] = {place: [] for place in texts}
        done = dict.fromkeys(texts, 0)
        while open_ := [place for place in texts if done[place] < len(texts[place])]:
            items = []
            for place in chance.sample(open_, chance.randrange(1, len(open_) + 1)):
                ids = texts[place][done[place] :][: chance.choice((1, 1, 2, 7, 30))]
                items.append(BatchItem(place, done[place], ids, range(len(ids))))
                done[place] += len(ids)
            for item, logits in zip(items, context.decode(items), strict=True):
                found[item.sequence].extend(logits)
        for place, ids in texts.items():
            with torch.no_grad():
                expected = model(torch.tensor([ids])).logits[0].numpy()
            assert np.abs(np.stack(found[place]) - expected).max() < 1e-4
    context.close()


def test_a_long_prompt_does_not_hold_up_a_running_answer(spoken_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[list[int]] = []
    decode = TransformersKVCache.decode

    def watched(self: TransformersKVCache, items: Sequence[BatchItem]) -> list[np.ndarray]:
        steps.append([len(item.ids) for item in items])
        return decode(self, items)

    monkeypatch.setattr(TransformersKVCache, "decode", watched)
    engine = TransformersEngine(spoken_model)
    long = tuple(10 + number % 300 for number in range(CONTEXT - 8))
    engine.generate([GenerationRequest(long, (), SamplingParams(max_new_tokens=1))])  # makes the places long
    running = engine.stream(GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=400)))
    next(running)
    steps.clear()
    other = engine.stream(GenerationRequest(long[::-1], (), SamplingParams(max_new_tokens=2)))
    assert len(list(other)) == 2
    running.close()
    engine.close()
    both = [sizes for sizes in steps if max(sizes) > 1]
    assert len(both) >= 2 and all(1 in sizes and sum(sizes) <= 514 for sizes in both)


def test_a_cancelled_answer_frees_its_place_for_one_that_waits(spoken_model: Path) -> None:
    engine = TransformersEngine(spoken_model, batch=1)
    endless = engine.stream(GenerationRequest((20, 30), (), SamplingParams(max_new_tokens=900)))
    next(endless)
    waiting = engine.stream(GenerationRequest((20, 30, 40), (), SamplingParams(max_new_tokens=3)))
    endless.cancel()
    assert len(list(waiting)) == 3
    assert len(list(endless)) < 900 and endless.finish_reason == "cancelled"
    engine.close()


def test_places_take_no_more_memory_than_they_may(spoken_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    context = TransformersDecoder.new_kv_cache

    def watched(self: TransformersDecoder, *, sequences: int, length: int) -> TransformersKVCache:
        made.append(sequences * length * self.cache_bytes_per_token)
        return context(self, sequences=sequences, length=length)

    monkeypatch.setattr(TransformersDecoder, "new_kv_cache", watched)
    requests = requests_of(12)
    answers = []
    for cache_bytes in (1 << 21, 1 << 30):
        engine = TransformersEngine(spoken_model, cache_bytes=cache_bytes)
        answers.append(streamed(engine, requests))
        engine.close()
        assert 0 < made[-1] <= cache_bytes
    assert answers[0] == answers[1]


def test_a_text_is_embedded_by_the_adapter_that_is_named(
    adapted: TransformersEngine, merged: dict[str, tuple[Path, Path]], hf: Engine
) -> None:
    texts = [tuple(range(20, 60))]
    engine = TransformersEngine(merged["red"][1])
    expected = engine.embed(texts)
    engine.close()
    np.testing.assert_allclose(adapted.embed(texts, "red"), expected, atol=1e-4)
    np.testing.assert_allclose(adapted.embed(texts), hf.embed(texts), atol=1e-4)
    assert np.abs(adapted.embed(texts) - expected).max() > 1e-2
    with pytest.raises(UserError, match="no adapter is called 'green'"):
        adapted.embed(texts, "green")
