"""Damage to files: in their bytes, or in their structure if they are JSON."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

TOKENS = [
    *(b"\x00", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf", b"\n", b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":"),
    *(b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\\ud83d", b"\\u0000", b"[" * 300, b'{"a":' * 300),
    *(b"null", b"true", b"\x7f" * 8, b"\xff" * 8, b"\x00" * 8, "翰林".encode(), "\U0001f600".encode()),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18)),
    *(0.0, 0.5, -0.5, 1e-30, 1e308, float("inf"), float("nan"), "", " ", "\x00", "0", "-1", "llama", "default"),
    *("\ud83d", "a" * 5000, "../../x", "(a+)+$", "好" * 50, "<|eot_id|>", "yarn", "linear", "llama3", "dynamic"),
    *([], {}, [[]], [None], [{}], [1], ["a"], {"a": 1}, {"": None}, [0] * 100, [2**40], {"rope_type": "llama3"}),
    *({"type": "yarn", "factor": 0}, {"rope_type": "linear", "factor": "x"}, {"content": 5}, {"Regex": "(a*)*b"}),
]


def damage_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to five damages anywhere: a byte, a token, a stretch left out or doubled, an end cut off, a number set."""
    for _ in range(rng.randint(1, 5)):
        way = rng.random()
        index = rng.randint(0, len(data))
        if rng.random() < 0.5:  # headers are where lengths are
            index = min(index, rng.randint(0, min(len(data), 4096)))
        if way < 0.3 and index < len(data):
            data = data[:index] + bytes([rng.randrange(256)]) + data[index + 1 :]
        elif way < 0.5:
            size = rng.choice([1, 2, 4, 8])
            value = rng.choice([0, 1, 7, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
            data = data[:index] + (value & (256**size - 1)).to_bytes(size, "little") + data[index + size :]
        elif way < 0.7:
            data = data[:index] + rng.choice(TOKENS) + data[index:]
        elif way < 0.85:
            end = min(len(data), index + rng.randint(0, 200))
            data = data[:index] + data[end:] if rng.random() < 0.5 else data[:end] + data[index:end] + data[end:]
        else:
            data = data[:index]
    return data


def damage_json(rng: random.Random, value: Any, words: Sequence[str] = ()) -> Any:
    """Change one to four places of JSON data: another value, a key left out, added or renamed."""
    for _ in range(rng.randint(1, 4)):
        value = _change(rng, value, words)
    return value


def _change(rng: random.Random, value: Any, words: Sequence[str]) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.08:
        return rng.choice(VALUES)
    if isinstance(value, list):
        index = rng.randrange(len(value))
        way = rng.random()
        middle = [] if way < 0.2 else [value[index]] * 2 if way < 0.3 else [_change(rng, value[index], words)]
        return [*value[:index], *middle, *value[index + 1 :]]
    way = rng.random()
    name = rng.choice(list(value))
    if way < 0.12:
        return {key: item for key, item in value.items() if key != name}
    if way < 0.24:
        return {**value, rng.choice([*words, "", "a"]): rng.choice(VALUES)}
    if way < 0.3:
        return {rng.choice([*words, "x"]) if key == name else key: item for key, item in value.items()}
    return {**value, name: _change(rng, value[name], words)}


def damage_json_file(rng: random.Random, data: bytes, words: Sequence[str] = ()) -> bytes:
    """Damage a JSON file: mostly in its structure, else in its bytes."""
    if rng.random() < 0.2:
        return damage_bytes(rng, data)
    made = damage_json(rng, json.loads(data), words)
    return dumps(made)


def dumps(value: Any) -> bytes:
    """JSON, whatever the data hold: numbers of any length, half characters."""
    encode: Callable[..., str] = json.JSONEncoder(ensure_ascii=True).encode
    try:
        return encode(value).encode()
    except ValueError:  # an integer that is too long to be written
        return encode(_short(value)).encode().replace(b'"LONG"', b"9" * 5000)


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return "LONG" if isinstance(value, int) and value.bit_length() > 10_000 else value
