"""Whether the rules of a `tokenizer.json` are of the forms on which the tokenizers library is known not to panic.

A panic of its Rust prints lines of its own and is no `Exception`. What provokes one lies in the rules, not in the
vocabulary: a template that names a token that it does not define, a prefix of pieces that are shorter, a decoder that
strips more than there is. Files with other forms are loaded in a child process first; see `proof.check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hanlin.core.files import parse_json_object

_MODEL = re.compile(rb'"model"\s*:\s*\{\s*"type"\s*:\s*"BPE"')
_RULE = re.compile(rb'"(truncation|padding|normalizer|pre_tokenizer|post_processor|decoder|model)"\s*:\s*[^\s\d]')
"""A rule, not a token of the vocabulary, which an id follows."""
_PIECE_SETTING = re.compile(rb'"(?:continuing_subword_prefix|end_of_word_suffix)"\s*:\s*(?!null|""|[\s\d])')
_INNER = {
    "normalizer": ("normalizers", {"NFC", "NFD", "NFKC", "NFKD", "Replace", "Prepend"}),
    "pre_tokenizer": ("pretokenizers", {"Split", "ByteLevel", "Metaspace", "Digits"}),
    "post_processor": ("processors", {"ByteLevel", "TemplateProcessing"}),
    "decoder": ("decoders", {"ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}),
}
"""Of each rule: where a sequence holds its steps, and the steps that are known."""
_STRIP = {"content": " ", "start": 1, "stop": 0}


def has_ordinary_rules(data: bytes) -> bool:
    """Whether a `tokenizer.json` is BPE with rules of known forms.

    Only what stands before the model is parsed: the vocabulary of Llama 3 has 9 MB. The library writes the model last.
    """
    model = _MODEL.search(data)
    rules = [match[1] for match in _RULE.finditer(data)]
    if model is None or len(set(rules)) < len(rules) or _PIECE_SETTING.search(data, model.start()):
        return False
    try:
        head = parse_json_object(data[: model.start()].rstrip().rstrip(b",") + b"}")
    except (TypeError, ValueError):
        return False
    # a rule after the model is not in the head
    if set(rules) != {b"model", *(name.encode() for name in ("truncation", "padding", *_INNER) if name in head)}:
        return False
    if head.get("truncation") is not None or head.get("padding") is not None:
        return False
    return all(_is_known(step, name) for name in _INNER for step in _steps(head.get(name), _INNER[name][0]))


def _steps(rule: Any, inner: str) -> Iterator[Any]:
    stack = [] if rule is None else [rule]
    while stack:
        step = stack.pop()
        if isinstance(step, dict) and step.get("type") == "Sequence" and isinstance(step.get(inner), list):
            stack.extend(step[inner])
        else:
            yield step


def _is_known(step: Any, rule: str) -> bool:
    if not isinstance(step, dict) or step.get("type") not in _INNER[rule][1]:
        return False
    if step["type"] == "TemplateProcessing":
        return _defines_its_tokens(step)
    return step["type"] != "Strip" or all(step.get(name) == value for name, value in _STRIP.items())


def _defines_its_tokens(template: Mapping[str, Any]) -> bool:
    single, pair, tokens = (template.get(name) for name in ("single", "pair", "special_tokens"))
    if not (isinstance(single, list) and isinstance(pair, list) and isinstance(tokens, dict)):
        return False
    parts = [(token.get("ids"), token.get("tokens")) for token in tokens.values() if isinstance(token, dict)]
    if len(parts) < len(tokens) or any(
        not isinstance(ids, list) or not isinstance(names, list) or len(ids) != len(names) for ids, names in parts
    ):
        return False
    pieces = [piece.get("SpecialToken") for piece in (*single, *pair) if isinstance(piece, dict)]
    return all(isinstance(piece, dict) and piece.get("id") in tokens for piece in pieces if piece is not None)
