"""Records on disk, rows of them, and their order: nothing is lost, nothing depends on chance."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.records import Document
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset import encoded as encoded_module
from hanlin.train.dataset.encode import ChatEncoder, encode_documents
from hanlin.train.dataset.encoded import EncodedRecord, EncodedRecords, encode_records
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.dataset.sampler import Sampler
from training_data import CPU, conversation, document, many, preference


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer)


def learned(rows: PackedDataset) -> list[int]:
    """Every token that is asked for when all rows are seen once, in the order of the documents."""
    found = []
    for segment in sorted(segment for unit in rows.samples for segment in unit):
        start = int(rows.encoded.starts[segment.example])
        found += rows.encoded.ids[start + segment.start + 1 : start + segment.end + 1].tolist()
    return found


@pytest.mark.parametrize("max_seq_length", [8, 19, 64, 1000])
def test_cut_documents_lose_no_token_and_learn_none_twice(
    max_seq_length: int, encoded: Callable, tokenizer: Tokenizer
) -> None:
    documents = many(document, 12)
    rows = PackedDataset.pack_documents(
        encoded(documents, lambda batch: encode_documents(batch, tokenizer)), max_seq_length
    )
    wanted = [id for row in documents for id in [*tokenizer.encode(row.text), tokenizer.eos_id]]
    assert learned(rows) == wanted
    assert max(rows.sample_lengths) <= max_seq_length


def test_a_document_begins_and_ends_with_its_own_tokens(encoded: Callable, tokenizer: Tokenizer) -> None:
    store = encoded([document(0)], lambda batch: encode_documents(batch, tokenizer))
    assert store.ids[0] == tokenizer.bos_id and store.ids[-1] == tokenizer.eos_id
    assert not store.loss_mask[0] and all(store.loss_mask[1:])


def test_newlines_within_a_document_are_kept(encoded: Callable, tokenizer: Tokenizer) -> None:
    text = "第一行\n\n第二行\n"
    store = encoded([Document(text, "a")], lambda batch: encode_documents(batch, tokenizer))
    assert tokenizer.decode(store.ids.tolist()) == text


def test_a_packed_conversation_is_whole(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(conversation, 9), ChatEncoder(template, 200, "error").conversations)
    rows = PackedDataset.pack_examples(store, 200)
    pieces = sorted(segment for unit in rows.samples for segment in unit)
    assert [piece.example for piece in pieces] == list(range(9))
    assert all(piece.start == 0 and piece.end == store.lengths[piece.example] for piece in pieces)


def test_a_pass_reads_each_token_and_asks_for_the_next(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(conversation, 4), ChatEncoder(template, 200, "error").conversations)
    rows = PackedDataset.pack_examples(store, 200)
    batch = rows.collate(range(len(rows.samples)))
    asked = batch.input_ids[0][batch.target_positions + 1]
    inside = batch.target_positions + 1 < batch.tokens
    last_of_document = batch.position_ids[0][batch.target_positions + 1] == 0
    kept = inside & ~last_of_document
    assert (asked == batch.targets)[kept].all() and kept.sum() > 10
    assert len(batch.targets) == rows.target_tokens == sum(batch.target_counts)


def test_positions_restart_with_every_document(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(conversation, 4), ChatEncoder(template, 400, "error").conversations)
    batch = PackedDataset.pack_examples(store, 400).collate([0])
    begins = (batch.position_ids[0] == 0).sum().item()
    assert begins == len(batch.target_counts) + 1  # and once for the padding


def test_passes_hold_every_unit_once_within_their_size(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(conversation, 20), ChatEncoder(template, 200, "error").conversations)
    rows = PackedDataset.pack_examples(store, 200)
    passes = list(rows.micro_batches(range(len(rows.samples)), 450))
    assert [unit for batch in passes for unit in batch.sample_indices] == list(range(len(rows.samples)))
    assert all(batch.tokens <= 450 for batch in passes)


def test_the_two_answers_of_a_pair_stay_together(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(preference, 5), ChatEncoder(template, 100, "drop").preferences, width=2)
    rows = PackedDataset.from_records(store)
    assert [[piece.example for piece in unit] for unit in rows.samples] == [[2 * i, 2 * i + 1] for i in range(5)]


def test_a_pair_s_prompt_is_read_once_and_answered_twice(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(preference, 5), ChatEncoder(template, 100, "drop").preferences, width=2)
    shared, unshared = PackedDataset.from_records(store), PackedDataset.from_records(store, share_prompt=False)
    prompts = [int(store.loss_mask[start:].argmax()) for start in store.starts[:-1:2]]
    assert [len(positions) for positions in (shared.sample_lengths, unshared.sample_lengths)] == [5, 5]
    assert all(
        saved >= prompt - 1 > 3
        for saved, prompt in zip(unshared.sample_lengths - shared.sample_lengths, prompts, strict=True)
    )
    one, two = (rows.collate(range(5)) for rows in (shared, unshared))
    assert one.targets.tolist() == two.targets.tolist() and one.target_counts == two.target_counts
    for batch in (one, two):  # what is read where something is learned, and at which position of its document
        assert batch.tokens == sum((shared if batch is one else unshared).sample_lengths)
    assert one.input_ids[0][one.target_positions].tolist() == two.input_ids[0][two.target_positions].tolist()
    assert one.position_ids[0][one.target_positions].tolist() == two.position_ids[0][two.target_positions].tolist()


class KilledEncoding:
    """An encoding of documents that is interrupted once, when so many of them were encoded.

    Attributes:
        seen: The ids of the documents that were encoded, before and after.
    """

    def __init__(self, tokenizer: Tokenizer, total: int, after: int, folder: Path) -> None:
        self.documents = many(document, total)
        self.arguments: dict[str, Any] = {"width": 1, "progress": Progress(quiet=True), "total": total}
        self.seen: list[str] = []
        due = [KeyboardInterrupt]

        def encode(batch: Sequence[Document]) -> list[EncodedRecord]:
            if len(self.seen) == after and due:
                raise due.pop()
            self.seen.extend(row.id for row in batch)
            return list(encode_documents(batch, tokenizer))

        self._encode = encode
        with pytest.raises(KeyboardInterrupt):
            self.encode_into(folder)

    def encode_into(self, folder: Path, processes: int = 1) -> EncodedRecords:
        return encode_records(self.documents, self._encode, folder=folder, processes=processes, **self.arguments)


def test_a_killed_encoding_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    monkeypatch.setattr(encoded_module, "SHARD_RECORDS", 4)
    killed = KilledEncoding(tokenizer, 10, 8, tmp_path / "rows")
    store = killed.encode_into(tmp_path / "rows")
    assert killed.seen == [row.id for row in killed.documents]
    whole = killed.encode_into(tmp_path / "again")
    assert store.ids.tolist() == whole.ids.tolist() and store.starts.tolist() == whole.starts.tolist()


def test_what_a_killed_encoding_left_in_shards_of_another_size_is_not_mistaken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    monkeypatch.setattr(encoded_module, "SHARD_RECORDS", 2)
    killed = KilledEncoding(tokenizer, 26, 12, tmp_path / "killed")
    for folder in ("killed", "whole"):
        killed.encode_into(tmp_path / folder, processes=3)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")


@needs_fork
@pytest.mark.parametrize("quickened", [False, True])
def test_any_number_of_processes_writes_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Tokenizer, quickened: bool
) -> None:
    monkeypatch.setattr(encoded_module, "SHARD_RECORDS", 3)
    monkeypatch.setattr(encoded_module, "MIN_RECORDS_FOR_PROCESSES", 6)
    monkeypatch.setattr(encoded_module, "MIN_RECORDS_FOR_WARM_UP", 6 if quickened else 1000)
    documents = [*many(document, 10), Document("", "empty"), *many(document, 3)]
    here = os.getpid()
    found, workers = [], []
    for processes in (1, 2, 3):
        pids = tmp_path / f"pids-{processes}"

        def encode(batch: Sequence[Document], pids: Path = pids) -> list[EncodedRecord]:
            with pids.open("a") as file:
                file.write(f"{os.getpid()}\n")
            return list(encode_documents(batch, tokenizer))

        folder = tmp_path / f"rows-{processes}"
        encode_records(
            documents,
            encode,
            width=1,
            folder=folder,
            progress=Progress(quiet=True),
            total=len(documents),
            warm_up=tokenizer.enable_fast_encoder,
            processes=processes,
        )
        found.append(files_of(folder))
        workers.append(set(pids.read_text().split()))
    assert found[0] == found[1] == found[2]
    assert tokenizer.uses_fast_encoder == quickened
    assert workers[0] == {str(here)} and len(workers[1]) == len(workers[2]) == 5 and str(here) not in workers[1]


@pytest.fixture
def shards_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoded_module, "SHARD_RECORDS", 2)
    monkeypatch.setattr(encoded_module, "MIN_RECORDS_FOR_PROCESSES", 2)


def children() -> set[int]:
    """The processes of this one, ended ones that nobody waited for among them; other tests may have left some."""
    return {child.pid for child in psutil.Process().children()}


@needs_fork
@pytest.mark.usefixtures("shards_of_two")
def test_an_error_in_a_shard_writer_is_raised_here_and_no_writer_is_left(tmp_path: Path, tokenizer: Tokenizer) -> None:
    def encode(batch: Sequence[Document]) -> list[EncodedRecord]:
        if batch[0].id == many(document, 3)[2].id:
            raise UserError("wrong", batch[0].id, "mend it")
        return list(encode_documents(batch, tokenizer))

    arguments: dict[str, Any] = {"width": 1, "folder": tmp_path / "rows", "progress": Progress(quiet=True), "total": 10}
    before = children()
    with pytest.raises(UserError, match="wrong"):
        encode_records(many(document, 10), encode, processes=3, **arguments)
    assert children() <= before
    assert not (tmp_path / "rows" / encoded_module.INDEX_FILE).exists()


@needs_fork
@pytest.mark.usefixtures("shards_of_two")
def test_a_process_that_was_killed_is_made_up_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents, here = many(document, 9), os.getpid()

    def encode(batch: Sequence[Document]) -> list[EncodedRecord]:
        if batch[0].id == documents[2].id and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return list(encode_documents(batch, tokenizer))

    arguments: dict[str, Any] = {"width": 1, "progress": Progress(quiet=True), "total": 9}
    encode_records(documents, encode, processes=2, folder=tmp_path / "killed", **arguments)
    encode_records(documents, encode, processes=1, folder=tmp_path / "whole", **arguments)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


@needs_fork
def test_an_interrupt_ends_the_processes_and_what_they_wrote_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    monkeypatch.setattr(encoded_module, "SHARD_RECORDS", 2)
    monkeypatch.setattr(encoded_module, "MIN_RECORDS_FOR_PROCESSES", 2)
    documents = many(document, 12)

    def interrupted() -> Iterator[Document]:
        yield from documents[:8]
        raise KeyboardInterrupt

    def encode(batch: Sequence[Document]) -> list[EncodedRecord]:
        if batch[0].id == documents[6].id and not again:
            time.sleep(60)
        return list(encode_documents(batch, tokenizer))

    again = False
    folder = tmp_path / "rows"
    arguments: dict[str, Any] = {"width": 1, "progress": Progress(quiet=True), "total": 12, "processes": 2}
    before = children()
    with pytest.raises(KeyboardInterrupt):
        encode_records(interrupted(), encode, folder=folder, **arguments)
    assert children() <= before
    again = True
    encode_records(documents, encode, folder=folder, **arguments)
    encode_records(documents, encode, folder=tmp_path / "whole", **{**arguments, "processes": 1})
    taken, whole = files_of(folder), files_of(tmp_path / "whole")
    assert all(taken[name] == whole[name] for name in whole)


def test_refused_and_kept_records_add_up(encoded: Callable, tokenizer: Tokenizer) -> None:
    documents = [*many(document, 5), Document("", "empty")]
    store = encoded(documents, lambda batch: encode_documents(batch, tokenizer))
    assert len(store) == 5 and store.refused == {"empty": 1}


def test_nothing_to_learn_from_is_an_error_with_reasons(encoded: Callable, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="empty: 1"):
        encoded([Document("", "nothing")], lambda batch: encode_documents(batch, tokenizer))


def test_a_unit_knows_its_records(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(preference, 5), ChatEncoder(template, 100, "drop").preferences, width=2)
    assert PackedDataset.from_records(store).record_ids([3]) == ["pair-3"]


def test_an_epoch_sees_every_unit_once_in_an_order_of_its_own() -> None:
    sampler = Sampler.for_batch_size(num_samples=23, batch_size=4, seed=1)
    epochs = [np.concatenate([sampler.step_indices(step) for step in range(at, at + 6)]).tolist() for at in (0, 6)]
    assert sampler.steps_per_epoch == 6
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert epochs[0] != epochs[1]


def test_the_order_depends_on_the_seed_alone() -> None:
    first, again, other = (Sampler.for_batch_size(50, 5, seed) for seed in (1, 1, 2))
    assert first.step_indices(7).tolist() == again.step_indices(7).tolist() != other.step_indices(7).tolist()


def test_no_step_of_an_epoch_is_a_remnant() -> None:
    sampler = Sampler.for_batch_size(num_samples=101, batch_size=10, seed=0)
    assert {len(sampler.step_indices(step)) for step in range(sampler.steps_per_epoch)} <= {10, 11}


def test_steps_override_epochs() -> None:
    sampler = Sampler.for_batch_size(num_samples=40, batch_size=4, seed=0)
    assert sampler.total_steps(1.5, None) == 15 and sampler.total_steps(1.5, 7) == 7


def test_a_pass_on_a_cpu_is_not_copied(encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(preference, 2), ChatEncoder(template, 100, "drop").preferences, width=2)
    batch = PackedDataset.from_records(store).collate([0])
    assert batch.to(CPU) is batch
    assert {field.name for field in dataclasses.fields(batch)} >= {
        "input_ids",
        "target_positions",
        "targets",
        "documents",
    }
