"""A SentencePiece model converted to a fast tokenizer."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.files import check_file_size
from hanlin.core.i18n import tr, translations
from hanlin.core.limits import MAX_SENTENCEPIECE_BYTES, MAX_TOKENIZER_BYTES
from hanlin.core.process import BoundsExceededError, run_bounded
from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE
from hanlin.tokenizer.file_names import CONFIG_FILE, SENTENCEPIECE_FILE

_LOG = logging.getLogger(__name__)
_SHORTEST_LINE = 12
_TOLERATED_SHARE = 0.001
"""Of Llama 2's own model one token in ten thousand differs: it holds few pieces of equal scores."""
CONVERSION_SECONDS = 60.0
"""Processor time of a conversion; the 32,000 pieces of Llama 2 take 1.3 s."""
_FILES_READ = (SENTENCEPIECE_FILE, CONFIG_FILE, "special_tokens_map.json", "added_tokens.json", "config.json")
_told: set[Path] = set()


@dataclass(frozen=True, slots=True)
class IdDifference:
    """How often a converted tokenizer gives other ids than its SentencePiece model: shares of lines and of tokens."""

    lines: float
    tokens: float


_MAX_CONVERTED = 16
_converted: dict[str, tuple[str, IdDifference]] = {}
"""What was converted, by `_digest`."""
_compared: dict[str, tuple[bool, float]] = {}
"""What `compare_in_child` said, by the hash of both files."""


def convert_sentencepiece(
    folder: Path, config: Mapping[str, Any], *, accept_other_ids: bool = False
) -> tokenizers.Tokenizer:
    """Convert a folder's SentencePiece model to a fast tokenizer, with SentencePiece's own rule for the first space.

    transformers' converter always adds a space before the very first text and nowhere else. SentencePiece does as its
    model says; it knows no special tokens within a text, so a model trained with it saw the space before each piece
    between them (`legacy: false` in the configuration says that it was trained the other way). Merges are ranked by the
    pieces' scores. If many pieces have one score, as in vocabularies that were merged with a score of 0, SentencePiece
    takes the leftmost and `tokenizer.json` cannot express that (docs/decisions/0027). Such a model is refused, unless
    `use_fast: true` in its configuration, or `accept_other_ids`, says that the ids of the converted tokenizer are
    wanted.

    Both libraries read the file in a child process with limits on time and memory, once for the same files.

    Raises:
        UserError: If the package sentencepiece is missing, the file is not such a model, takes too long or too much
            memory, or the ids differ.
    """
    file = folder / SENTENCEPIECE_FILE
    check_file_size(file, MAX_SENTENCEPIECE_BYTES)
    if any(importlib.util.find_spec(package) is None for package in ("sentencepiece", "transformers")):
        what = tr("a SentencePiece model needs the package sentencepiece")
        raise UserError(what, file, "pip install 'hanlin[sentencepiece]'")
    digest = _digest(folder)
    if digest not in _converted:
        while len(_converted) >= _MAX_CONVERTED:
            del _converted[next(iter(_converted))]
        _converted[digest] = _convert_bounded(folder, config.get("legacy") is False)
    rules, difference = _converted[digest]
    _check_difference(file, difference, accepted=accept_other_ids or config.get("use_fast") is True)
    return tokenizers.Tokenizer.from_str(rules)


def _digest(folder: Path) -> str:
    """Changes with any file that the conversion reads."""
    hashed = hashlib.sha256()
    for name in _FILES_READ:
        file = folder / name
        data = file.read_bytes() if file.is_file() and file.stat().st_size <= MAX_TOKENIZER_BYTES else b""
        hashed.update(len(data).to_bytes(8, "little") + data)
    return hashed.hexdigest()


def _convert_bounded(folder: Path, is_not_legacy: bool) -> tuple[str, IdDifference]:
    """The rules of the converted tokenizer, and how much its ids differ."""
    rules, lines, tokens = _run_bounded(folder / SENTENCEPIECE_FILE, "convert_in_child", [str(folder), is_not_legacy])
    return str(rules), IdDifference(lines, tokens)


def _run_bounded(file: Path, function: str, argument: Sequence[Any]) -> Any:
    """Run a function of this module on a model in a child process with limits.

    Raises:
        UserError: It takes too long or too much memory, the libraries crash or raise an error.
    """
    hint = tr("it must be a SentencePiece BPE model as Llama 2 has")
    try:
        return run_bounded(f"{__name__}:{function}", argument, seconds=CONVERSION_SECONDS)
    except BoundsExceededError as error:
        reasons = {"time": tr("it takes too long"), "memory": tr("it takes too much memory")}
        reason = reasons.get(error.reason, tr("the library crashes"))
        raise UserError(tr("the tokenizer cannot be used: {reason}", reason=reason), file, hint) from error
    except RuntimeError as error:  # what a broken protobuf raises depends on the library beneath
        message = " ".join(str(error).split())
        what = tr("the SentencePiece model cannot be converted: {error}", error=message)
        raise UserError(what, file, hint) from error


def convert_in_child(argument: Sequence[Any]) -> tuple[str, float, float]:
    """What the child process does.

    Args:
        argument: The folder, and whether its configuration says `legacy: false`.

    Returns:
        The rules of the converted tokenizer, and the shares of `IdDifference`. Raises whatever the libraries raise.
    """
    folder, is_not_legacy = Path(argument[0]), bool(argument[1])
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # to import it takes a second, and nothing needs it
    import sentencepiece
    from transformers import AutoTokenizer

    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / SENTENCEPIECE_FILE))
    sets_space = processor.encode("a", out_type=str)[0] != "a"
    fast = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    backend.pre_tokenizer = None
    steps: list[tokenizers.normalizers.Normalizer] = [tokenizers.normalizers.Replace(" ", SENTENCEPIECE_SPACE)]
    text_steps = [
        tokenizers.decoders.Replace(SENTENCEPIECE_SPACE, " "),
        tokenizers.decoders.ByteFallback(),
        tokenizers.decoders.Fuse(),
    ]
    if sets_space and is_not_legacy:
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        steps = []
    elif sets_space:
        steps.insert(0, tokenizers.normalizers.Prepend(SENTENCEPIECE_SPACE))
    if sets_space:
        text_steps.append(tokenizers.decoders.Strip(" ", 1, 0))
    backend.normalizer = tokenizers.normalizers.Sequence(steps)
    backend.decoder = tokenizers.decoders.Sequence(text_steps)
    difference = compare_ids(processor, backend, _chinese_lines())
    return backend.to_str(), difference.lines, difference.tokens


def find_difference(file: Path, rules: tokenizers.Tokenizer) -> str:
    """How a SentencePiece model differs from a `tokenizer.json` beside which it is to lie; empty if it does not.

    Each piece must be the entry of its id, each further entry an added token, and no more tokens of Chinese lines may
    differ than for a model that is converted. A child process with limits reads the file, once for the same two.

    Args:
        file: The `tokenizer.model`.
        rules: The fast tokenizer.

    Raises:
        UserError: The file is too large, takes too long or too much memory, or is no such model.
    """
    check_file_size(file, MAX_SENTENCEPIECE_BYTES)
    if importlib.util.find_spec("sentencepiece") is None:
        return tr("a SentencePiece model needs the package sentencepiece")
    text = rules.to_str()
    digest = hashlib.sha256(file.read_bytes() + text.encode()).hexdigest()
    if digest not in _compared:
        while len(_compared) >= _MAX_CONVERTED:
            del _compared[next(iter(_compared))]
        _compared[digest] = _run_bounded(file, "compare_in_child", [str(file), text])
    same_entries, tokens = _compared[digest]
    if not same_entries:
        return tr("it has other entries than the tokenizer")
    return tr("it gives other ids than the tokenizer") if tokens > _TOLERATED_SHARE else ""


def compare_in_child(argument: Sequence[Any]) -> tuple[bool, float]:
    """What the child process of `find_difference` does.

    Args:
        argument: The path of the model, and the rules of the tokenizer.

    Returns:
        Whether the entries are the same, and the share of tokens that differ. Raises whatever the libraries raise.
    """
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=argument[0])
    backend = tokenizers.Tokenizer.from_str(argument[1])
    size = processor.get_piece_size()
    entries = backend.get_vocab(with_added_tokens=True)
    same = all(backend.id_to_token(index) == processor.id_to_piece(index) for index in range(size))
    further = {index for index in entries.values() if index >= size}
    if not same or not further <= backend.get_added_tokens_decoder().keys():
        return False, 1.0
    return True, compare_ids(processor, backend, _chinese_lines()).tokens


def compare_ids(processor: Any, backend: tokenizers.Tokenizer, lines: Sequence[str]) -> IdDifference:
    """Compare the ids of a SentencePiece model and of the tokenizer that was converted from it, line by line.

    A token of SentencePiece counts as different if the other tokenizer has no token at its place in the text.
    """
    expected = processor.encode(list(lines))
    actual = [encoding.ids for encoding in backend.encode_batch_fast(list(lines), add_special_tokens=False)]
    pieces = [_places(processor, ids) - _places(processor, other) for ids, other in zip(expected, actual, strict=True)]
    num_tokens = sum(map(len, expected))
    different = sum(ids != other for ids, other in zip(expected, actual, strict=True))
    return IdDifference(different / max(1, len(lines)), sum(map(len, pieces)) / max(1, num_tokens))


def _places(processor: Any, ids: Sequence[int]) -> set[tuple[int, int]]:
    """The tokens of a line, each with the number of characters before it."""
    lengths = (len(processor.id_to_piece(token_id)) for token_id in ids if token_id < processor.get_piece_size())
    return set(zip(accumulate(lengths, initial=0), ids, strict=False))


def _chinese_lines() -> list[str]:
    """Lines to compare, without the spaces around them, which have rules of their own."""
    return [line.strip() for line in translations("zh") if len(line) > _SHORTEST_LINE]


def _check_difference(file: Path, difference: IdDifference, accepted: bool) -> None:
    """Refuse a converted model whose ids differ on Chinese lines; if that is `accepted`, log it once in a process."""
    if difference.tokens <= _TOLERATED_SHARE or (accepted and file in _told):
        return
    what = tr(
        "SentencePiece itself gives other ids on {lines:.0%} of {count} Chinese lines ({tokens:.1%} of their tokens) "
        "than a fast tokenizer: pieces that share a score are joined from the left, which tokenizer.json cannot say",
        lines=difference.lines,
        count=len(_chinese_lines()),
        tokens=difference.tokens,
    )
    if not accepted:
        hint = tr(
            "a model that was trained with SentencePiece's ids would meet others; to take the ids of the fast "
            'tokenizer all the same, in training and in every engine, set "use_fast": true in {config_file}',
            config_file=CONFIG_FILE,
        )
        raise UserError(what, file, hint)
    _told.add(file)
    _LOG.warning("%s: %s", file, what)
