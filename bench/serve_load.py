"""Many requests at once against `hanlin serve`: none lost, none crossed, memory flat.

`python bench/serve_load.py [MODEL [REQUESTS [AT_ONCE]]]`; MODEL (else HANLIN_MODEL) is a folder or GGUF file. Each
question has been asked alone before, and every answer under load must be that answer. A third of the requests stream, a
third go to Ollama's API. The last line is one JSON object.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from served import free_port, running

TALKS = 50


def main() -> None:
    named = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("HANLIN_MODEL")
    model = Path(named or sys.exit("name a model, or set HANLIN_MODEL")).resolve()
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    at_once = int(sys.argv[3]) if len(sys.argv) > 3 else 64
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "hanlin",
        "serve",
        f"model={model}",
        "--port",
        str(port),
        "--queue",
        str(at_once),
    ]
    with running("hanlin", command, port, "model") as server:
        expected = [ask(port, number, "whole") for number in range(TALKS)]
        places, wrong, again = iter(range(count)), [], [0]
        lock = threading.Lock()
        memory: list[tuple[int, int]] = []
        begun = time.perf_counter()

        def work() -> None:
            while True:
                with lock:
                    place = next(places, None)
                    if place is not None and place % max(1, count // 20) == 0:
                        memory.append((place, server.bytes_now()))
                if place is None:
                    return
                try:
                    found = ask(port, place % TALKS, ("whole", "stream", "ollama")[place % 3], again)
                except Exception as error:
                    found = repr(error)
                if found != expected[place % TALKS]:
                    wrong.append((place, found))

        threads = [threading.Thread(target=work) for _ in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - begun
        memory.append((count, server.bytes_now()))
    settled = [size for place, size in memory if place >= count // 10]
    for place, found in wrong[:5]:
        print(place, found[:300])
    result = {
        "bench": "serve_load",
        "requests": count,
        "at_once": at_once,
        "wrong_or_lost": len(wrong),
        "different_answers": len(set(expected)),
        "asked_again_after_429": again[0],
        "requests_a_second": round(count / seconds, 1),
        "memory_mb": [round(settled[0] / 1e6, 1), round(max(settled) / 1e6, 1), round(settled[-1] / 1e6, 1)],
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


def ask(port: int, number: int, how: str, again: list[int] | None = None) -> str:
    """The answer to one question by one of three ways; a full queue is asked again when it says so."""
    text = f"第{number}题：{number}加{number * 7 % 31}等于几？"
    turns = [{"role": "user", "content": text}]
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0}
    path, body = "/v1/chat/completions", {"model": "model", "messages": turns, "stream": how == "stream", **options}
    if how == "ollama":
        path = "/api/chat"
        options = {"num_predict": 16, "temperature": 0}
        body = {"model": "model", "messages": turns, "stream": False, "options": options}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        told = answer.read()
        connection.close()
        if answer.status != 429:
            break
        if again is not None:
            again[0] += 1
        time.sleep(int(answer.headers["Retry-After"]))
    if answer.status != 200:
        raise RuntimeError(f"{answer.status}: {told[:200]!r}")
    if how == "ollama":
        return str(json.loads(told)["message"]["content"])
    if how == "whole":
        return str(json.loads(told)["choices"][0]["message"]["content"])
    events = [line[6:] for line in told.split(b"\n") if line.startswith(b"data: ")]
    if events[-1] != b"[DONE]":
        raise RuntimeError(f"the stream broke off: {events[-1]!r}")
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])


if __name__ == "__main__":
    main()
