"""The first samples that a run trains on, token by token, for people to look at."""

from __future__ import annotations

import json
from pathlib import Path

from hanlin.chat.inspect import ExampleView, view_tokens
from hanlin.core.files import write_text
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.sampler import Sampler

SHOWN_SAMPLES = 3
"""Samples of the first step that are shown."""


def write_first_rows(
    file: Path, dataset: PackedDataset, sampler: Sampler, tokenizer: Tokenizer, max_seq_length: int
) -> None:
    """Write the first samples of the first step, their tokens and which of them are targets.

    Args:
        file: A JSON file, which the run report shows.
        dataset: The samples.
        sampler: Their order.
        tokenizer: Makes the ids readable.
        max_seq_length: Positions of a row.
    """
    encoded = dataset.encoded
    part_names = ("chosen", "rejected") if encoded.width == 2 else ("",)
    rows = []
    for index in sampler.step_indices(0)[:SHOWN_SAMPLES]:
        documents = []
        for segment in dataset.samples[index]:
            first = int(encoded.starts[segment.example]) + segment.start
            last = first + segment.end - segment.start + 1
            record, part = divmod(segment.example, encoded.width)
            (record_id,) = encoded.record_ids([record])
            ids = [int(token_id) for token_id in encoded.ids[first:last]]
            tokens = view_tokens(tokenizer, ids, encoded.loss_mask[first:last])
            documents.append(ExampleView(record_id, part_names[part], tokens).to_json())
        rows.append({"documents": documents})
    write_text(file, json.dumps({"max_seq_length": max_seq_length, "rows": rows}, ensure_ascii=False) + "\n")
