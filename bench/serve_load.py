"""Many concurrent requests to `hanlin serve`: none lost, none given another's answer, memory constant.

`python bench/serve_load.py [MODEL [REQUESTS [CONCURRENCY [AGENTS]]]]`; MODEL (else HANLIN_MODEL) is a folder or GGUF
file. A part of the requests are short questions, the others are steps of AGENTS agents (64): the agents share one long
system text, each adds a text of its own, and its history grows by the answers so far. Every request is sent alone
before, and every answer under load must be the same, in whichever of five forms it is asked for: OpenAI whole and
streamed, Ollama, Anthropic and Responses.

llama.cpp rounds a little differently with the size of a batch. An answer that departs from the one given alone at a
token where alone the two best log-probabilities were closer than `NEAR_TIE` is therefore counted apart; any other is
wrong. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from command_line import existing_path, positive_int, run_main
from servers import free_port, start_server

QUESTIONS = 50
STEPS = 3
MAX_TOKENS = 16
NEAR_TIE = 0.1
FORMS = ("whole", "stream", "ollama", "messages", "responses")
Turns = list[dict[str, str]]


@dataclass(frozen=True)
class Expected:
    """A conversation, its answer given alone, and for each of its tokens the text up to it and the gap to the next best
    token in log-probability.
    """

    turns: Turns
    text: str
    gaps: list[tuple[str, float]]

    def gap_where_it_departs(self, text: str) -> float:
        """The gap at the first token of the answer that `text` does not begin with; infinite if it has them all."""
        return next((gap for before, gap in self.gaps if not text.startswith(before)), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=existing_path, nargs="?", default=os.environ.get("HANLIN_MODEL"))
    parser.add_argument("requests", type=positive_int, nargs="?", default=5000)
    parser.add_argument("at_once", type=positive_int, nargs="?", default=64)
    parser.add_argument("agents", type=positive_int, nargs="?", default=64)
    arguments = parser.parse_args()
    if arguments.model is None:
        parser.error("name a model, or set HANLIN_MODEL")
    model = arguments.model.resolve()
    count, concurrency, agents = arguments.requests, arguments.at_once, arguments.agents
    port = free_port()
    options = ["--port", str(port), "--queue", str(concurrency)]
    command = [sys.executable, "-m", "hanlin", "serve", f"model={model}", *options]
    with start_server("hanlin", command, port, "model") as server:
        expected = collect_expected(port, agents)
        print(f"{len(expected)} requests answered one at a time", flush=True)
        indices, retries = iter(range(count)), [0]
        wrong: list[tuple[int, str, str, float]] = []
        lock = threading.Lock()
        memory: list[tuple[int, int]] = []
        start_time = time.perf_counter()

        def work() -> None:
            while True:
                with lock:
                    index = next(indices, None)
                    if index is not None and index % max(1, count // 20) == 0:
                        memory.append((index, server.current_bytes()))
                if index is None:
                    return
                wanted = expected[index * 7919 % len(expected)]  # a prime: questions and agents take turns
                try:
                    text = ask(port, wanted.turns, FORMS[index % len(FORMS)], retries)
                except Exception as error:
                    wrong.append((index, wanted.text, repr(error), math.inf))
                    continue
                if text != wanted.text:
                    wrong.append((index, wanted.text, text, wanted.gap_where_it_departs(text)))

        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start_time
        memory.append((count, server.current_bytes()))
    settled = [size for index, size in memory if index >= count // 10]
    departed = [gap for *_, gap in wrong if gap <= NEAR_TIE]
    for index, wanted_text, text, gap in sorted(wrong, key=lambda item: -item[-1])[:5]:
        print(f"{index} {FORMS[index % len(FORMS)]}: {text[:300]!r}, alone {wanted_text!r}, gap {gap:.3f}")
    result = {
        "bench": "serve_load",
        "requests": count,
        "concurrency": concurrency,
        "agents": agents,
        "wrong_or_lost": len(wrong) - len(departed),
        "departed_at_near_ties": len(departed),
        "largest_gap_of_these": round(max(departed, default=0.0), 3),
        "different_answers": len({wanted.text for wanted in expected}),
        "retries_after_429": retries[0],
        "requests_a_second": round(count / seconds, 1),
        "memory_mb": [round(settled[0] / 1e6, 1), round(max(settled) / 1e6, 1), round(settled[-1] / 1e6, 1)],
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


def collect_expected(port: int, agents: int) -> list[Expected]:
    """Each question's and each agent's turns with the answer that a server without other work gives."""
    expected: list[Expected] = []
    for number in range(QUESTIONS):
        expected.append(
            ask_alone(port, [{"role": "user", "content": f"第{number}题：{number}加{number * 7 % 31}等于几？"}])
        )
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models") as response:
        context_length = int(json.loads(response.read())["data"][0]["max_model_len"])
    rules, rows = min(40, context_length // 64), min(12, context_length // 128)
    for number in range(agents):
        turns = [{"role": "system", "content": make_rules(rules)}, {"role": "user", "content": make_task(number, rows)}]
        for step in range(STEPS):
            expected.append(ask_alone(port, list(turns)))
            following = f"第{step + 1}步的结果：{number * 13 % 97}。接着做。"
            turns.append({"role": "assistant", "content": expected[-1].text or "好。"})
            turns.append({"role": "user", "content": following})
    return expected


def ask_alone(port: int, turns: Turns) -> Expected:
    choice = json.loads(
        _post(port, "/v1/chat/completions", {**_openai_body(turns), "logprobs": True, "top_logprobs": 2})
    )
    gaps, before = [], b""
    for token in choice["choices"][0]["logprobs"]["content"]:
        before += bytes(token["bytes"])
        best, second = (item["logprob"] for item in token["top_logprobs"][:2])
        whole = before.decode("utf-8", "replace").rstrip("\ufffd")  # without a character whose last bytes are to come
        gaps.append((whole, best - second))
    return Expected(turns, str(choice["choices"][0]["message"]["content"]), gaps)


def make_rules(count: int) -> str:
    """The system text that all agents share: about 25 tokens a rule."""
    return "你是仓库里的助手。" + "".join(
        f"第{number}条：先看第{number * 7 % 40}号架，再记下数目。" for number in range(count)
    )


def make_task(number: int, rows: int) -> str:
    return f"我管第{number}号库。" + "".join(
        f"{number * 31 % 89 + row}号箱有{number * row % 17}件。" for row in range(rows)
    )


def ask(port: int, turns: Sequence[dict[str, str]], form: str, retries: list[int]) -> str:
    """The answer to a conversation in one of `FORMS`."""
    path, body, read = _FORMS[form]
    return read(_post(port, path, body(turns), retries))


def _post(port: int, path: str, body: dict[str, Any], retries: list[int] | None = None) -> bytes:
    """The answer's body; after a 429 the request is sent again when the server says so."""
    data = json.dumps({"model": "model", **body})
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.status != 429:
            break
        if retries is not None:
            retries[0] += 1
        time.sleep(int(response.headers["Retry-After"]))
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {answer[:200]!r}")
    return answer


def _read_stream(data: bytes) -> str:
    events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    if events[-1] != b"[DONE]":
        raise RuntimeError(f"the stream broke off: {events[-1]!r}")
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])


def _openai_body(turns: Sequence[dict[str, str]]) -> dict[str, Any]:
    return {"messages": list(turns), "max_tokens": MAX_TOKENS, "temperature": 0}


def _anthropic_body(turns: Sequence[dict[str, str]]) -> dict[str, Any]:
    body = _openai_body([turn for turn in turns if turn["role"] != "system"])
    return {**body, "system": "".join(turn["content"] for turn in turns if turn["role"] == "system")}


_FORMS: dict[str, tuple[str, Callable[[Sequence[dict[str, str]]], dict[str, Any]], Callable[[bytes], str]]] = {
    "whole": (
        "/v1/chat/completions",
        _openai_body,
        lambda data: str(json.loads(data)["choices"][0]["message"]["content"]),
    ),
    "stream": ("/v1/chat/completions", lambda turns: {**_openai_body(turns), "stream": True}, _read_stream),
    "ollama": (
        "/api/chat",
        lambda turns: {
            "messages": list(turns),
            "stream": False,
            "options": {"num_predict": MAX_TOKENS, "temperature": 0},
        },
        lambda data: str(json.loads(data)["message"]["content"]),
    ),
    "messages": (
        "/v1/messages",
        _anthropic_body,
        lambda data: "".join(block["text"] for block in json.loads(data)["content"]),
    ),
    "responses": (
        "/v1/responses",
        lambda turns: {"input": list(turns), "max_output_tokens": MAX_TOKENS, "temperature": 0, "store": False},
        lambda data: "".join(part["text"] for item in json.loads(data)["output"] for part in item.get("content") or ()),
    ),
}


if __name__ == "__main__":
    run_main(main)
