"""What costly requests do to those beside them, for `python bench/serve_attacks.py MODEL.gguf`.

A server of its own answers one client that streams, one that asks for short answers of a schema, and one that asks for
`/health`; each is measured alone and beside each attack. Prints the longest wait of each, the attack's status and
seconds, and the most memory that the server and its processes held.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

ORDINARY = {"type": "object", "properties": {"name": {"enum": ["a", "b"]}}, "required": ["name"]}


def schema_body(*patterns: str) -> dict[str, Any]:
    schema = {"type": "string", "allOf": [{"pattern": pattern} for pattern in patterns]}
    return chat(response_format={"type": "json_schema", "json_schema": {"schema": schema}})


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 8, **fields}


ATTACKS: dict[str, list[bytes]] = {
    "nothing": [],
    "periods": [json.dumps(schema_body(*(f"^(.{{{n}}})*$" for n in (97, 101, 103, 107)))).encode()],
    "8 x periods": [json.dumps(schema_body(*(f"^(.{{{n}}})*$" for n in (97, 101, 103, 107)))).encode()] * 8,
    "40 intersections": [json.dumps(schema_body(*(f"a.{{{n}}}b" for n in range(97, 137)))).encode()],
    "5,000 wrong messages": [b'{"model":"m","messages":[' + b",".join([b"1"] * 5000) + b"]}"],
    "8 MB of wrong messages": [b'{"model":"m","messages":[' + b",".join([b"1"] * 4_100_000) + b"]}"],
    "2 MB of wrong messages": [b'{"model":"m","messages":[' + b",".join([b"1"] * 990_000) + b"]}"],
    "140,000 keys": [json.dumps({**chat(), "x": {f"k{n}": n for n in range(140_000)}}).encode()],
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


def attack(address: str, body: bytes, outcomes: list[tuple[int, float]]) -> None:
    start_time = time.monotonic()
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{address}/v1/chat/completions", content=body, headers=headers, timeout=300)
    outcomes.append((answer.status_code, time.monotonic() - start_time))


def measure(address: str, pid: int, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    neighbors = [Neighbor(address, kind) for kind in ("stream", "schema", "health")]
    for neighbor in neighbors:
        neighbor.start()
    time.sleep(1)
    for neighbor in neighbors:
        neighbor.longest = 0.0
    outcomes: list[tuple[int, float]] = []
    attackers = [threading.Thread(target=attack, args=(address, body, outcomes)) for body in bodies]
    for attacker in attackers:
        attacker.start()
    peak, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline or any(attacker.is_alive() for attacker in attackers):
        peak = max(peak, resident_bytes(pid))
        time.sleep(0.2)
    for neighbor in neighbors:
        neighbor.is_done = True
        neighbor.join()
    waits = {neighbor.kind: round(1000 * neighbor.longest) for neighbor in neighbors}
    statuses = sorted({status for status, _ in outcomes})
    longest = max((taken for _, taken in outcomes), default=0.0)
    return {"longest wait, ms": waits, "status": statuses, "seconds": round(longest, 2), "peak MB": peak >> 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--seconds", type=float, default=3.0, help="time of each measurement at least")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "hanlin", "serve", f"m={arguments.model}", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(word for word in server.stdout.readline().split() if word.startswith("http")).removesuffix("/v1")
        for name, bodies in ATTACKS.items():
            print(name, json.dumps(measure(address, server.pid, bodies, arguments.seconds)), flush=True)
    finally:
        server.terminate()
        server.wait(60)


if __name__ == "__main__":
    main()
