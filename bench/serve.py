"""Serving compared with llama.cpp's server, llama-cpp-python's server and vLLM: same file, same questions, alternating.

HANLIN_MODEL names the model's folder and HANLIN_GGUF its file; without the file one of type Q4_K_M is made first.
Peers, each left out without its own variable: HANLIN_LLAMA_CPP (the folder with `llama-server`),
HANLIN_LLAMA_CPP_PYTHON (a Python that has `llama_cpp.server`), HANLIN_VLLM (a vLLM, which serves the folder). The
last line is one JSON object.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from command_line import existing_file, from_environment, model_folder, number_from_environment, of_variable, run_main
from servers import Server, StreamedAnswer, ask_all, free_port, start_server

from hanlin.config.settings.export import Gguf
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Message
from hanlin.export.gguf.export import run as export
from hanlin.inference.loading import load_engine
from hanlin.inference.protocol import GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine

ROUNDS = number_from_environment("HANLIN_BENCH_ROUNDS", 5)
STREAMS = 16
WORDS = "春天院子里开满了花老人坐在门前看书孩子们跑过石桥去学堂读诗写字算数唱歌河水慢慢地流向东边的城"
CONTEXT = 2048
THREADS = number_from_environment("HANLIN_BENCH_THREADS", len(os.sched_getaffinity(0)))


def make_question(seed: int, length: int = 24) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) for _ in range(length))


def make_body(model: str, text: str, tokens: int, system: str = "") -> dict[str, Any]:
    opening = [{"role": "system", "content": system}] if system else []
    return {
        "model": model,
        "messages": [*opening, {"role": "user", "content": text}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
    }


def count_tokens(answers: Sequence[StreamedAnswer], limit: int) -> int:
    for answer in answers:
        if answer.status != 200 or not answer.finish:
            raise SystemExit(f"an answer broke off: {bytes(answer.raw[:300])!r}")
    return sum(limit if answer.finish == "length" else answer.pieces for answer in answers)


def measure_rate(server: Server, seeds: Sequence[int], limit: int) -> tuple[float, float, list[str]]:
    """Tokens a second over all streams, tokens for a second of the server's CPU time, and the texts."""
    computed, start_time = server.cpu_seconds(), time.perf_counter()
    answers = ask_all(server.port, [make_body(server.model, make_question(seed), limit) for seed in seeds])
    seconds = time.perf_counter() - start_time
    tokens = count_tokens(answers, limit)
    return tokens / seconds, tokens / max(0.01, server.cpu_seconds() - computed), [answer.text for answer in answers]


def compare(ours: Server, peer: Server, seeds: Callable[[int], Sequence[int]], limit: int, rounds: int) -> dict:
    pairs, same, count = [], 0, 0
    for number in range(rounds):
        order = (ours, peer) if number % 2 else (peer, ours)
        results = {server.name: measure_rate(server, seeds(number), limit) for server in order}
        pairs.append((results[ours.name], results[peer.name]))
        same += sum(a == b for a, b in zip(results[ours.name][2], results[peer.name][2], strict=True))
        count += len(results[ours.name][2])
    return {
        "ratio": summarize([our[0] / their[0] for our, their in pairs]),
        "ours": round(statistics.median(our[0] for our, _ in pairs), 1),
        "peer": round(statistics.median(their[0] for _, their in pairs), 1),
        "ratio_of_tokens_a_cpu_second": summarize([our[1] / their[1] for our, their in pairs]),
        "same_texts": f"{same}/{count}",
    }


def summarize(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def measure_shared_prefix(server: Server) -> dict[str, Any]:
    """Seconds to the first text after a system text of about a thousand tokens, seen before or not."""
    pairs = []
    for number in range(ROUNDS):
        system = make_question(10_000 + number, 800)
        fresh, again = (
            ask_all(server.port, [make_body(server.model, make_question(20_000 + 2 * number + ask), 4, system)])[0]
            for ask in (0, 1)
        )
        pairs.append((again.first, fresh.first))
    return {
        "ratio": summarize([again / fresh for again, fresh in pairs]),
        "fresh_s": round(statistics.median(fresh for _, fresh in pairs), 3),
        "again_s": round(statistics.median(again for again, _ in pairs), 3),
    }


def measure_server_overhead(server: Server, gguf: Path) -> dict[str, Any]:
    """What the server adds to the same engine asked directly: milliseconds to the first text and a token."""
    opened = load_engine(gguf)
    engine = create_engine("llama_cpp", gguf, separate_process=True, threads=THREADS)
    template = opened.load_template()
    opened.engine.close()
    limit = 64
    first, each = [], []
    quickest = {"direct": math.inf, "served": math.inf}
    for number in range(2 * ROUNDS):
        text = make_question(30_000 + number)
        ids = tuple(template.render([Message("user", text)], prompt=True).ids)

        def direct(ids: tuple[int, ...] = ids) -> tuple[float, float, int]:
            start_time = time.perf_counter()
            stream = engine.stream(GenerationRequest(ids, template.stop_ids, SamplingParams(max_new_tokens=limit)))
            times = [time.perf_counter() - start_time for _ in stream]
            return times[0], (times[-1] - times[0]), len(times)

        def served(text: str = text) -> tuple[float, float, int]:
            answers = ask_all(server.port, [make_body(server.model, text, limit)])
            return answers[0].first, answers[0].times[-1][1] - answers[0].first, count_tokens(answers, limit)

        results = [ask() for ask in ((direct, served) if number % 2 else (served, direct))]
        (d_first, d_rest, d_count), (s_first, s_rest, s_count) = results if number % 2 else results[::-1]
        quickest = {"direct": min(quickest["direct"], d_first), "served": min(quickest["served"], s_first)}
        if min(d_count, s_count) > 8:
            first.append(1e3 * (s_first - d_first))
            each.append(1e3 * (s_rest / (s_count - 1) - d_rest / (d_count - 1)))
    engine.close()
    least = round(1e3 * (quickest["served"] - quickest["direct"]), 3)
    return {"first_ms": summarize(first), "first_ms_quickest": least, "token_ms": summarize(each)}


def main() -> None:
    folder = from_environment("HANLIN_MODEL", "a model folder", model_folder).resolve()
    with tempfile.TemporaryDirectory() as temp_dir:
        named = os.environ.get("HANLIN_GGUF")
        result = run_benchmarks(
            of_variable("HANLIN_GGUF", named, existing_file).resolve()
            if named
            else export_gguf(folder, Path(temp_dir)),
            folder,
        )
    print(json.dumps(result))


def export_gguf(folder: Path, out: Path) -> Path:
    export(Gguf(model="m", types=("Q4_K_M",), compare=False), Inputs({"model": (folder,)}), out, StageContext())
    return next(out.glob("*.gguf"))


def run_benchmarks(gguf: Path, folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {
        "bench": "serve",
        "file": gguf.name,
        "rounds": ROUNDS,
        "streams": STREAMS,
        "threads": THREADS,
    }
    ours_port, path = free_port(), [sys.executable, "-m", "hanlin", "serve"]
    native, python, vllm = (os.environ.get(f"HANLIN_{name}") for name in ("LLAMA_CPP", "LLAMA_CPP_PYTHON", "VLLM"))
    with ExitStack() as stack:
        command = [
            *path,
            str(gguf),
            "--port",
            str(ours_port),
            "--context-length",
            str(CONTEXT),
            "--threads",
            str(THREADS),
        ]
        ours = stack.enter_context(start_server("hanlin", command, ours_port, gguf.stem))
        measure_rate(ours, [1], 8)
        result["server_overhead"] = measure_server_overhead(ours, gguf)
        print("server overhead", result["server_overhead"], flush=True)
        result["shared_prefix"] = measure_shared_prefix(ours)
        print("shared prefix", result["shared_prefix"], flush=True)
        if native:
            port = free_port()
            command = [
                str(Path(native) / "llama-server"),
                "--model",
                str(gguf),
                "--port",
                str(port),
                "--parallel",
                str(STREAMS),
            ]
            command += ["--ctx-size", str(STREAMS * CONTEXT), "--threads", str(THREADS)]
            peer = stack.enter_context(start_server("llama-server", command, port, gguf.stem, "/health"))
            measure_rate(peer, [1], 8)
            one = compare(ours, peer, lambda number: [100 + number], 96, ROUNDS)
            many = compare(ours, peer, lambda n: range(1000 + STREAMS * n, 1000 + STREAMS * (n + 1)), 64, ROUNDS)
            result["llama_server"] = {"one": one, "many": many, "shared_prefix": measure_shared_prefix(peer)}
            result["llama_server"]["peak_mb"] = [round(server.peak_bytes() / 1e6) for server in (ours, peer)]
            print("llama-server", result["llama_server"], flush=True)
        if python:
            port = free_port()
            command = [python, "-m", "llama_cpp.server", "--model", str(gguf), "--port", str(port)]
            command += ["--n_ctx", str(CONTEXT), "--n_threads", str(THREADS)]
            command += ["--interrupt_requests", "false"]  # else each new request breaks off the one that is answered
            peer = stack.enter_context(start_server("llama-cpp-python", command, port, gguf.stem))
            measure_rate(peer, [1], 8)
            many = compare(ours, peer, lambda n: range(5000 + STREAMS * n, 5000 + STREAMS * (n + 1)), 64, 3)
            result["llama_cpp_python"] = {"many": many, "peak_mb": [round(s.peak_bytes() / 1e6) for s in (ours, peer)]}
            print("llama-cpp-python", result["llama_cpp_python"], flush=True)
    if vllm:
        result["vllm"] = compare_vllm(vllm, folder, path)
    return result


def compare_vllm(program: str, folder: Path, ours: Sequence[str]) -> dict[str, Any]:
    """One vLLM, asked directly and through Hanlin's server."""
    with ExitStack() as stack:
        port, our_port = free_port(), free_port()
        command = [program, "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
        command += ["--served-model-name", "model", "--dtype", "bfloat16", "--enforce-eager", "--max-model-len", "2048"]
        environment = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
        direct = stack.enter_context(start_server("vllm", command, port, "model", **environment))
        command = [*ours, f"model={folder}", "--vllm", f"http://127.0.0.1:{port}", "--port", str(our_port)]
        served = stack.enter_context(start_server("hanlin", command, our_port, "model"))
        for server in (direct, served):
            measure_rate(server, [1], 8)
        one = compare(served, direct, lambda number: [100 + number], 32, ROUNDS)
        many = compare(served, direct, lambda n: range(1000 + STREAMS * n, 1000 + STREAMS * (n + 1)), 32, ROUNDS)
        return {"one": one, "many": many}


if __name__ == "__main__":
    run_main(main)
