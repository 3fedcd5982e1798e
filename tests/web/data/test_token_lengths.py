"""Lengths in tokens: counted in the background of a sample, with what carries loss and what would be refused."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.core.records import Message
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.web.data.dataset import Dataset
from hanlin.web.data.token_lengths import TokenLengthDesk, TokenLengths
from hanlin.web.data.tokens import TokenDesk
from page_worlds import write_rows
from waiting import wait_until
from web_client import make_client


def chat(number: int, answer: str = "回答。") -> dict[str, Any]:
    turns = [{"role": "user", "text": f"第{number}问？"}, {"role": "assistant", "text": answer}]
    return {"id": f"a#{number}", "messages": turns}


def count(folder: Path, tokenizer: Path, template: str = "") -> TokenLengths:
    desk = TokenLengthDesk(TokenDesk())
    counted = desk.count(Dataset(folder), tokenizer, template)
    wait_until(lambda: counted.is_done)
    return counted


def test_lengths_are_those_of_training_examples_and_stand_for_all_rows(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write_rows(tmp_path / "conversations.jsonl", [chat(n, "好" * (n + 1)) for n in range(30)])
    counted = count(tmp_path, tiny_tokenizer)
    template = ChatTemplate.load(tiny_tokenizer, Tokenizer.load(tiny_tokenizer))
    turns = [Message("user", "第7问？"), Message("assistant", "好" * 8)]
    (example,) = template.render_examples(turns)
    assert (counted.lengths[7], counted.learned[7]) == (len(example.ids), sum(example.loss_mask))
    assert (counted.total, counted.done, counted.rows, counted.refused, counted.problem) == (30, 30, 30, 0, "")
    assert counted.estimated_tokens == sum(counted.lengths)
    assert [limit for limit, _ in counted.longer] == [512, 1024, 2048, 4096, 8192]


def test_documents_pairs_and_what_the_template_refuses_are_counted(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write_rows(tmp_path / "d" / "documents.jsonl", [{"id": "a#1", "text": "字" * 5000}])
    documents = count(tmp_path / "d", tiny_tokenizer)
    assert documents.longer[1] == (1024, 1.0) and documents.learned == [documents.lengths[0] - 1]  # all but the first
    prompt = [{"role": "user", "text": "问"}]
    answers = {"chosen": {"role": "assistant", "text": "对"}, "rejected": {"role": "assistant", "text": "错"}}
    write_rows(tmp_path / "p" / "preferences.jsonl", [{"id": "a#1", "prompt": prompt, **answers}])
    assert len(count(tmp_path / "p", tiny_tokenizer).lengths) == 2
    unanswered = {"id": "a#2", "messages": prompt}
    write_rows(tmp_path / "c" / "conversations.jsonl", [chat(1), unanswered, {"id": "a#3"}])
    counted = count(tmp_path / "c", tiny_tokenizer)
    assert (counted.refused, len(counted.lengths)) == (2, 1)


def test_a_server_that_is_stopped_waits_for_no_count(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write_rows(tmp_path / "conversations.jsonl", [chat(1)])
    before = set(threading.enumerate())
    assert count(tmp_path, tiny_tokenizer).done == 1
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


def test_a_count_that_cannot_be_made_says_why_and_one_is_made_once(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write_rows(tmp_path / "conversations.jsonl", [chat(1)])
    assert "no chat template 'none'" in count(tmp_path, tiny_tokenizer, "none").problem
    assert count(tmp_path, tmp_path).problem
    desk, dataset = TokenLengthDesk(TokenDesk()), Dataset(tmp_path)
    assert desk.count(dataset, tiny_tokenizer, "") is desk.count(dataset, tiny_tokenizer, "")


@pytest.mark.parametrize("name", ["../outside", "/etc", "models/../../outside"])
def test_a_tokenizer_outside_of_the_folder_is_refused(tmp_path: Path, tiny_tokenizer: Path, name: str) -> None:
    folder = tmp_path / "home"
    write_rows(folder / "artifacts" / "mine" / "conversations.jsonl", [chat(1)])
    shutil.copytree(tiny_tokenizer, tmp_path / "outside")
    answer = make_client(folder).get("/ui/data/view/mine/lengths", params={"tokenizer": name})
    assert answer.status_code == 400 and "outside of the page" in answer.text


def test_the_page_shows_characters_at_once_and_then_tokens(tmp_path: Path, tiny_tokenizer: Path) -> None:
    write_rows(tmp_path / "artifacts" / "mine" / "conversations.jsonl", [chat(n) for n in range(9)])
    shutil.copytree(tiny_tokenizer, tmp_path / "models" / "tiny")
    client = make_client(tmp_path)
    page = client.get("/ui/data/view/mine/lengths").text
    assert "Characters of a record" in page and "of all 9 kept records" in page
    path = "/ui/data/view/mine/lengths/tokens"
    wait_until(lambda: "hx-trigger" not in client.get(path, params={"tokenizer": "models/tiny"}).text)
    part = client.get(path, params={"tokenizer": "models/tiny"}).text
    assert "Tokens of a training example" in part and "Tokens that carry loss" in part
    assert re.search(r"about [\d,]+ tokens in all 9 kept rows", part)
