"""Many concurrent requests to `hanlin serve`: none lost, none given another's answer, memory constant.

`python bench/serve_load.py [MODEL [REQUESTS [CONCURRENCY]]]`; MODEL (else HANLIN_MODEL) is a folder or GGUF file. Each
question is sent alone before, and every answer under load must be the same. A third of the requests stream, a third go
to Ollama's API. The last line is one JSON object.
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

from servers import free_port, start_server

QUESTIONS = 50


def main() -> None:
    model_path = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("HANLIN_MODEL")
    model = Path(model_path or sys.exit("name a model, or set HANLIN_MODEL")).resolve()
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    concurrency = int(sys.argv[3]) if len(sys.argv) > 3 else 64
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
        str(concurrency),
    ]
    with start_server("hanlin", command, port, "model") as server:
        expected = [ask(port, number, "whole") for number in range(QUESTIONS)]
        indices, wrong, retries = iter(range(count)), [], [0]
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
                try:
                    text = ask(port, index % QUESTIONS, ("whole", "stream", "ollama")[index % 3], retries)
                except Exception as error:
                    text = repr(error)
                if text != expected[index % QUESTIONS]:
                    wrong.append((index, text))

        threads = [threading.Thread(target=work) for _ in range(concurrency)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - start_time
        memory.append((count, server.current_bytes()))
    settled = [size for index, size in memory if index >= count // 10]
    for index, text in wrong[:5]:
        print(index, text[:300])
    result = {
        "bench": "serve_load",
        "requests": count,
        "concurrency": concurrency,
        "wrong_or_lost": len(wrong),
        "different_answers": len(set(expected)),
        "retries_after_429": retries[0],
        "requests_a_second": round(count / seconds, 1),
        "memory_mb": [round(settled[0] / 1e6, 1), round(max(settled) / 1e6, 1), round(settled[-1] / 1e6, 1)],
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


def ask(port: int, number: int, way: str, retries: list[int] | None = None) -> str:
    """The answer to one question in one of three ways; after a 429 it is sent again when the server says so."""
    text = f"第{number}题：{number}加{number * 7 % 31}等于几？"
    turns = [{"role": "user", "content": text}]
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 0}
    path, body = "/v1/chat/completions", {"model": "model", "messages": turns, "stream": way == "stream", **options}
    if way == "ollama":
        path = "/api/chat"
        options = {"num_predict": 16, "temperature": 0}
        body = {"model": "model", "messages": turns, "stream": False, "options": options}
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if response.status != 429:
            break
        if retries is not None:
            retries[0] += 1
        time.sleep(int(response.headers["Retry-After"]))
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {data[:200]!r}")
    if way == "ollama":
        return str(json.loads(data)["message"]["content"])
    if way == "whole":
        return str(json.loads(data)["choices"][0]["message"]["content"])
    events = [line[6:] for line in data.split(b"\n") if line.startswith(b"data: ")]
    if events[-1] != b"[DONE]":
        raise RuntimeError(f"the stream broke off: {events[-1]!r}")
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1])


if __name__ == "__main__":
    main()
