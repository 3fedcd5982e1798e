"""Answers that must be JSON, or JSON of a schema: which ids may come next.

Owns the bounds on what a client's schema may cost. The grammar itself is llguidance's; nothing that a schema names is
ever fetched.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from hanlin.core.i18n import say
from hanlin.serve.errors import ApiError
from hanlin.tokenizer.tokenizer import Tokenizer

LARGEST_SCHEMA = 64 * 2**10
_SPACE: Any = {"whitespace_flexible": True, "whitespace_pattern": "[ \\n]{0,16}"}
"""White space between JSON's parts: without a bound a model may write nothing else until its limit."""
_COMPACT: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammars:
    """Constraints for the answers of one tokenizer; making one is safe in any thread."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], folder: Path) -> None:
        """`folder`: where the tokenizer lies, for a process that gets a constraint of these grammars."""
        self._tokenizer = tokenizer
        self.stop_ids = tuple(stop_ids)
        self.folder = folder
        self._lock = threading.Lock()
        self._known: LLTokenizer | None = None

    def of_schema(self, schema: Mapping[str, Any], param: str, compact: bool = False) -> GrammarConstraint:
        """A constraint to JSON that fits `schema`, `compact` in the form that tool calls are trained in.

        Raises ApiError (400) for a schema that is too large, too costly, or says what is not known.
        """
        text = json.dumps(schema, ensure_ascii=False)
        if len(text) > LARGEST_SCHEMA:
            what = say(f"the schema is longer than {LARGEST_SCHEMA} characters", f"schema 超过 {LARGEST_SCHEMA} 个字符")
            raise ApiError(400, what, param=param)
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT if compact else _SPACE)
        except ValueError as error:
            raise _not_a_schema(str(error), param) from error
        matcher = self.matcher(grammar)
        if matcher.is_error():
            raise _not_a_schema(matcher.get_error(), param)
        return GrammarConstraint(matcher, self, grammar, schema)

    def matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._vocabulary(), grammar, log_level=0, limits=_limits())

    def _vocabulary(self) -> LLTokenizer:
        with self._lock:
            if self._known is None:
                wrapped = TokenizerWrapper(_Spelt(self._tokenizer, self.stop_ids))
                self._known = LLTokenizer(wrapped, eos_token=list(self.stop_ids))
            return self._known


def _limits() -> LLParserLimits:
    return LLParserLimits(
        max_items_in_row=1000,
        initial_lexer_fuel=500_000,
        step_lexer_fuel=100_000,
        step_max_items=25_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        precompute_large_lexemes=False,
        verbose_errors=False,
    )


class _Spelt:
    """What llguidance asks of a tokenizer: the bytes of each id, and which ids are never text."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        special = tokenizer.special_ids | set(stop_ids)
        self.tokens = [
            b"\xff" + str(number).encode() if number in special else tokenizer.token_bytes(number)
            for number in range(len(tokenizer))
        ]
        self.special_token_ids = sorted(special)
        self.eos_token_id = stop_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, inside=True)


class GrammarConstraint:
    """See `Constraint`. Where the grammar breaks or outgrows its bounds the answer ends, and `failed` says why."""

    def __init__(self, matcher: LLMatcher, grammars: Grammars, grammar: str, schema: Mapping[str, Any]) -> None:
        self._matcher = matcher
        self._grammars, self._grammar = grammars, grammar
        self._stop_ids = frozenset(grammars.stop_ids)
        self.schema = schema
        self.failed = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """A fresh constraint of the same grammar, in a process that reads the tokenizer for itself."""
        return _again, (self._grammars.folder, self._grammars.stop_ids, self._grammar, dict(self.schema))

    def allowed_tokens(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little").astype(np.bool_)
        if self._matcher.is_error():
            self.failed = self._matcher.get_error()
        if self.failed or not mask.any():
            mask = np.zeros(max(len(mask), max(self._stop_ids) + 1), np.bool_)
            mask[list(self._stop_ids)] = True
        return mask

    def accept_token(self, token_id: int) -> None:
        if token_id not in self._stop_ids and not self._matcher.consume_token(token_id) and not self.failed:
            self.failed = self._matcher.get_error()


def _again(folder: Path, stop_ids: tuple[int, ...], grammar: str, schema: dict[str, Any]) -> GrammarConstraint:
    grammars = _grammars_at(folder, stop_ids)
    return GrammarConstraint(grammars.matcher(grammar), grammars, grammar, schema)


@functools.lru_cache(maxsize=4)
def _grammars_at(folder: Path, stop_ids: tuple[int, ...]) -> Grammars:
    return Grammars(Tokenizer.load(folder), stop_ids, folder)


def _not_a_schema(detail: str, param: str) -> ApiError:
    first = detail.strip().splitlines()[0][:200] if detail.strip() else "?"
    return ApiError(400, say(f"the schema cannot be used: {first}", f"无法使用该 schema：{first}"), param=param)
