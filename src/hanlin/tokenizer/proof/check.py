"""Check a `tokenizer.json` before it is loaded, and its rules before a text is encoded.

Most files hold the regular expressions of well-known models, which are looked up, and rules of the usual forms. Others
are tried in a child process, where the library may panic, on texts that make patterns slow; a file is tried once, and
known by its hash afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import decoders, normalizers, pre_tokenizers, processors

from hanlin.core.errors import UserError
from hanlin.core.files import check_file_size, parse_json_object
from hanlin.core.i18n import tr
from hanlin.core.limits import (
    MAX_ADDED_TOKENS,
    MAX_PATTERN_CHARACTERS,
    MAX_PATTERNS,
    MAX_TEXT_GROWTH,
    MAX_TOKENIZER_BYTES,
)
from hanlin.core.process import BoundsExceededError, run_bounded
from hanlin.tokenizer.gguf_splitting import SPLITTING_RULES
from hanlin.tokenizer.proof.ordinary import has_ordinary_rules

PROOF_SECONDS = 20.0
"""Processor time of a proof; a tokenizer of 262,144 tokens takes 2 s."""

_PATTERN = re.compile(rb'"Regex"\s*:\s*"((?:[^"\\]|\\.)*)"')
_HIDDEN = re.compile(rb"\\u00[2-7]")
"""A letter of ASCII as an escape: a key could be spelled so that `_PATTERN` does not see it. No library writes that."""
_ADDED = b'"single_word"'
_FEW_ADDED_TOKENS = 4_096
_MAX_STEPS = 64
_MAX_PREPENDED = 1_024
_PARTS = {
    "normalizer": (normalizers, "normalizers"),
    "pre_tokenizer": (pre_tokenizers, "pretokenizers"),
    "post_processor": (processors, "processors"),
    "decoder": (decoders, "decoders"),
}
"""The module whose classes are called as the steps of a part are, and the key of the steps of a sequence."""
_KNOWN_PATTERNS = frozenset(
    [
        *(pattern for rule in SPLITTING_RULES.values() for pattern in rule.patterns),
        *(" ", "▁", " {2,}", r"\s+$", "\n", r"[\r\n]", r"\s+", r"\p{N}", r"\p{N}{1,3}", r"\d", r"\s"),
    ]
)


def check_tokenizer_file(file: Path) -> None:
    """Check a `tokenizer.json` before the library reads it.

    Raises:
        UserError: It is too large, has more or longer patterns than any model, or takes too long to load and to encode
            the texts of the proof.
    """
    check_file_size(file, MAX_TOKENIZER_BYTES)
    data = file.read_bytes()
    count = data.count(_ADDED)
    if count > MAX_ADDED_TOKENS:
        what = tr("{count:,} added tokens, but at most {limit:,} are read", count=count, limit=MAX_ADDED_TOKENS)
        raise UserError(what, file)
    texts = _PATTERN.findall(data)
    if len(texts) > MAX_PATTERNS or any(len(text) > MAX_PATTERN_CHARACTERS for text in texts):
        what = tr(
            "more than {count} regular expressions, or one of more than {limit:,} characters",
            count=MAX_PATTERNS,
            limit=MAX_PATTERN_CHARACTERS,
        )
        raise UserError(what, file)
    is_known = count <= _FEW_ADDED_TOKENS and _HIDDEN.search(data) is None
    is_known = is_known and all(_unescape(text) in _KNOWN_PATTERNS for text in texts)
    if is_known and has_ordinary_rules(data):
        return
    try:
        rules = parse_json_object(data)
    except (TypeError, ValueError) as error:
        raise UserError(tr("not JSON: {error}", error=error), file, tr("copy it again from its source")) from error
    _check_types(rules, file)
    check_growth(rules.get("normalizer"), file)
    _prove(str(file), hashlib.sha256(data).hexdigest())


def _check_types(rules: Mapping[str, Any], file: Path) -> None:
    """Refuse a step that the library does not know; its own message names neither the step nor its type."""
    for part, (module, inner) in _PARTS.items():
        stack = [rules.get(part)]
        while stack:
            step = stack.pop()
            if not isinstance(step, dict):
                continue
            kind = step.get("type")
            if isinstance(kind, str) and not hasattr(module, kind):
                what = tr("its {part} has a step of the type '{kind}', which is not known", part=part, kind=kind[:80])
                raise UserError(what, file, tr("it may need a newer version of the package tokenizers"))
            nested = step.get(inner)
            stack.extend(nested if isinstance(nested, list) else [])


def check_growth(normalizer: Any, where: Path) -> None:
    """Refuse normalizers that make a text much longer, each of what the one before made.

    Args:
        normalizer: The rules of a `tokenizer.json`.
        where: The file, for messages.
    """
    growth = 1.0
    for index, step in enumerate(_steps(normalizer)):
        if step.get("type") == "Replace":
            content, pattern = step.get("content"), step.get("pattern")
            made = len(content.encode()) if isinstance(content, str) else 0
            old = pattern.get("String") if isinstance(pattern, dict) else None
            # a regular expression may match one byte, or nothing between two
            growth *= max(1.0, made / max(1, len(old.encode())) if isinstance(old, str) else made + 1.0)
        prepended = step.get("prepend")
        too_long = isinstance(prepended, str) and len(prepended) > _MAX_PREPENDED
        if growth > MAX_TEXT_GROWTH or too_long or index >= _MAX_STEPS:
            what = tr("its normalizers make a text more than {limit} times as long", limit=MAX_TEXT_GROWTH)
            raise UserError(what, where, tr("copy it again from its source"))


def _steps(rule: Any) -> Iterator[Mapping[str, Any]]:
    stack = [rule]
    while stack:
        step = stack.pop()
        if isinstance(step, dict):
            yield step
            inner = step.get("normalizers")
            stack.extend(reversed(inner) if isinstance(inner, list) else [])


def _unescape(text: bytes) -> str:
    try:
        return str(json.loads(b'"' + text + b'"'))
    except ValueError:
        return ""


@functools.lru_cache(maxsize=64)
def _prove(file: str, _digest: str) -> None:
    """Load a tokenizer and encode the texts of the proof in a child; the cache knows a file by its hash."""
    hint = tr("copy it again from its source")
    try:
        run_bounded("hanlin.tokenizer.proof.child:prove_tokenizer", file, seconds=PROOF_SECONDS)
    except BoundsExceededError as error:
        reasons = {"time": tr("it takes too long"), "memory": tr("it takes too much memory")}
        reason = reasons.get(error.reason, tr("the library crashes"))
        raise UserError(tr("the tokenizer cannot be used: {reason}", reason=reason), file, hint) from error
    except RuntimeError as error:
        message = " ".join(str(error).split())
        raise UserError(tr("not a tokenizer of the tokenizers library: {error}", error=message), file, hint) from error
