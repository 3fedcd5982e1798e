"""Write the `tokenizer.model` of an extended or trimmed SentencePiece vocabulary, or of one that did not change.

A serialized model may be followed by more pieces: repeated fields of protobuf messages add up when these are
concatenated (protobuf.dev, "Encoding"). So the old file stays, byte for byte, as the beginning of an extended one. A
piece is one field of the message, so that a trimmed one leaves fields out.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import check_file_size, write_bytes
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_SENTENCEPIECE_BYTES
from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE
from hanlin.tokenizer.extend import Extension
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE
from hanlin.tokenizer.sentencepiece import find_difference
from hanlin.tokenizer.tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)
_PIECES = 1
"""Number of the field of `ModelProto` that holds a piece (sentencepiece_model.proto)."""
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}
"""Wire types of protobuf: numbers of variable length, bytes behind their length, and numbers of so many bytes."""
_MAX_SHIFT = 63


def write_extended_model(base: Path, extension: Extension, out: Path, texts: Sequence[str]) -> int:
    """Write a `tokenizer.model` with more pieces into `out` if it gives the extended tokenizer's ids on all `texts`.

    Scores go on from the lowest old one, pieces of spaces aside, and fall by 1 with each id, as in Llama 2's own model.

    Args:
        base: Folder of the old tokenizer.
        extension: The extended tokenizer and its new pieces.
        out: Folder to write into.
        texts: What is compared, line by line; lines on which the old two files differ already are left out.

    Returns:
        The number of lines that were compared; 0 if nothing was written: there is no such model, it has another number
        of entries than the tokenizer had, the package sentencepiece is missing, or a line has other ids.
    """
    data, old = _open(base)
    pieces = extension.pieces
    if old is None or old.get_piece_size() + len(pieces) != len(extension.tokenizer):
        return 0
    ids = range(old.get_piece_size())
    score = min((old.get_score(i) for i in ids if old.id_to_piece(i).strip(SENTENCEPIECE_SPACE)), default=0.0)
    data += b"".join(_piece(piece, score - 1 - index) for index, piece in enumerate(pieces))
    return _write_if_equal(data, old, Tokenizer.load(base), extension.tokenizer, out, texts)


def write_trimmed_model(
    base: Path, old_ids: Sequence[int], tokenizer: Tokenizer, out: Path, texts: Sequence[str]
) -> int:
    """Write a `tokenizer.model` of the pieces that are kept into `out` if it gives the trimmed tokenizer's ids.

    Args:
        base: Folder of the old tokenizer.
        old_ids: Old ids of the entries that are kept, in rising order.
        tokenizer: The trimmed tokenizer.
        out: Folder to write into.
        texts: What is compared, line by line; lines on which the old two files differ already are left out.

    Returns:
        The number of lines that were compared; 0 as in `write_extended_model`.
    """
    data, old = _open(base)
    before = Tokenizer.load(base)
    if old is None or any(old.id_to_piece(i) != before.backend.id_to_token(i) for i in range(old.get_piece_size())):
        return 0
    kept = [index for index in old_ids if index < old.get_piece_size()]
    return _write_if_equal(keep_pieces(data, kept), old, before, tokenizer, out, texts)


def keep_pieces(data: bytes, kept: Sequence[int]) -> bytes:
    """A serialized model with these of its pieces alone, in their old order; all other fields stay byte for byte.

    Raises:
        ValueError: It is no message of protobuf.
    """
    wanted, index, out = set(kept), 0, []
    for number, field in _fields(data):
        if number != _PIECES or index in wanted:
            out.append(field)
        index += number == _PIECES
    return b"".join(out)


def carry_model(folders: Iterable[Path], tokenizer: Tokenizer, out: Path) -> bool:
    """Copy the `tokenizer.model` of the first of `folders` that has one beside a tokenizer that did not change.

    A child process with limits proves it: every piece is an entry of `tokenizer.json` in `out` under the same id, what
    has higher ids are added tokens, and Chinese lines have the same ids, as for a model without `tokenizer.json`. If
    the proof fails a warning says so and nothing is copied: other programs prefer this file and would meet other ids.

    Returns:
        Whether `out` has the file.
    """
    file = next((folder / SENTENCEPIECE_FILE for folder in folders if (folder / SENTENCEPIECE_FILE).is_file()), None)
    if file is None:
        return False
    target = out / SENTENCEPIECE_FILE
    if target.exists() and target.samefile(file):
        return True
    target.unlink(missing_ok=True)
    try:
        problem = find_difference(file, tokenizer.backend)
    except UserError as error:
        problem = error.what
    if problem:
        _LOG.warning("%s: %s", file, tr("{name} is left out: {problem}", name=SENTENCEPIECE_FILE, problem=problem))
        return False
    write_bytes(target, file.read_bytes())
    return True


def _open(base: Path) -> tuple[bytes, Any]:
    """The bytes of a folder's `tokenizer.model` and SentencePiece's reader of it; None if one of the two is missing."""
    file = base / SENTENCEPIECE_FILE
    if not file.is_file():
        return b"", None
    check_file_size(file, MAX_SENTENCEPIECE_BYTES)
    try:
        import sentencepiece
    except ImportError:
        return b"", None
    data = file.read_bytes()
    return data, sentencepiece.SentencePieceProcessor(model_proto=data)


def _write_if_equal(data: bytes, old: Any, before: Tokenizer, after: Tokenizer, out: Path, texts: Sequence[str]) -> int:
    """Write a changed model if it gives the ids of the changed tokenizer; return the number of lines compared."""
    new = type(old)(model_proto=data)
    lines = [line for line in dict.fromkeys(line for text in texts for line in text.splitlines()) if line.strip()]
    same = [a == b for a, b in zip(old.encode(lines), before.encode_batch(lines), strict=True)]
    lines = [line for line, equal in zip(lines, same, strict=True) if equal]
    if not lines or new.encode(lines) != after.encode_batch(lines):
        return 0
    write_bytes(out / SENTENCEPIECE_FILE, data)
    return len(lines)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message: the number of each and its bytes, tag and length with them."""
    position = 0
    while position < len(data):
        start = position
        tag, position = _read_varint(data, position)
        if tag & 7 == _VARINT:
            _, position = _read_varint(data, position)
        elif tag & 7 == _BYTES:
            length, position = _read_varint(data, position)
            position += length
        elif tag & 7 in _FIXED:
            position += _FIXED[tag & 7]
        else:
            raise ValueError(f"wire type {tag & 7}")
        if position > len(data):
            raise ValueError("the message is cut off")
        yield tag >> 3, data[start:position]


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    """A number and the position behind it."""
    number = shift = 0
    while position < len(data) and shift <= _MAX_SHIFT:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7
    raise ValueError("a number has no end")


def _piece(text: str, score: float) -> bytes:
    """A `SentencePiece` as field 1 of `ModelProto`: piece (1), score (2); its type is NORMAL if none is given."""
    content = text.encode()
    message = b"\x0a" + _varint(len(content)) + content + b"\x15" + struct.pack("<f", score)
    return b"\x0a" + _varint(len(message)) + message


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])
