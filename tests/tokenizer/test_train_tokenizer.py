"""A new vocabulary from text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.errors import UserError
from hanlin.core.records import Document, write_jsonl
from hanlin.models.train_tokenizer import run, train_tokenizer
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.tokenizer import Tokenizer

TEXT = ["春天的院子里开满了花，小鸟在树上唱歌。", "I don't know 12345 birds.\n"] * 3


def test_a_trained_vocabulary_has_as_many_entries_as_asked(tmp_path: Path) -> None:
    assert len(train_tokenizer(TEXT, 300, "llama3", tmp_path)) == 300


def test_fewer_entries_come_out_when_there_is_no_more_to_merge(tmp_path: Path) -> None:
    assert 262 < len(train_tokenizer(["ab ab"], 1000, "llama3", tmp_path)) < 280


def test_too_few_entries_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few") as caught:
        train_tokenizer(TEXT, 100, "llama3", tmp_path)
    assert "262" in (caught.value.hint or "")


def test_the_special_tokens_are_those_of_the_template_and_padding_ends_nothing(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXT, 300, "chatml", tmp_path)
    words = {"<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>", "<|pad|>"}
    assert {tokenizer.backend.id_to_token(number) for number in tokenizer.special_ids} == words
    assert tokenizer.pad_id not in ChatTemplate.load(tmp_path).stop_ids


def test_text_is_split_as_llama3_splits_it(llama3: Path, tmp_path: Path) -> None:
    ours = train_tokenizer(TEXT, 300, "llama3", tmp_path).backend.pre_tokenizer
    theirs = Tokenizer.load(llama3).backend.pre_tokenizer
    text = "I'LL don't 12345 再见！2024年  \n\n x\t.;!\r\n"
    assert ours is not None and theirs is not None
    assert ours.pre_tokenize_str(text) == theirs.pre_tokenize_str(text)


def test_training_depends_on_nothing_but_its_arguments(tmp_path: Path) -> None:
    shuffled = list(TEXT)
    random.Random(0).shuffle(shuffled)
    train_tokenizer(TEXT, 320, "llama3", tmp_path / "a")
    train_tokenizer(iter(shuffled), 320, "llama3", tmp_path / "b")
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_characters_per_token_counts_all_texts_together(tokenizer: Tokenizer) -> None:
    texts = ["你好", "Hello world, hello birds"]
    tokens = sum(len(tokenizer.encode(text)) for text in texts)
    assert characters_per_token(tokenizer, texts) == pytest.approx(26 / tokens)
    assert characters_per_token(tokenizer, []) == 0


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    for place, text in enumerate(TEXT):
        write_jsonl(folder / f"documents-{place:05d}.jsonl", [Document(text, id=str(place))])
    write_jsonl(folder / "validation.jsonl", [Document("小鸟唱歌", id="h")])
    (folder / "dropped.jsonl").write_text('{"id": "x", "reason": "short"}\n', encoding="utf-8")
    return folder


def test_the_stage_learns_from_documents_and_measures_on_those_held_out(documents: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    metrics = run(TrainTokenizer(text=("web",), entries=300), Inputs({"text": (documents,)}), out, StageContext())
    assert metrics["documents"] == len(TEXT)
    assert metrics["entries"] == len(Tokenizer.load(out)) == 300
    assert metrics["measured_on"] == "validation"
    assert metrics["characters_per_token"] == characters_per_token(Tokenizer.load(out), ["小鸟唱歌"])
    json.dumps(metrics)


def test_documents_are_read_in_order_and_those_held_out_apart(documents: Path) -> None:
    assert list(read_texts([documents])) == TEXT
    assert list(read_texts([documents], validation=True)) == ["小鸟唱歌"]


def test_plain_files_and_folders_are_text_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeff一\n二\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "三"}\n\n', encoding="utf-8")
    (tmp_path / "c.png").write_bytes(b"\x89")
    assert list(read_texts([tmp_path])) == ["一\n", "二\n", "三"]
    assert list(read_texts([tmp_path / "b.jsonl"])) == ["三"]


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"{\n", b'{"txt": 1}\n', b'{"text": 1}\n', b"[1]\n"])
def test_a_broken_line_is_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "a"}\n' + line)
    with pytest.raises(UserError, match=r"rows\.jsonl:2"):
        list(read_texts([tmp_path]))


def test_no_text_at_all_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        run(TrainTokenizer(text=("web",)), Inputs({"text": (tmp_path,)}), tmp_path / "out", StageContext())
