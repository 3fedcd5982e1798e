"""Fuzz the readers: damage valid files of every format and check that each gives records or one clear error.

`python bench/fuzz_readers.py --minutes 10 [--seed 0]`. A case is a seed: the sample, its damage and the file
follow from that number, and `--case SEED` runs one again with its traceback. Cases run in child processes,
so a crash of a library is a finding too. The last line is one JSON object: cases, how many were read and how many
refused, findings with their seeds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from command_line import non_negative_int, positive_float, run_main

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

BATCH = 400
SECONDS_PER_CASE = 20
MEMORY = 6 << 30
TOKENS: list[bytes | str] = [
    *(b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b'"', b"'", b"\\", b"{", b"}", b"[", b"]"),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"\\ud83d",
        b"\\u0000",
        b"[" * 300,
        b'{"a":' * 300,
        b",",
        b"\t",
        b":",
    ),
    *("\u2028", "锟斤拷", "<s>Human: ", "</s>", "<|Human|>: ", "<eoh>", "\ufffd", "\U0001f600", "Ã¤Â½", "□"),
    *(b"null", b"true", b'"messages"', b'"chosen"', b'"from"', b"\x1f\x8b", b"PAR1", b"ARROW1", b"\xd6\xd0"),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1e308, 2**70, "", " ", "\x00", "user", "{", '{"name": 1}', "[]", "\ud83d", "a" * 3000),
    *([], {}, [[]], [None], [{}], {"role": "user"}, {"from": 1, "value": None}, [["a", "b"], ["c"]], ["x", 1]),
    *({"name": "f", "arguments": "{"}, {"turn_1": None}, {"turn_x": {"Human": 5}}, "Human: a\n\nAssistant: b", "<s>"),
]


def damage(rng: random.Random, name: str, data: bytes, samples: dict[str, bytes]) -> bytes:
    """A sample with one to five damages: in its structure if it is JSON, in its bytes anywhere."""
    for _ in range(rng.randint(1, 5)):
        way = rng.random()
        if ".json" in name and not name.endswith((".gz", ".bz2", ".xz", ".zst")) and way < 0.5:
            data = _damage_json(rng, data)
        elif way < 0.6 and data:
            index = rng.randrange(len(data))
            data = data[:index] + bytes([rng.randrange(256)]) + data[index + 1 :]
        elif way < 0.8:
            index = rng.randint(0, len(data))
            token = rng.choice(TOKENS)
            data = data[:index] + (token if isinstance(token, bytes) else token.encode("utf-8")) + data[index:]
        elif way < 0.88:
            start, end = sorted(rng.randint(0, len(data)) for _ in "ab")
            data = data[:start] + data[end:] if rng.random() < 0.5 else data[:end] + data[start:end] + data[end:]
        elif way < 0.94:
            data = data[: rng.randint(0, len(data))]
        else:
            data = data + rng.choice(list(samples.values()))
    return data


def _damage_json(rng: random.Random, data: bytes) -> bytes:
    try:
        text = data.decode("utf-8")
        rows = json.loads(text) if text.startswith("[\n") else [json.loads(line) for line in text.splitlines()]
    except (ValueError, RecursionError):
        return data
    listed = text.startswith("[\n")
    if not isinstance(rows, list) or not rows:
        return data
    index = rng.randrange(len(rows))
    rows[index] = _change_value(rng, rows[index])
    out = json.dumps(rows, indent=1) if listed else "".join(json.dumps(row) + "\n" for row in rows)
    if rng.random() < 0.2:
        out = out.replace('": ', '": 1, "twice": ', 1)
    return out.encode("utf-8", "surrogatepass")


def _change_value(rng: random.Random, value: Any) -> Any:
    if rng.random() < 0.3 or not isinstance(value, dict | list) or not value:
        return rng.choice(VALUES)
    if isinstance(value, list):
        index = rng.randrange(len(value))
        way = rng.random()
        middle = [] if way < 0.2 else [value[index]] * 2 if way < 0.3 else [_change_value(rng, value[index])]
        return [*value[:index], *middle, *value[index + 1 :]]
    name = rng.choice(list(value))
    way = rng.random()
    if way < 0.2:
        return {key: item for key, item in value.items() if key != name}
    if way < 0.35:
        new = rng.choice(["role", "content", "value", "chosen", "label", "tools", "system", "text", "meta", "id", ""])
        return {new if key == name else key: item for key, item in value.items()}
    return {**value, name: _change_value(rng, value[name])}


def run_case(seed: int, samples: dict[str, bytes], folder: Path) -> tuple[str, str]:
    """Damage one sample and read it in every way; the outcome (`read`, `refused`) and the sample's name."""
    from hanlin.core.errors import UserError
    from hanlin.data.formats.convert import convert
    from hanlin.data.formats.registry import FORMATS_BY_STAGE
    from hanlin.data.report.inspect import inspect

    rng = random.Random(seed)
    name = rng.choice(sorted(samples))
    path = folder / name
    path.write_bytes(damage(rng, name, samples[name], samples))
    settings: dict[str, Any] = {}
    if rng.random() < 0.2:
        settings["format"] = rng.choice([known.name for formats in FORMATS_BY_STAGE.values() for known in formats])
    if rng.random() < 0.1:
        settings["encoding"] = rng.choice(["utf-8", "gb18030", "big5", "utf-16", "utf-32-le", "cp1252"])
    (row,) = inspect([str(path)], settings)
    to = "dpo" if row.get("stage") == "preferences" else rng.choice(["messages", "sharegpt", "alpaca", "firefly"])
    out = folder / "out.jsonl"
    try:
        convert([str(path)], to, out, settings)
    except UserError:
        pass
    for left in (out, out.with_name("out.jsonl.dropped.jsonl")):
        left.unlink(missing_ok=True)
    path.unlink()
    return ("refused" if "error" in row else "read"), name


def _batch(first: int, count: int) -> None:
    """Run cases one after another; print each seed before it runs, so that a crash has a seed."""
    import format_samples

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _too_slow)
    samples = format_samples.files()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            print(f"case {seed}", flush=True)
            signal.alarm(SECONDS_PER_CASE)
            try:
                outcome, name = run_case(seed, samples, Path(folder))
                print(f"{outcome} {name}")
            except Exception:
                lines = traceback.format_exc().strip().splitlines()
                print("findings " + json.dumps({"seed": seed, "error": lines[-1], "where": lines[-3].strip()}))
            signal.alarm(0)
    print("done", flush=True)


def _too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_PER_CASE} seconds")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--minutes", type=positive_float, default=1.0)
    options.add_argument("--seed", type=non_negative_int, default=0)
    options.add_argument("--case", type=non_negative_int, help="run one case with its traceback")
    options.add_argument("--batch", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.batch:
        _batch(*arguments.batch)
        return
    if arguments.case is not None:
        import format_samples

        with tempfile.TemporaryDirectory() as folder:
            print(*run_case(arguments.case, format_samples.files(), Path(folder)))
        return
    counts: Counter[str] = Counter()
    names: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    seed, start_time = arguments.seed, time.monotonic()
    while time.monotonic() - start_time < 60 * arguments.minutes:
        command = [sys.executable, __file__, "--batch", str(seed), str(BATCH)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        lines = done.stdout.splitlines()
        for line in lines:
            kind, _, rest = line.partition(" ")
            counts[kind] += 1
            if kind in ("read", "refused"):
                names[rest] += 1
            elif kind == "findings":
                findings.append(json.loads(rest))
        seed += BATCH
        if not lines or lines[-1] != "done":
            last = next((int(line.split()[1]) for line in reversed(lines) if line.startswith("case ")), seed - BATCH)
            findings.append(
                {"seed": last, "error": f"the process ended with {done.returncode}", "where": done.stderr[-300:]}
            )
            seed = last + 1
        print(
            f"{counts['case']} cases, {counts['read']} read, {counts['refused']} refused, {len(findings)} findings",
            flush=True,
        )
    result = {
        "bench": "fuzz_readers",
        "minutes": round((time.monotonic() - start_time) / 60, 2),
        "seeds": [arguments.seed, seed],
        "cases": counts["case"],
        "read": counts["read"],
        "refused": counts["refused"],
        "samples": len(names),
        "findings": findings,
    }
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    run_main(main)
