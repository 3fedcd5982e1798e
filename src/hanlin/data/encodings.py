"""Which character encoding a file has, told from its bytes, and text decoded strictly from it.

Owns bytes to characters. Does not own what the characters mean; nothing is ever decoded with errors ignored.

A file that is UTF-8 from end to end is UTF-8: other multi-byte text practically never is. What is not is tried as
GB18030, Big5 and UTF-16, each strictly over the whole file, and the reading with the most everyday Chinese characters
wins. The scan runs at disk speed and is what makes the answer hold for the last byte as well as for the first.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from hanlin.errors import UserError
from hanlin.language import say

CHUNK = 1 << 20
_SAMPLE = 1 << 16
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MULTIBYTE_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_LEAST_PLAUSIBLE = 0.12

# The commonest characters of modern Chinese, simplified and traditional: a fifth of the list would do to tell a right
# reading (over half of all characters are here) from a wrong one (a few in a hundred).
EVERYDAY = frozenset(
    "的一是不了在人有我他这中大来上个国到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好都然没日于起还发成事"
    "只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此实回二理美点月明其种声全工己话儿者向情"
    "部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真听世气信北少关并内加化由却代军产入先山五太水万市眼体别处"
    "总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象"
    "记边共风战干接它许八特觉望直服毛林题建南度统色字请交爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领"
    "传近留红治决周保达办运武半候七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史"
    "商千片容研像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若兵弟谁校读志飞观争究包组造落视济喜离虽坏准"
    "這個們來為國說時會對後發經學種過動麼還進裡樣開現將與長機當無從關點業兩間問實應戰頭體見產話證書車東馬門風長電聽類難題願親龍變讓認識讀語"
    "議論講許請調誰該記設試詩誤課談謝護讚貝負財責貴費資賣賽軍轉輕較載農近連運達遠選還邊郵鄉醫釋針銀錢錯鎮鐵開閉隊陽陸陳險隨雖雙雜離靈順須領"
    "頁飛飯館驗鬥魚鳥黃點黨齊歲歷歸殺氣決沒沖洲淚淨滿漢灣營爭獨環畫異療盡監眾碼確禮種積稱競筆節約級紅紙細終組結給統絕經線練總績續網緊義習聖"
    "聞聲職聯臉臨舉舊華萬葉蘇處號蟲術衛裝複觀規視覺計訊訓"
    "，。、；：？！“”‘’（）《》「」『』…—·　．～【】"
)


class Tape:
    """A file opened for reading, unpacked on the way (gzip, bzip2, xz, zstandard by their first bytes).

    `stream` gives the unpacked bytes; `position` says how far the file itself has been read.
    Raises UserError when the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
            head = self._file.read(6)
            self._file.seek(0)
        except OSError as error:
            raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), path) from error
        self.stream: BinaryIO = self._unpacked(head)

    def _unpacked(self, head: bytes) -> BinaryIO:
        if head.startswith(b"\x1f\x8b"):
            return cast(BinaryIO, gzip.GzipFile(fileobj=self._file))
        if head.startswith(b"BZh"):
            return cast(BinaryIO, bz2.BZ2File(self._file))
        if head.startswith(b"\xfd7zXZ\x00"):
            return cast(BinaryIO, lzma.LZMAFile(self._file))
        if head.startswith(b"\x28\xb5\x2f\xfd"):
            try:
                import zstandard
            except ImportError as error:
                hint = "pip install zstandard"
                raise UserError(
                    say("zstandard is needed to unpack it", "解压需要 zstandard"), self.path, hint
                ) from error
            return cast(BinaryIO, io.BufferedReader(_ZstdReader(self._file, zstandard.ZstdDecompressor()), CHUNK))
        return self._file

    @property
    def position(self) -> int:
        return 0 if self._file.closed else self._file.tell()

    def chunks(self) -> Iterator[bytes]:
        """The unpacked bytes. Raises UserError when the packed file is broken or cut short."""
        return self._guarded(iter(lambda: self.stream.read(CHUNK), b""))

    def lines(self) -> Iterator[bytes]:
        """The unpacked lines with their line ends. Raises like `chunks`."""
        return self._guarded(iter(self.stream.readline, b""))

    def _guarded(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from pieces
        except (EOFError, zlib.error, lzma.LZMAError, OSError, _zstd_error()) as error:
            message = say("cannot be unpacked, is it cut short?", "解压失败，文件是否不完整？")
            raise UserError(message, f"{self.path} ({error})") from error

    def __enter__(self) -> Tape:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stream.close()
        self._file.close()


class _ZstdReader(io.RawIOBase):
    """Unpacks zstandard frames; raises EOFError where the last one is cut short, which zstandard's own reader hides."""

    def __init__(self, file: BinaryIO, unpacker: Any) -> None:
        self._file = file
        self._unpacker = unpacker
        self._frame: Any = None
        self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready:
            packed = b"" if self._frame is None else self._frame.unused_data
            packed = packed or self._file.read(_SAMPLE)
            if not packed:
                if self._frame is not None and not self._frame.eof:
                    raise EOFError("the last frame is not complete")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._unpacker.decompressobj()
            self._ready = self._frame.decompress(packed)
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


def _zstd_error() -> type[Exception]:
    try:
        import zstandard
    except ImportError:
        return EOFError
    return cast("type[Exception]", zstandard.ZstdError)


def encoding_of(path: Path) -> str:
    """The Python name of the file's encoding.

    A file with a few damaged bytes gets the encoding of its other bytes: decoding it says where the damage is.
    Raises UserError when no encoding that we know makes Chinese of it.
    """
    with Tape(path) as tape:
        head = next(tape.chunks(), b"")
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    wide = _wide_without_mark(head)
    if wide:
        return wide
    offset = undecodable_at(path, "utf-8")
    if offset is None:
        return "utf-8"
    sample = _telling_lines(path)
    if _mostly_utf8(sample):
        return "utf-8"
    readings = []
    for name in ("gb18030", "big5hkscs", "cp950", "utf-16-le", "utf-16-be"):
        if undecodable_at(path, name) is None:
            source = head[: _SAMPLE & ~1] if name.startswith("utf-16") else sample
            readings.append((plausibility(codecs.getincrementaldecoder(name)("strict").decode(source)), name))
    if not readings or max(readings)[0] < _LEAST_PLAUSIBLE:
        damaged = [(plausibility(sample.decode(name, "replace")), name) for name in ("gb18030", "big5hkscs")]
        readings = [(mark, name) for mark, name in damaged if undecodable_at(path, name) is not None]
    best = max(readings, key=lambda reading: reading[0], default=(0.0, ""))
    if best[0] >= _LEAST_PLAUSIBLE:
        return best[1]
    hint = say(
        "name it with `encoding` (utf-8, gb18030, big5, utf-16, ...)",
        "请用 encoding 指明（utf-8、gb18030、big5、utf-16 等）",
    )
    message = say(
        f"unknown encoding: not UTF-8 at byte {offset}, and not Chinese in GB18030, Big5 or UTF-16",
        f"无法判断编码：第 {offset} 字节处不是 UTF-8，按 GB18030、Big5、UTF-16 也读不出中文",
    )
    raise UserError(message, path, hint)


def plausibility(text: str) -> float:
    """How Chinese a reading of unknown bytes looks: the share of everyday characters among all beyond ASCII."""
    beyond = [char for char in text if char > "\x7f"]
    return sum(char in EVERYDAY for char in beyond) / len(beyond) if beyond else 0.0


def undecodable_at(path: Path, encoding: str) -> int | None:
    """The offset of the first byte that is not text in this encoding, or None when all of it is."""
    with Tape(path) as tape:
        for _, offset in _strictly(tape, encoding):
            if offset is not None:
                return offset
    return None


def decoded(tape: Tape, encoding: str) -> Iterator[str]:
    """The text of a file, piece by piece. Raises UserError with the offset of the first byte that is not text."""
    for text, offset in _strictly(tape, encoding):
        if offset is not None:
            raise _not_decodable(tape.path, encoding, offset)
        yield text


def look(path: Path, encoding: str, characters: int) -> str:
    """The start of a file, for looking at its layout only: bytes that are not text are shown as U+FFFD."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    start = ""
    with Tape(path) as tape:
        for chunk in tape.chunks():
            start += decoder.decode(chunk)
            if len(start) >= characters:
                break
    return start[:characters]


def check_encoding(name: str, where: Path) -> str:
    """The name of an encoding that a person wrote, if there is such a one. Raises UserError."""
    try:
        return codecs.lookup(name).name
    except LookupError as error:
        hint = say("for example utf-8, gb18030, big5, utf-16", "例如 utf-8、gb18030、big5、utf-16")
        raise UserError(say(f"no encoding '{name}'", f"没有编码“{name}”"), where, hint) from error


def _strictly(tape: Tape, encoding: str) -> Iterator[tuple[str, int | None]]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    read = 0
    for chunk in tape.chunks():
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


def _not_decodable(path: Path, encoding: str, offset: int) -> UserError:
    hint = say(
        "name the encoding with `encoding`, or drop such lines with `on_broken: drop`",
        "可用 encoding 指明编码，或用 on_broken: drop 丢弃这些行",
    )
    return UserError(
        say(f"not {encoding} text at byte {offset}", f"第 {offset} 字节处不是合法的 {encoding} 文本"), path, hint
    )


def _wide_without_mark(head: bytes) -> str | None:
    """UTF-16 of mostly Latin text betrays itself by zero bytes on every other place."""
    sample = head[: _SAMPLE & ~1]
    if len(sample) < 8 or sample.count(0) < len(sample) // 20:
        return None
    for name, zeros in (("utf-16-le", sample[1::2].count(0)), ("utf-16-be", sample[::2].count(0))):
        if zeros > 0.9 * sample.count(0):
            return name
    return None


def _telling_lines(path: Path) -> bytes:
    """The first lines that are not plain ASCII, whole, up to a sample's size."""
    sample = bytearray()
    with Tape(path) as tape:
        for line in tape.lines():
            if not line.isascii():
                sample += line
            if len(sample) >= _SAMPLE:
                break
    return bytes(sample[: 4 * _SAMPLE])


def _mostly_utf8(sample: bytes) -> bool:
    """Whether the bytes beyond ASCII are nearly all parts of whole UTF-8 characters: UTF-8 with a few broken bytes."""
    beyond = sum(byte > 0x7F for byte in sample)
    whole = sum(len(match.group()) for match in _MULTIBYTE_UTF8.finditer(sample))
    return beyond > 0 and whole >= 0.9 * beyond
