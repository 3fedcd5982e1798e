"""Detection of a file's character encoding, and strict decoding: errors are never ignored.

A file that is UTF-8 from end to end is UTF-8: other multi-byte text practically never is. Any other file is tried as
GB18030, Big5 and UTF-16, each strictly over the whole file, and the reading with the most frequent Chinese characters
wins. The scan runs at disk speed, and because of it the answer holds for the last byte as well as for the first.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.data.io.input_file import InputFile
from hanlin.data.text.common_characters import COMMON_CHARS, FREQUENT_CHARS

_SAMPLE_BYTES = 1 << 16
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_NOT_TEXT_CODECS = frozenset({"idna", "punycode", "undefined", "unicode-escape", "raw-unicode-escape", "utf-7"})
_MULTIBYTE_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_WIDE_UTF8 = re.compile(rb"[\xe3-\xe9\xef][\x80-\xbf]{2}")
_MIN_FREQUENT_FRACTION = 0.12
_MIN_COMMON_FRACTION, _MIN_COMMON_CHARS = 0.9, 100
_MIN_MIXED_FRACTION = 0.1
_MAX_NUL_FRACTION = 0.01
_MIN_TWICE_CHARS, _MIN_TWICE_SCORE = 20, 0.9


def detect_encoding(path: Path) -> str:
    """Detect the encoding of a file.

    A file with a few damaged bytes gets the encoding of its other bytes; decoding it then reports the damage.

    Returns:
        The name of a Python codec.

    Raises:
        UserError: No known encoding gives Chinese text, the file is no text, or some of its lines are UTF-8 and others
            are not.
    """
    with InputFile(path) as input_file:
        head = next(input_file.chunks(), b"")
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    _refuse_saved_twice(path, head)
    wide = _detect_wide_encoding(head)
    if wide:
        return wide
    offset = find_undecodable_byte(path, "utf-8")
    if offset is None:
        _refuse_binary(path, head)
        return "utf-8"
    lines = _sample_non_ascii_lines(path)
    sample = b"".join(line for _, line in lines)
    if _is_mostly_utf8(sample):
        return "utf-8"
    readings = []
    for name in ("gb18030", "big5hkscs", "cp950", "utf-16-le", "utf-16-be"):
        if find_undecodable_byte(path, name) is None:
            source = head[: _SAMPLE_BYTES & ~1] if name.startswith("utf-16") else sample
            readings.append((*score_reading(codecs.getincrementaldecoder(name)("strict").decode(source)), name))
    best = max(readings, key=lambda reading: reading[0], default=(0.0, False, ""))
    if not (best[1] and best[2].startswith("utf-16")):
        _refuse_mixed_encodings(path, lines)
    if not best[1]:
        damaged = [(*score_reading(sample.decode(name, "replace")), name) for name in ("gb18030", "big5hkscs")]
        damaged = [row for row in damaged if find_undecodable_byte(path, row[2]) is not None]
        best = max(damaged, key=lambda reading: reading[0], default=best)
    if best[1]:
        return best[2]
    hint = tr("set `encoding` (utf-8, gb18030, big5, utf-16, ...)")
    message = tr(
        "unknown encoding: not UTF-8 at byte {offset}, and not Chinese in GB18030, Big5 or UTF-16", offset=offset
    )
    raise UserError(message, path, hint)


def frequent_char_fraction(text: str) -> float:
    """Fraction of frequent Chinese characters among the non-ASCII characters of a decoded text."""
    non_ascii = [char for char in text if char > "\x7f"]
    return sum(char in FREQUENT_CHARS for char in non_ascii) / len(non_ascii) if non_ascii else 0.0


def score_reading(text: str) -> tuple[float, bool]:
    """Score a decoding of bytes of unknown encoding.

    Frequent characters tell prose. A list of names or plants has few of them, but nearly all of its characters are
    common ones, while a wrong decoding scatters over the rare ones.

    Returns:
        (score to rank decodings by, whether the text is Chinese at all).
    """
    non_ascii = [char for char in text if char > "\x7f"]
    if not non_ascii:
        return 0.0, False
    frequent = sum(char in FREQUENT_CHARS for char in non_ascii) / len(non_ascii)
    common = sum(char in COMMON_CHARS for char in non_ascii) / len(non_ascii)
    return frequent + common, frequent >= _MIN_FREQUENT_FRACTION or (
        common >= _MIN_COMMON_FRACTION and len(non_ascii) >= _MIN_COMMON_CHARS
    )


def find_undecodable_byte(path: Path, encoding: str) -> int | None:
    """Find the offset of the first byte that cannot be decoded; None if all can."""
    with InputFile(path) as input_file:
        for _, offset in _decode_strictly(input_file, encoding):
            if offset is not None:
                return offset
    return None


def decode_chunks(input_file: InputFile, encoding: str) -> Iterator[str]:
    """Decode a file strictly, chunk by chunk. Raises UserError with the offset of the first undecodable byte."""
    for text, offset in _decode_strictly(input_file, encoding):
        if offset is not None:
            raise _decode_error(input_file.path, encoding, offset)
        yield text


def read_head(path: Path, encoding: str, max_chars: int) -> str:
    """Read the first characters of a file, to detect its layout only: undecodable bytes become U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    start = ""
    with InputFile(path) as input_file:
        for chunk in input_file.chunks():
            start += decoder.decode(chunk)
            if len(start) >= max_chars:
                break
    return start[:max_chars]


def resolve_encoding(name: str, path: Path) -> str:
    """Resolve an encoding that a person named; UTF-16 and UTF-32 without a byte order mark get their byte order.

    Raises:
        UserError: There is no such text encoding, or the byte order cannot be told.
    """
    try:
        codec = codecs.lookup(name)
    except LookupError:
        codec = None
    if codec is None or codec.name in _NOT_TEXT_CODECS or not getattr(codec, "_is_text_encoding", True):
        hint = tr("for example utf-8, gb18030, big5, utf-16")
        raise UserError(tr("no encoding '{name}'", name=name), path, hint)
    if codec.name not in ("utf-16", "utf-32"):
        return codec.name
    with InputFile(path) as input_file:
        head = next(input_file.chunks(), b"")
    if not head or any(head.startswith(mark) and marked == codec.name for mark, marked in _BOMS):
        return codec.name
    detected = detect_encoding(path)
    if detected.startswith(codec.name):
        return detected
    hint = tr("write {name}-le or {name}-be", name=codec.name)
    raise UserError(tr("there is no {name} byte order mark", name=codec.name), path, hint)


def _decode_strictly(input_file: InputFile, encoding: str) -> Iterator[tuple[str, int | None]]:
    """Decode chunks as (text, None); at the first error ("", offset of the undecodable byte), then stop."""
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    read = 0
    for chunk in input_file.chunks():
        pending = len(decoder.getstate()[0])
        try:
            yield decoder.decode(chunk), None
        except UnicodeDecodeError as error:
            yield "", read - pending + error.start
            return
        read += len(chunk)
    pending = len(decoder.getstate()[0])
    try:
        yield decoder.decode(b"", True), None
    except UnicodeDecodeError as error:
        yield "", read - pending + error.start


def _decode_error(path: Path, encoding: str, offset: int) -> UserError:
    hint = tr("set `encoding`, or drop such lines with `on_error: drop`")
    return UserError(tr("not {encoding} text at byte {offset}", encoding=encoding, offset=offset), path, hint)


def _detect_wide_encoding(head: bytes) -> str | None:
    """Detect UTF-16 of mostly Latin text by zero bytes at every other position, UTF-32 at every fourth."""
    sample = head[: _SAMPLE_BYTES & ~3]
    if len(sample) < 8 or not len(sample) // 20 <= sample.count(0) <= 0.9 * len(sample):
        return None
    quarter = len(sample) // 4
    for name, top, next_to_top in (("utf-32-le", 3, 2), ("utf-32-be", 0, 1)):
        planes = sample[next_to_top::4]
        if sample[top::4].count(0) == quarter and planes.count(0) > 0.5 * quarter and max(planes) <= 0x10:
            return name
    for name, zeros in (("utf-16-le", sample[1::2].count(0)), ("utf-16-be", sample[::2].count(0))):
        if zeros > 0.9 * sample.count(0):
            return name
    return None


def _refuse_saved_twice(path: Path, head: bytes) -> None:
    """Refuse a text whose bytes in a Chinese encoding or UTF-16 were taken for Latin-1 and saved as UTF-8.

    A rule repairs such rows among others, but a short row does not tell: `ÔÚºÓÉÏ` may be a name. A whole file does. One
    of UTF-8 saved twice is left to the rule, which repairs short rows too.
    """
    try:
        text = codecs.getincrementaldecoder("utf-8")("strict").decode(head)
    except UnicodeDecodeError:
        return
    if text.isascii() or max(text) > "\xff":
        return
    source = text.encode("latin-1")
    if _is_mostly_utf8(source):
        return
    readings = []
    for name in ("utf-16-le", "utf-16-be") if "\0" in text else ("gb18030", "big5hkscs"):
        reading = codecs.getincrementaldecoder(name)("replace").decode(source)
        is_decoded = reading.count("\ufffd") <= len(reading) // 100
        if is_decoded and sum(char > "\x7f" for char in reading) >= _MIN_TWICE_CHARS:
            readings.append((*score_reading(reading), name))
    score, is_chinese, name = max(readings, default=(0.0, False, ""))
    if not is_chinese or score < _MIN_TWICE_SCORE:
        return
    label = {"big5hkscs": "big5"}.get(name, name)
    command = f"`iconv -f utf-8 -t latin1 IN | iconv -f {label} -t utf-8 > OUT`"
    message = tr("saved twice: its {encoding} bytes were taken for Latin-1 and saved as UTF-8", encoding=label)
    raise UserError(message, path, tr("undo it, such as with {command}", command=command))


def _refuse_binary(path: Path, head: bytes) -> None:
    zeros, size = head.count(0), len(head)
    if zeros > _MAX_NUL_FRACTION * size:
        message = tr("not text: {zeros} of its first {size} bytes are NUL", zeros=zeros, size=size)
        raise UserError(message, path)


def _refuse_mixed_encodings(path: Path, lines: list[tuple[int, bytes]]) -> None:
    """Refuse a file of which some lines are UTF-8 and others GB18030 or Big5, as concatenated files are."""
    lines_by_encoding: dict[str, list[tuple[int, int]]] = {"UTF-8": [], "GB18030": [], "Big5": []}
    for line_number, line in lines:
        encoding = _detect_line_encoding(line)
        if encoding:
            lines_by_encoding[encoding].append((line_number, len(line)))
    sizes = {encoding: sum(size for _, size in sample) for encoding, sample in lines_by_encoding.items()}
    other = max(("GB18030", "Big5"), key=lambda encoding: sizes[encoding])
    total = sizes["UTF-8"] + sizes[other]
    if total == 0 or min(sizes["UTF-8"], sizes[other]) < _MIN_MIXED_FRACTION * total:
        return
    first, second = lines_by_encoding["UTF-8"][0][0], lines_by_encoding[other][0][0]
    hint = tr("convert all of it to UTF-8, or set one `encoding` and drop the other lines with `on_error: drop`")
    message = tr(
        "mixed encodings: line {first} is UTF-8, line {second} is {other}", first=first, second=second, other=other
    )
    raise UserError(message, path, hint)


def _detect_line_encoding(line: bytes) -> str | None:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        pass
    else:
        return (
            "UTF-8"
            if len(_WIDE_UTF8.findall(line)) > 2 and frequent_char_fraction(text) >= _MIN_FREQUENT_FRACTION
            else None
        )
    scores = []
    for encoding, name in (("GB18030", "gb18030"), ("Big5", "big5hkscs")):
        try:
            text = line.decode(name)
        except UnicodeDecodeError:
            continue
        if frequent_char_fraction(text) >= _MIN_FREQUENT_FRACTION:
            scores.append((score_reading(text)[0], encoding))
    return max(scores)[1] if scores else None


def _sample_non_ascii_lines(path: Path) -> list[tuple[int, bytes]]:
    """Read the first lines that are not ASCII, up to 64 KiB, as (line number from 1, line)."""
    sample = []
    size = 0
    with InputFile(path) as input_file:
        for line_number, (line, _, _) in enumerate(input_file.lines(4 * _SAMPLE_BYTES), start=1):
            if not line.isascii():
                sample.append((line_number, line))
                size += len(line)
            if size >= _SAMPLE_BYTES:
                break
    return sample


def _is_mostly_utf8(sample: bytes) -> bool:
    """Whether at least 0.9 of the non-ASCII bytes are parts of valid UTF-8 characters: UTF-8 with a few bad bytes."""
    non_ascii = sum(byte > 0x7F for byte in sample)
    valid = sum(len(match.group()) for match in _MULTIBYTE_UTF8.finditer(sample))
    return non_ascii > 0 and valid >= 0.9 * non_ascii
