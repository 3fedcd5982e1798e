"""Encodings are detected from the bytes, and nothing is decoded with errors ignored."""

from __future__ import annotations

import gzip
import io
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.core.errors import UserError
from hanlin.data.io.encodings import decode_chunks, detect_encoding, find_undecodable_byte
from hanlin.data.io.input_file import InputFile
from hanlin.data.text.common_characters import COMMON_CHARS

SIMPLIFIED = "春天来了，院子里的花都开了。我们一起去看看吧，他说得对。\n" * 5
TRADITIONAL = "春天來了，院子裡的花都開了。我們一起去看看吧，他說得對。\n" * 5


def text_of(path: Path) -> str:
    with InputFile(path) as input_file:
        return "".join(decode_chunks(input_file, detect_encoding(path)))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (SIMPLIFIED, "utf-8"),
        (SIMPLIFIED, "utf-8-sig"),
        (SIMPLIFIED, "utf-16"),
        (SIMPLIFIED, "utf-16-le"),
        (SIMPLIFIED, "utf-16-be"),
        (SIMPLIFIED, "gbk"),
        (SIMPLIFIED, "gb18030"),
        (TRADITIONAL, "big5"),
        (TRADITIONAL, "utf-8"),
        (TRADITIONAL, "gb18030"),
        ("Plain English.\nNothing else.\n", "ascii"),
        ("Plain English.\nNothing else.\n", "utf-16-le"),
        ("你好", "gbk"),
    ],
)
def test_a_text_is_read_in_every_encoding(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode(encoding))
    assert text_of(path) == text


def test_chinese_after_a_megabyte_of_ascii_is_detected(tmp_path: Path) -> None:
    path = tmp_path / "late.txt"
    path.write_bytes(b"plain line\n" * 200_000 + SIMPLIFIED.encode("gbk"))
    assert detect_encoding(path) == "gb18030"


def test_a_damaged_utf8_file_is_not_taken_for_gb18030(tmp_path: Path) -> None:
    path = tmp_path / "damaged.txt"
    start = (SIMPLIFIED * 20).encode()
    path.write_bytes(start + b"\xff" + SIMPLIFIED.encode())
    assert detect_encoding(path) == "utf-8"
    assert find_undecodable_byte(path, "utf-8") == len(start)
    with pytest.raises(UserError, match=f"not utf-8 text at byte {len(start)}"):
        text_of(path)


def test_a_damaged_gb18030_file_is_reported_with_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "damaged.txt"
    start = (SIMPLIFIED * 20).encode("gb18030")
    path.write_bytes(start + b"\xff\xff\n" + SIMPLIFIED.encode("gb18030"))
    with pytest.raises(UserError, match=f"not gb18030 text at byte {len(start)}"):
        text_of(path)


@pytest.mark.parametrize("data", [bytes(range(128, 256)) * 9, "café déjà vu, naïve Müller".encode("latin-1")])
def test_what_is_no_chinese_in_any_encoding_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "noise.txt"
    path.write_bytes(data)
    with pytest.raises(UserError, match="unknown encoding") as refusal:
        detect_encoding(path)
    assert refusal.value.where == str(path) and "encoding" in str(refusal.value.hint)


def test_compression_is_detected_by_content_not_by_name(tmp_path: Path) -> None:
    import bz2
    import lzma

    for pack in (gzip.compress, bz2.compress, lzma.compress):
        path = tmp_path / "packed.txt"
        path.write_bytes(pack(SIMPLIFIED.encode("gbk")))
        assert text_of(path) == SIMPLIFIED


def test_zstandard_is_decompressed(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    path = tmp_path / "packed.txt.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(SIMPLIFIED.encode()))
    assert text_of(path) == SIMPLIFIED


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_compressed_file_is_refused(tmp_path: Path, ending: str) -> None:
    data = (SIMPLIFIED * 500).encode()
    if ending == ".gz":
        packed = gzip.compress(data)
    else:
        zstandard = pytest.importorskip("zstandard")
        target = io.BytesIO()
        with zstandard.ZstdCompressor().stream_writer(target, closefd=False) as writer:
            for start in range(0, len(data), 4096):
                writer.write(data[start : start + 4096])
                writer.flush(zstandard.FLUSH_BLOCK)
        packed = target.getvalue()
    path = tmp_path / f"cut.txt{ending}"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="truncated"):
        text_of(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        detect_encoding(tmp_path / "none.txt")


LEVEL_ONE = {
    "gb18030": sorted(char for char in COMMON_CHARS if len(char.encode("gb2312", "ignore")) == 2 and char > "一"),
    "big5": sorted(char for char in COMMON_CHARS if len(char.encode("big5", "ignore")) == 2 and char > "一"),
}
ENCODINGS = [
    *(
        ("gb18030", encoding)
        for encoding in ("utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16", "utf-16-le", "utf-16-be")
    ),
    *(("big5", encoding) for encoding in ("utf-8", "big5", "gb18030", "utf-16-le", "utf-16-be", "utf-32-le")),
]


@pytest.mark.parametrize(("level", "encoding"), ENCODINGS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers())
def test_the_encoding_of_any_200_chinese_characters_is_detected(
    tmp_path: Path, level: str, encoding: str, seed: int
) -> None:
    """Characters drawn evenly from the common ones: a text without any grammar, which is the hardest there is."""
    text = "".join(random.Random(seed).choices([*LEVEL_ONE[level], "，", "。"], k=200))
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode(encoding, "ignore"))
    assert text_of(path) == text.encode(encoding, "ignore").decode(encoding)


REAL = {"novel_sanguo.txt": ("gbk", "gb18030"), "wiki_zh_trad_drcd_dev.txt": ("big5", "gb18030")}


@pytest.mark.parametrize("name", REAL)
def test_the_encoding_of_200_characters_of_real_text_is_detected(shared_data: Path, tmp_path: Path, name: str) -> None:
    whole = (shared_data / "text" / name).read_text(encoding="utf-8")
    rng, path = random.Random(0), tmp_path / "text.txt"
    for _ in range(60):
        start = rng.randrange(len(whole) - 200)
        for encoding in (*REAL[name], "utf-8", "utf-16", "utf-16-le", "utf-16-be"):
            text = whole[start : start + 200].encode(encoding, "ignore").decode(encoding)
            path.write_bytes(text.encode(encoding))
            assert text_of(path) == text, (encoding, text)


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl"])
def test_a_file_saved_twice_is_refused_with_the_command_that_undoes_it(
    tmp_path: Path, encoding: str, name: str
) -> None:
    """Its short rows would pass for words: `ÔÚºÓÉÏ` is 在河上 in GBK."""
    row = (
        "這條河上有船，船在水中。\n"
        if name == "a.txt"
        else '{"prompt": "古老的石橋在哪裡？", "response": "在河上。"}\n'
    )
    path = tmp_path / name
    path.write_bytes((row * 20).encode(encoding).decode("latin-1").encode("utf-8"))
    with pytest.raises(UserError) as refused:
        detect_encoding(path)
    assert f"saved twice: its {encoding}" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "Le café où l'élève a été reçu à Noël, même après l'été : ça dépend des tâches.",
        "Þórður fór með báti á sjóinn, því að það er gott veður í dag og ísinn er þunnur.",
        "não são ações, coração, três, você também é avó",
        "ÉÈÊÀÇÔÛÎÏ ÄÖÜ ÅØÆ",
        "§ 1 ° ± × ÷ ¥ £ © ® ½ ¼ ¾ ² ³ µ « »",
    ],
)
def test_text_of_other_languages_is_not_taken_for_a_file_saved_twice(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text * 30, encoding="utf-8")
    assert detect_encoding(tmp_path / "a.txt") == "utf-8"
