"""The space that some tokenizers add before a text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import tokenizers

PrefixSpace = Literal["none", "first", "each"]


def read_pipeline_rules(backend: tokenizers.Tokenizer) -> dict[str, Any]:
    """The tokenizer's rules as data, without the model, which would be tens of megabytes."""
    parts = {"normalizer": backend.normalizer, "pre_tokenizer": backend.pre_tokenizer, "decoder": backend.decoder}
    return {name: None if part is None else json.loads(part.__getstate__()) for name, part in parts.items()}


def flatten_steps(rule: Mapping[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder; a sequence is flattened."""
    if rule is None:
        return []
    return [dict(step) for step in rule[inner]] if rule["type"] == "Sequence" else [dict(rule)]


def detect_prefix_space(rules: Mapping[str, Any]) -> PrefixSpace:
    """Whether a space is added before text: `none`, `first` (at the start only) or `each` (after special tokens
    too).
    """
    if any(step["type"] == "Prepend" for step in flatten_steps(rules["normalizer"], "normalizers")):
        return "each"
    for step in flatten_steps(rules["pre_tokenizer"], "pretokenizers"):
        if step["type"] == "Metaspace":
            scheme = step.get("prepend_scheme", "always")
            return "each" if scheme == "always" else "first" if scheme == "first" else "none"
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            return "each"
    return "none"


def without_prefix_space(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy of a tokenizer that adds no space before a text."""
    rules = read_pipeline_rules(backend)
    normalizers = [step for step in flatten_steps(rules["normalizer"], "normalizers") if step["type"] != "Prepend"]
    pretokenizers = flatten_steps(rules["pre_tokenizer"], "pretokenizers")
    for step in pretokenizers:
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
        elif step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    inner = tokenizers.Tokenizer.from_str(backend.to_str())
    normalizer: Any = tokenizers.normalizers.Sequence([])
    normalizer.__setstate__(json.dumps({"type": "Sequence", "normalizers": normalizers}).encode())
    inner.normalizer = normalizer
    if pretokenizers:
        pretokenizer: Any = tokenizers.pre_tokenizers.Sequence([])
        pretokenizer.__setstate__(json.dumps({"type": "Sequence", "pretokenizers": pretokenizers}).encode())
        inner.pre_tokenizer = pretokenizer
    inner.encode_special_tokens = True
    return inner
