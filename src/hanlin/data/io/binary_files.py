"""Files that are no text and no table that is read here, named for what they are by their first bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.i18n import mark, tr
from hanlin.data.io.input_file import InputFile

_WORKBOOK = (mark("an Excel workbook"), mark("save each of its sheets as CSV in UTF-8"))
_TEXT_DOCUMENT = (mark("a document of a word processor"), mark("save it as plain text"))
_ARCHIVE = (mark("an archive of several files"), mark("unpack it, and name the folder"))
_UNREADABLE = mark("convert it to JSON Lines, CSV or Parquet")
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1", *_WORKBOOK),
    (b"7z\xbc\xaf\x27\x1c", *_ARCHIVE),
    (b"Rar!\x1a\x07", *_ARCHIVE),
    (b"%PDF-", mark("a PDF document"), mark("take its text out first, for example with pdftotext")),
    (b"SQLite", mark("an SQLite database"), _UNREADABLE),
    (b"\x93NUMPY", mark("a NumPy array"), _UNREADABLE),
    (b"\x89HDF\r\n", mark("an HDF5 file"), _UNREADABLE),
    (b"\x89PNG\r\n", mark("a picture"), ""),
    (b"\xff\xd8\xff", mark("a picture"), ""),
    (b"GGUF", mark("a GGUF model"), ""),
)
_POINTERS = (
    (b"version https://git-lfs.github.com/spec/", mark("a pointer of Git LFS"), "git lfs pull"),
    (b"/annex/objects/", mark("a pointer of git-annex"), "git annex get ."),
)
_PAGES = (b"<!doctype html", b"<html")
_DATA_SUFFIXES = (".json", ".jsonl", ".ndjson", ".jl", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
_HEAD_BYTES = 1024
_ZIP_PARTS = (("xl/", _WORKBOOK), ("word/", _TEXT_DOCUMENT), ("content.xml", _TEXT_DOCUMENT))
_TAR_MARK = slice(257, 262)


def refuse_stand_in(path: Path, suffix: str) -> None:
    """Raise UserError if a file only stands for the data: a pointer to it, or a web page saved under its name."""
    with InputFile(path) as input_file:
        head = next(input_file.chunks(), b"")[:_HEAD_BYTES]
    for beginning, what, command in _POINTERS:
        if head.startswith(beginning):
            hint = tr("the data itself is fetched by {command} in its repository", command=f"`{command}`")
            raise UserError(tr("it is {what}, which is not read", what=tr(what)), path, hint)
    if suffix in _DATA_SUFFIXES and head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        hint = tr("it was saved in place of the file: download that one, such as by the link `raw` or `download`")
        raise UserError(tr("it is {what}, which is not read", what=tr("a web page")), path, hint)


def refuse_binary_file(path: Path) -> None:
    """Raise UserError if a file is a workbook, an archive or another known binary, with the way out, or is broken."""
    with InputFile(path) as input_file:
        head = input_file.head
        found = next(((what, hint) for magic, what, hint in _KINDS if head.startswith(magic)), None)
        if head.startswith(b"PK\x03\x04"):
            found = _describe_zip(path)
        elif found is None:
            is_tar = next(input_file.chunks(), b"")[_TAR_MARK] == b"ustar"
            found = _ARCHIVE if is_tar else None
    if found is not None:
        what, hint = tr(found[0]), tr(found[1]) if found[1] else None
        raise UserError(tr("it is {what}, which is not read", what=what), path, hint)


def _describe_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()[:1000]
    except (OSError, zipfile.BadZipFile, ValueError):
        return _ARCHIVE
    return next((kind for part, kind in _ZIP_PARTS if any(name.startswith(part) for name in names)), _ARCHIVE)
