"""Streams of the transformers engine: sixteen at once beside the same sixteen one after another, in turns.

HANLIN_MODEL names the model's folder. Both must give the same ids. The last line is one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from runs import spread

from hanlin.inference.protocol import Engine, GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine

ROUNDS = int(os.environ.get("HANLIN_BENCH_ROUNDS", "3"))
STREAMS = 16
PROMPT, ANSWER = 48, 32


def requests(seed: int, vocabulary: int) -> list[GenerationRequest]:
    """Random prompts without stop ids, so that each answer has its full length."""
    chance = random.Random(seed)
    return [
        GenerationRequest(
            tuple(chance.randrange(vocabulary) for _ in range(PROMPT)), (), SamplingParams(max_new_tokens=ANSWER)
        )
        for _ in range(STREAMS)
    ]


def one_after_another(engine: Engine, asked: Sequence[GenerationRequest]) -> list[tuple[int, ...]]:
    return [tuple(engine.stream(request)) for request in asked]


def at_once(engine: Engine, asked: Sequence[GenerationRequest]) -> list[tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}

    def ask(place: int) -> None:
        found[place] = tuple(engine.stream(asked[place]))

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(len(asked))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[place] for place in range(len(asked))]


def timed(
    ask: Callable[[Engine, Sequence[GenerationRequest]], list[tuple[int, ...]]],
    engine: Engine,
    asked: Sequence[GenerationRequest],
) -> tuple[float, list[tuple[int, ...]]]:
    """Tokens a second, and the answers."""
    begun = time.perf_counter()
    answers = ask(engine, asked)
    return sum(map(len, answers)) / (time.perf_counter() - begun), answers


def main() -> None:
    folder = Path(os.environ.get("HANLIN_MODEL") or sys.exit("set HANLIN_MODEL to a model folder"))
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    engine = create_engine("transformers", folder)
    timed(at_once, engine, requests(0, vocabulary))
    rates: dict[str, list[float]] = {"at once": [], "one after another": []}
    for number in range(1, ROUNDS + 1):
        asked = requests(number, vocabulary)
        ways = [("at once", at_once), ("one after another", one_after_another)]
        told = {}
        for name, way in ways if number % 2 else ways[::-1]:
            rate, told[name] = timed(way, engine, asked)
            rates[name].append(rate)
            print(f"{name}: {rate:.1f} tokens a second", flush=True)
        if told["at once"] != told["one after another"]:
            raise SystemExit("the answers differ")
    engine.close()
    result = {
        "bench": "streams",
        "streams": STREAMS,
        "rounds": ROUNDS,
        "ratio": spread([one / other for one, other in zip(*rates.values(), strict=True)]),
        **{name.replace(" ", "_"): spread(found) for name, found in rates.items()},
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
