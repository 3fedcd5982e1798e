"""Calibration rows: token ids of a data artifact."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.core.discover import record_class
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, read_jsonl
from hanlin.tokenizer.tokenizer import Tokenizer


def load_calibration_rows(
    paths: Sequence[Path], tokenizer: Tokenizer, window: int, tokens: int, seed: int
) -> Iterator[tuple[int, ...]]:
    """Yield rows of token ids for calibration.

    Args:
        paths: Data artifacts or files of records.
        tokenizer: The tokenizer, with the model's chat template.
        window: Most tokens of a row; longer records are split.
        tokens: Most tokens of all rows.
        seed: Seed of the order of the records.

    Yields:
        Token ids of a row, at least two.

    Raises:
        UserError: There are no records, or conversations but no chat template.
    """
    ids_of = [ids for path in paths for ids in _encoders(_data_file(path), tokenizer)]
    if not ids_of:
        raise UserError(tr("there is nothing to read"), paths[0] if paths else "data")
    random.Random(seed).shuffle(ids_of)
    remaining = tokens
    for encode in ids_of:
        ids = encode()
        for start in range(0, len(ids), window):
            row = tuple(ids[start : start + window][:remaining])
            if len(row) > 1:
                yield row
                remaining -= len(row)
            if remaining < 2:
                return


def _encoders(file: Path, tokenizer: Tokenizer) -> Iterator[Callable[[], Sequence[int]]]:
    """Yield for each record of a file a function that encodes it, so that unused records are not encoded."""
    kind = record_class(file)
    if kind is Conversation:
        template = find_template(tokenizer)
        if template is None:
            raise UserError(tr("the model has no chat template"), tokenizer.folder)
        for record in read_jsonl(file, Conversation):
            yield lambda record=record: _last_ids(template, record)  # type: ignore[misc]
        return
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    for document in read_jsonl(file, Document):
        yield lambda document=document: [*begin, *tokenizer.encode(document.text)]  # type: ignore[misc]


def _last_ids(template: ChatTemplate, record: Conversation) -> Sequence[int]:
    """The ids of a conversation up to its last answer that is learned; none if there is none."""
    examples = template.render_conversation(record)
    return examples[-1].ids if examples else ()


def _data_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in ("conversations.jsonl", "documents.jsonl"):
        if (path / name).is_file():
            return path / name
    raise UserError(tr("no documents or conversations here"), path)
