"""Count the tokens of records with the tokenizer that will read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.chat.examples import CHAT_RECORDS, training_turns
from hanlin.chat.template import ChatTemplate
from hanlin.core.records import Document
from hanlin.tokenizer.tokenizer import Tokenizer

TokenCounter = Callable[[Sequence[Mapping[str, Any]]], list[int]]


def make_token_counter(records: str, folder: Path, template_name: str = "") -> TokenCounter:
    """Make a function that counts the tokens of rows.

    Args:
        records: The kind of the rows: `documents`, `conversations`, `preferences` or `unpaired_preferences`.
        folder: The tokenizer's folder.
        template_name: A packaged chat template; empty takes the folder's own.

    Returns:
        A function from rows to their numbers of tokens. A preference counts its prompt with each of its two answers.

    Raises:
        UserError: If the folder has no tokenizer or no template.
    """
    tokenizer = Tokenizer.load(folder)
    if records == "documents":
        return lambda rows: [len(ids) for ids in tokenizer.encode_batch([Document.from_json(row).text for row in rows])]
    template = (
        ChatTemplate.from_packaged(template_name, tokenizer) if template_name else ChatTemplate.load(folder, tokenizer)
    )

    record_type = CHAT_RECORDS[records]

    def count(row: Mapping[str, Any]) -> int:
        record = record_type.from_json(row)
        return sum(
            len(example.ids)
            for _, turns in training_turns(record)
            for example in template.render_examples(turns, record.tools, record.id)
        )

    return lambda rows: [count(row) for row in rows]
