"""Guided decoding: answers that must be JSON of a schema, or fit a pattern, by masking the ids that may not come next.

The grammar engine is llguidance. Here are the bounds on what a client's schema may cost, and the tokenizer as
llguidance reads it. Nothing that a schema refers to (`$ref` with an address) is ever fetched.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import llguidance.gbnf_to_lark
import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from hanlin.core.i18n import tr
from hanlin.serve.errors import ApiError
from hanlin.serve.json_schema import SchemaError, rewrite_schema
from hanlin.tokenizer.tokenizer import Tokenizer

MAX_SCHEMA_CHARS = 64 * 2**10
_MAX_REWRITTEN_CHARS = 4 * MAX_SCHEMA_CHARS
_FLEXIBLE_JSON: Any = {"whitespace_flexible": True, "whitespace_pattern": " ?"}
"""White space between the parts of JSON is at most one space: a small model that may write more writes little else."""
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
        _check_length(json.dumps(schema, ensure_ascii=False), MAX_SCHEMA_CHARS, param)
        try:
            rewritten = rewrite_schema(schema)
        except SchemaError as error:
            raise _grammar_error(str(error), param) from error
        text = json.dumps(rewritten, ensure_ascii=False)
        _check_length(text, _MAX_REWRITTEN_CHARS, param)  # targets of references are copied
        overrides = _COMPACT_JSON if compact else _FLEXIBLE_JSON
        return self._compile({"json": rewritten}, param, LLMatcher.grammar_from_json_schema, text, overrides=overrides)

    def compile_regex(self, regex: str, param: str) -> GrammarConstraint:
        """A constraint to text that a regular expression matches as a whole; errors as in `compile_schema`."""
        _check_length(regex, MAX_SCHEMA_CHARS, param)
        return self._compile({"regex": regex}, param, LLMatcher.grammar_from_regex, regex)

    def compile_choice(self, choices: Sequence[str], param: str) -> GrammarConstraint:
        """A constraint to one of some texts; errors as in `compile_schema`."""
        regex = "|".join(map(_escape_regex, choices))
        _check_length(regex, MAX_SCHEMA_CHARS, param)
        return self._compile({"choice": list(choices)}, param, LLMatcher.grammar_from_regex, f"({regex})")

    def compile_grammar(self, grammar: str, param: str) -> GrammarConstraint:
        """A constraint to a grammar in GBNF (llama.cpp's) or Lark (vLLM's); errors as in `compile_schema`."""
        _check_length(grammar, MAX_SCHEMA_CHARS, param)
        return self._compile({"grammar": grammar}, param, _compile_any_grammar, grammar)

    def _compile(
        self, spec: Mapping[str, Any], param: str, compile_text: Callable[..., str], text: str, **options: Any
    ) -> GrammarConstraint:
        try:
            grammar = compile_text(text, **options)
        except (ValueError, RecursionError) as error:
            raise _grammar_error(str(error), param) from error
        matcher = self.make_matcher(grammar)
        if matcher.is_error():
            raise _grammar_error(matcher.get_error(), param)
        return GrammarConstraint(matcher, self, grammar, spec)

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

    def __init__(self, matcher: LLMatcher, compiler: GrammarCompiler, grammar: str, spec: Mapping[str, Any]) -> None:
        self._matcher = matcher
        self._compiler, self._grammar = compiler, grammar
        self._stop_ids = frozenset(compiler.stop_ids)
        self.spec = spec
        self.failed = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles as a fresh constraint of the same grammar, for a process that reads the tokenizer for itself."""
        return _restore_constraint, (
            self._compiler.folder,
            self._compiler.stop_ids,
            self._grammar,
            dict(self.spec),
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
    folder: Path, stop_ids: tuple[int, ...], grammar: str, spec: dict[str, Any]
) -> GrammarConstraint:
    compiler = _load_compiler(folder, stop_ids)
    return GrammarConstraint(compiler.make_matcher(grammar), compiler, grammar, spec)


@functools.lru_cache(maxsize=4)
def _load_compiler(folder: Path, stop_ids: tuple[int, ...]) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer.load(folder), stop_ids, folder)


def _compile_any_grammar(grammar: str) -> str:
    """Raises ValueError for what is neither GBNF nor Lark."""
    try:
        lark = llguidance.gbnf_to_lark.any_to_lark(grammar)
    except Exception as error:  # the converter raises bare Exceptions too
        raise ValueError(str(error)) from error
    compiled: str = LLMatcher.grammar_from_lark(lark)
    return compiled


def _escape_regex(text: str) -> str:
    """A text as a regular expression of llguidance, in which `/` has no meaning and a letter must not be escaped."""
    return "".join(f"\\x{{{ord(char):x}}}" if not char.isalnum() else char for char in text)


def _check_length(text: str, max_chars: int, param: str) -> None:
    if len(text) > max_chars:
        what = tr("the schema is longer than {max_schema_chars} characters", max_schema_chars=max_chars)
        raise ApiError(400, what, param=param)


def _grammar_error(detail: str, param: str) -> ApiError:
    first_line = detail.strip().splitlines()[0][:200] if detail.strip() else "?"
    return ApiError(400, tr("the schema cannot be used: {first_line}", first_line=first_line), param=param)
