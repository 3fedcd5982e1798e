"""Sixteen streams of the transformers engine at once, compared with the same sixteen one after another, alternating.

HANLIN_MODEL names the model's folder. Both must give the same ids. The last line is one JSON object.
"""

from __future__ import annotations

import json
import random
import resource
import threading
import time
from collections.abc import Callable, Sequence

from command_line import from_environment, model_folder, number_from_environment, run_main
from runs import summarize

from hanlin.inference.protocol import Engine, GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine

ROUNDS = number_from_environment("HANLIN_BENCH_ROUNDS", 3)
STREAMS = 16
PROMPT, ANSWER = 48, 32


def make_requests(seed: int, vocabulary: int) -> list[GenerationRequest]:
    """Random prompts without stop ids, so that each answer has its full length."""
    rng = random.Random(seed)
    return [
        GenerationRequest(
            tuple(rng.randrange(vocabulary) for _ in range(PROMPT)), (), SamplingParams(max_new_tokens=ANSWER)
        )
        for _ in range(STREAMS)
    ]


def run_one_by_one(engine: Engine, requests: Sequence[GenerationRequest]) -> list[tuple[int, ...]]:
    return [tuple(engine.stream(request)) for request in requests]


def run_at_once(engine: Engine, requests: Sequence[GenerationRequest]) -> list[tuple[int, ...]]:
    answers: dict[int, tuple[int, ...]] = {}

    def run_one(index: int) -> None:
        answers[index] = tuple(engine.stream(requests[index]))

    threads = [threading.Thread(target=run_one, args=(index,)) for index in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[index] for index in range(len(requests))]


def measure(
    run: Callable[[Engine, Sequence[GenerationRequest]], list[tuple[int, ...]]],
    engine: Engine,
    requests: Sequence[GenerationRequest],
) -> tuple[float, list[tuple[int, ...]]]:
    """Tokens per second, and the answers."""
    start_time = time.perf_counter()
    answers = run(engine, requests)
    return sum(map(len, answers)) / (time.perf_counter() - start_time), answers


def main() -> None:
    folder = from_environment("HANLIN_MODEL", "a model folder", model_folder)
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    engine = create_engine("transformers", folder)
    measure(run_at_once, engine, make_requests(0, vocabulary))
    rates: dict[str, list[float]] = {"at once": [], "one after another": []}
    for round_number in range(1, ROUNDS + 1):
        requests = make_requests(round_number, vocabulary)
        ways = [("at once", run_at_once), ("one after another", run_one_by_one)]
        outputs = {}
        for name, run in ways if round_number % 2 else ways[::-1]:
            rate, outputs[name] = measure(run, engine, requests)
            rates[name].append(rate)
            print(f"{name}: {rate:.1f} tokens a second", flush=True)
        if outputs["at once"] != outputs["one after another"]:
            raise SystemExit("the answers differ")
    engine.close()
    result = {
        "bench": "streams",
        "streams": STREAMS,
        "rounds": ROUNDS,
        "ratio": summarize([one / other for one, other in zip(*rates.values(), strict=True)]),
        **{name.replace(" ", "_"): summarize(answers) for name, answers in rates.items()},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
