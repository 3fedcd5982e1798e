"""The transformers engine in a process of its own, as `hanlin serve` runs it, beside the same engine in this process.

`python bench/engine_process.py MODEL` generates the same greedy answers with both, alternating, one at a time and eight
at once, and prints tokens a second of each round, the ratio in pairs, and whether the answers are the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from command_line import model_folder, positive_int, run_main

from hanlin.inference.protocol import Engine, GenerationRequest, SamplingParams, Stream
from hanlin.inference.registry import create_engine

PROMPT_TOKENS = 64


def make_requests(count: int, tokens: int, round_number: int, vocab_size: int) -> list[GenerationRequest]:
    """Prompts that no earlier round has sent: a cached prompt would be faster."""
    sampling = SamplingParams(max_new_tokens=tokens, temperature=0)
    prompts = [
        tuple(
            10 + (index * 7919 + number * 104729 + round_number * 1299709) % (vocab_size - 20)
            for index in range(PROMPT_TOKENS)
        )
        for number in range(count)
    ]
    return [GenerationRequest(prompt, (), sampling) for prompt in prompts]


def measure(engine: Engine, requests: list[GenerationRequest]) -> tuple[float, list[list[int]]]:
    """Tokens a second of answers that are read as streams side by side, as the server reads them, and their ids."""
    start_time = time.perf_counter()
    streams: list[Stream] = [engine.stream(request) for request in requests]
    ids: list[list[int]] = [[] for _ in streams]
    open_streams = list(range(len(streams)))
    while open_streams:
        for index in list(open_streams):
            token_id = next(streams[index], None)
            if token_id is None:
                open_streams.remove(index)
            else:
                ids[index].append(token_id)
    return sum(map(len, ids)) / (time.perf_counter() - start_time), ids


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--rounds", type=positive_int, default=7)
    parser.add_argument("--tokens", type=positive_int, default=64)
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text(encoding="utf-8"))
    engines = {
        "in process": create_engine("transformers", arguments.model),
        "child": create_engine("transformers", arguments.model, separate_process=True),
    }
    for engine in engines.values():
        measure(engine, make_requests(8, 8, -1, config["vocab_size"]))
    for count in (1, 8):
        ratios, same = [], 0
        for number in range(arguments.rounds):
            requests = make_requests(count, arguments.tokens, number + 100 * count, config["vocab_size"])
            order = list(engines) if number % 2 else list(engines)[::-1]
            found = {name: measure(engines[name], requests) for name in order}
            same += found["child"][1] == found["in process"][1]
            ratios.append(found["child"][0] / found["in process"][0])
            rates = ", ".join(f"{name} {found[name][0]:.1f}" for name in engines)
            print(f"{count} at once: {rates} tokens a second, child / in process {ratios[-1]:.3f}", flush=True)
        print(
            f"{count} at once: child / in process {statistics.median(ratios):.3f} in the median of {len(ratios)}, "
            f"{min(ratios):.3f} to {max(ratios):.3f}; the same answers in {same} of {len(ratios)}",
            flush=True,
        )
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    run_main(main)
