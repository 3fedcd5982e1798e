"""Calibration rows: token ids of a data artifact."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hanlin.chat.tokenizer_files import find_template
from hanlin.core.discover import record_class
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, read_jsonl
from hanlin.tokenizer.tokenizer import Tokenizer


def load_calibration_rows(
    paths: Sequence[Path], tokenizer: Tokenizer, window: int, tokens: int, seed: int
) -> Iterator[tuple[int, ...]]:
    """Rows of at most `window` ids until there are `tokens`: records of all files in an order drawn by `seed`."""
    ids_of = [ids for path in paths for ids in _encoders(_data_file(path), tokenizer)]
    if not ids_of:
        raise UserError(tr("there is nothing to read"), paths[0] if paths else "data")
    random.Random(seed).shuffle(ids_of)
    left = tokens
    for encode in ids_of:
        ids = encode()
        for start in range(0, len(ids), window):
            row = tuple(ids[start : start + window][:left])
            if len(row) > 1:
                yield row
                left -= len(row)
            if left < 2:
                return


def _encoders(file: Path, tokenizer: Tokenizer) -> Iterator[Callable[[], Sequence[int]]]:
    """For each record of a file, a function that gives its ids: what is not drawn need not be encoded."""
    kind = record_class(file)
    if kind is Conversation:
        template = find_template(tokenizer)
        if template is None:
            raise UserError(tr("the model has no chat template"), tokenizer.folder)
        for record in read_jsonl(file, Conversation):
            yield lambda record=record: template.render_conversation(record).ids  # type: ignore[misc]
        return
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for document in read_jsonl(file, Document):
        yield lambda document=document: [*begin, *tokenizer.encode(document.text)]  # type: ignore[misc]


def _data_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("conversations.jsonl", "documents.jsonl"):
        if (path / name).is_file():
            return path / name
    raise UserError(tr("no documents or conversations here"), path)
