"""Write the `tokenizer.model` of an extended SentencePiece vocabulary.

A serialized model may be followed by more pieces: repeated fields of protobuf messages add up when these are
concatenated (protobuf.dev, "Encoding"). So the old file stays, byte for byte, as the beginning of the new one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

from hanlin.core.files import check_file_size, write_bytes
from hanlin.core.limits import MAX_SENTENCEPIECE_BYTES
from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE
from hanlin.tokenizer.extend import Extension
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE
from hanlin.tokenizer.tokenizer import Tokenizer


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
    file = base / SENTENCEPIECE_FILE
    if not file.is_file():
        return 0
    check_file_size(file, MAX_SENTENCEPIECE_BYTES)
    try:
        import sentencepiece
    except ImportError:
        return 0
    tokenizer, pieces = extension.tokenizer, extension.pieces
    data = file.read_bytes()
    old = sentencepiece.SentencePieceProcessor(model_proto=data)
    size = old.get_piece_size()
    if size + len(pieces) != len(tokenizer):
        return 0
    scores = (
        old.get_score(token_id) for token_id in range(size) if old.id_to_piece(token_id).strip(SENTENCEPIECE_SPACE)
    )
    score = min(scores, default=0.0)
    data += b"".join(_piece(piece, score - 1 - index) for index, piece in enumerate(pieces))
    new = sentencepiece.SentencePieceProcessor(model_proto=data)
    lines = [line for line in dict.fromkeys(line for text in texts for line in text.splitlines()) if line.strip()]
    before = Tokenizer.load(base)
    same = [a == b for a, b in zip(old.encode(lines), before.encode_batch(lines), strict=True)]
    lines = [line for line, equal in zip(lines, same, strict=True) if equal]
    if not lines or new.encode(lines) != tokenizer.encode_batch(lines):
        return 0
    write_bytes(out / SENTENCEPIECE_FILE, data)
    return len(lines)


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
