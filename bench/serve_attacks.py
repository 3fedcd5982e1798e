"""What costly requests do to those beside them, for `python bench/serve_attacks.py MODEL.gguf`.

A server of its own answers one client that streams, one that asks for short answers of a schema, and one that asks for
`/health`; each is measured alone, at the start and at the end, and beside each attack, whose client is a process of its
own. Prints the longest wait of each, the attack's status and seconds, and the most memory that the server and its
processes held. Each is repeated: what else the machine does only adds to a wait, so the least of them is given, and the
median in brackets.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from command_line import positive_float, positive_int, run_main

ORDINARY = {"type": "object", "properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"]}


FEW = {"max_output_tokens": 8}


def schema_body(*patterns: str) -> dict[str, Any]:
    schema = {"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]}
    return chat(response_format={"type": "json_schema", "json_schema": {"schema": schema}})


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 8, **fields}


def wrong_messages(count: int) -> str:
    return '{"model":"m","messages":[' + ",".join(["1"] * count) + "]}"


def messages(count: int, text: str = "今天天气怎么样？") -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index in range(count)] + chat()["messages"]


CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
PERIODS = schema_body(*(f"^(.{{{n}}})*$" for n in (97, 101, 103, 107)))
ATTACKS: dict[str, tuple[int, str, Any]] = {
    "nothing": (0, CHAT, None),
    "periods": (1, CHAT, PERIODS),
    "8 x periods": (8, CHAT, PERIODS),
    "40 intersections": (1, CHAT, schema_body(*(f"a.{{{n}}}b" for n in range(97, 137)))),
    "5,000 wrong messages": (1, CHAT, wrong_messages(5000)),
    "8 MB of wrong messages": (1, CHAT, wrong_messages(4_100_000)),
    "2 MB of wrong messages": (1, CHAT, wrong_messages(990_000)),
    "140,000 keys": (1, CHAT, {**chat(), "x": {f"k{n}": n for n in range(140_000)}}),
    "140,000 objects": (1, CHAT, {**chat(), "x": [{}] * 140_000}),
    "prompt of 2 MB": (1, CHAT, {**chat(), "messages": messages(1, "天气" * 350_000)}),
    "2,000 messages": (1, CHAT, {**chat(), "messages": messages(2000)}),
    "16,000 messages": (1, CHAT, {**chat(), "messages": messages(16_000)}),
    "16,000 items": (1, RESPONSES, {"model": "m", "truncation": "auto", "input": messages(16_000), **FEW}),
    "16,000 references": (
        1,
        RESPONSES,
        {"model": "m", "input": [{"type": "item_reference", "id": f"x{n}"} for n in range(16_000)]},
    ),
    "990,000 token ids": (1, "/v1/completions", {"model": "m", "prompt": [5] * 990_000}),
    "2,048 embeddings": (1, "/v1/embeddings", {"model": "m", "input": [f"第{n}句" for n in range(2048)]}),
    "10,000 embeddings": (1, "/api/embed", {"model": "m", "input": [f"第{n}句" for n in range(10_000)]}),
    "nothing, at the end": (0, CHAT, None),
}


def processes(pid: int) -> list[int]:
    found = [pid]
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in thread.read_text(encoding="ascii").split():
            found += processes(int(child))
    return found


def resident_bytes(pid: int) -> int:
    """Proportional, so that pages which processes share count once."""
    total = 0
    for each in processes(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    return total


class Neighbor(threading.Thread):
    """Does something again and again; `longest` is the longest time between two signs of life."""

    def __init__(self, address: str, kind: str) -> None:
        super().__init__(daemon=True)
        self.address, self.kind, self.is_done, self.longest = address, kind, False, 0.0

    def run(self) -> None:
        with httpx.Client(base_url=self.address, timeout=120) as client:
            while not self.is_done:
                last = time.monotonic()
                if self.kind == "stream":
                    body = {**chat(max_tokens=64, ignore_eos=True), "stream": True}
                    with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                        for _ in answer.iter_lines():
                            self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()
                            if self.is_done:
                                return
                    continue
                if self.kind == "health":
                    client.get("/health")
                else:
                    form = {"type": "json_schema", "json_schema": {"schema": ORDINARY}}
                    client.post("/v1/chat/completions", json=chat(response_format=form))
                self.longest = max(self.longest, time.monotonic() - last)
                time.sleep(0.01)


ATTACKER = """
import sys, threading, time, httpx
url, file, count = sys.argv[1:]
body = open(file, "rb").read()
def attack():
    start_time = time.monotonic()
    with httpx.stream("POST", url, content=body, headers={"content-type": "application/json"}, timeout=300) as answer:
        for _ in answer.iter_raw():
            pass
    print(answer.status_code, time.monotonic() - start_time, flush=True)
threads = [threading.Thread(target=attack) for _ in range(int(count))]
print("ready", flush=True)
sys.stdin.readline()
for thread in threads:
    thread.start()
"""


class Attack:
    """A process that sends some requests at once when it is told to."""

    def __init__(self, url: str, body: Any, count: int, folder: Path) -> None:
        file = folder / "body"
        file.write_text(body if isinstance(body, str) else json.dumps(body, ensure_ascii=False), encoding="utf-8")
        command = [sys.executable, "-c", ATTACKER, url, str(file), str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdin is not None
        self._process.stdout.readline()

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def outcomes(self) -> list[tuple[int, float]]:
        """Status and seconds of each request."""
        lines = self._process.communicate()[0].splitlines()
        return [(int(line.split()[0]), float(line.split()[1])) for line in lines]


def measure(address: str, pid: int, attack: Attack, seconds: float) -> dict[str, Any]:
    neighbors = [Neighbor(address, kind) for kind in ("stream", "schema", "health")]
    for neighbor in neighbors:
        neighbor.start()
    time.sleep(1)
    for neighbor in neighbors:
        neighbor.longest = 0.0
    attack.start()
    peak, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline or attack.is_running():
        peak = max(peak, resident_bytes(pid))
        time.sleep(0.2)
    for neighbor in neighbors:
        neighbor.is_done = True
        neighbor.join()
    waits = {neighbor.kind: round(1000 * neighbor.longest) for neighbor in neighbors}
    outcomes = attack.outcomes()
    statuses = sorted({status for status, _ in outcomes})
    longest = max((taken for _, taken in outcomes), default=0.0)
    return {"waits": waits, "status": statuses, "seconds": longest, "peak": peak >> 20}


def summarize(runs: list[dict[str, Any]]) -> str:
    """One line of a table: the least of the runs, and of the waits the median too."""
    waits = []
    for kind in runs[0]["waits"]:
        found = [run["waits"][kind] for run in runs]
        waits.append(f"{kind} {min(found)} ({statistics.median(found):.0f}) ms")
    status = sorted({status for run in runs for status in run["status"]})
    seconds, peak = min(run["seconds"] for run in runs), min(run["peak"] for run in runs)
    return f"{', '.join(waits)}; status {status} after {seconds:.2f} s; {peak} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=positive_float, default=3.0, help="time of each measurement at least")
    parser.add_argument("--repeat", type=positive_int, default=3)
    parser.add_argument("--only", default="", help="attacks whose name contains this, and nothing")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "hanlin", "serve", f"m={arguments.model}", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(word for word in server.stdout.readline().split() if word.startswith("http")).removesuffix("/v1")
        for name, (count, path, body) in ATTACKS.items():
            if arguments.only not in name and "nothing" not in name:
                continue
            runs = []
            for _ in range(arguments.repeat):
                with tempfile.TemporaryDirectory() as folder:
                    attack = Attack(address + path, body, count, Path(folder))
                    runs.append(measure(address, server.pid, attack, arguments.seconds))
            print(f"{name}: {summarize(runs)}", flush=True)
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    run_main(main)
