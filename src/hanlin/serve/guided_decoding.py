"""Guided decoding: answers that must be JSON, or JSON of a schema, by masking the ids that may not come next.

The grammar engine is llguidance. Here are the bounds on what a client's schema may cost, and the tokenizer as
llguidance reads it. Nothing that a schema refers to (`$ref` with an address) is ever fetched.
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

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError
from hanlin.tokenizer.tokenizer import Tokenizer

MAX_SCHEMA_CHARS = 64 * 2**10
_FLEXIBLE_JSON: Any = {"whitespace_flexible": True, "whitespace_pattern": "[ \\n]{0,16}"}
"""White space between the parts of JSON is bounded, or a model may write nothing else until its limit."""
_COMPACT_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""The spelling of `json.dumps`, in which tool calls are trained."""


class GrammarCompiler:
    """Compiles JSON schemas to constraints over the vocabulary of one tokenizer. Safe to use from any thread.

    Args:
        tokenizer: Its vocabulary is what the masks range over.
        stop_ids: Ids that end an answer; allowed only where the JSON is complete.
        folder: Folder of the tokenizer's files, from which another process reads it again.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], folder: Path) -> None:
        self._tokenizer = tokenizer
        self.stop_ids = tuple(stop_ids)
        self.folder = folder
        self._lock = threading.Lock()
        self._ll_tokenizer: LLTokenizer | None = None

    def compile_schema(self, schema: Mapping[str, Any], param: str, compact: bool = False) -> GrammarConstraint:
        """A constraint to JSON that conforms to `schema`.

        Args:
            schema: JSON schema, as the client sent it.
            param: The request field that holds it, named in errors.
            compact: Spell the JSON as `json.dumps` does, without optional white space.

        Raises:
            ApiError: 400 for a schema that is too long, too costly, or uses a keyword that is not supported.
        """
        text = json.dumps(schema, ensure_ascii=False)
        if len(text) > MAX_SCHEMA_CHARS:
            what = tr("the schema is longer than {max_schema_chars} characters", max_schema_chars=MAX_SCHEMA_CHARS)
            raise ApiError(400, what, param=param)
        try:
            grammar = LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT_JSON if compact else _FLEXIBLE_JSON)
        except ValueError as error:
            raise _schema_error(str(error), param) from error
        matcher = self.make_matcher(grammar)
        if matcher.is_error():
            raise _schema_error(matcher.get_error(), param)
        return GrammarConstraint(matcher, self, grammar, schema)

    def make_matcher(self, grammar: str) -> LLMatcher:
        return LLMatcher(self._get_ll_tokenizer(), grammar, log_level=0, limits=_parser_limits())

    def _get_ll_tokenizer(self) -> LLTokenizer:
        with self._lock:
            if self._ll_tokenizer is None:
                wrapper = TokenizerWrapper(_LlguidanceVocab(self._tokenizer, self.stop_ids))
                self._ll_tokenizer = LLTokenizer(wrapper, eos_token=list(self.stop_ids))
            return self._ll_tokenizer


def _parser_limits() -> LLParserLimits:
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


class _LlguidanceVocab:
    """What llguidance asks of a tokenizer: the bytes of each id, and which ids are never text (marked by 0xFF)."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        special = tokenizer.special_ids | set(stop_ids)
        self.tokens = [
            b"\xff" + str(token_id).encode() if token_id in special else tokenizer.token_bytes(token_id)
            for token_id in range(len(tokenizer))
        ]
        self.special_token_ids = sorted(special)
        self.eos_token_id = stop_ids[0]
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, continuation=True)


class GrammarConstraint:
    """Implements `Constraint` with a grammar. If the grammar fails or outgrows its bounds, only the stop ids are
    allowed from then on, and `failed` says why.
    """

    def __init__(self, matcher: LLMatcher, compiler: GrammarCompiler, grammar: str, schema: Mapping[str, Any]) -> None:
        self._matcher = matcher
        self._compiler, self._grammar = compiler, grammar
        self._stop_ids = frozenset(compiler.stop_ids)
        self.schema = schema
        self.failed = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as a fresh constraint of the same grammar, for a process that reads the tokenizer for itself."""
        return _restore_constraint, (
            self._compiler.folder,
            self._compiler.stop_ids,
            self._grammar,
            dict(self.schema),
        )

    def allowed_tokens(self) -> NDArray[np.bool_]:
        """Boolean mask [vocabulary, rounded up to a multiple of 8]: True for ids that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, bitorder="little").astype(np.bool_)
        if self._matcher.is_error():
            self.failed = self._matcher.get_error()
        if self.failed or not mask.any():
            mask = np.zeros(max(len(mask), max(self._stop_ids) + 1), np.bool_)
            mask[list(self._stop_ids)] = True
        return mask

    def accept_token(self, token_id: int) -> None:
        """Advance by the id that was chosen."""
        if token_id not in self._stop_ids and not self._matcher.consume_token(token_id) and not self.failed:
            self.failed = self._matcher.get_error()


def _restore_constraint(
    folder: Path, stop_ids: tuple[int, ...], grammar: str, schema: dict[str, Any]
) -> GrammarConstraint:
    compiler = _load_compiler(folder, stop_ids)
    return GrammarConstraint(compiler.make_matcher(grammar), compiler, grammar, schema)


@functools.lru_cache(maxsize=4)
def _load_compiler(folder: Path, stop_ids: tuple[int, ...]) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.load(folder), stop_ids, folder)


def _schema_error(detail: str, param: str) -> ApiError:
    first_line = detail.strip().splitlines()[0][:200] if detail.strip() else "?"
    return ApiError(400, tr("the schema cannot be used: {first_line}", first_line=first_line), param=param)
