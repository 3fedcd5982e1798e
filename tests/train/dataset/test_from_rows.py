"""From rows as files hold them to the ids that carry loss: what is learned, read or refused, over real tokenizers."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.data import Conversations
from hanlin.core.progress import Progress
from hanlin.core.records import Conversation, read_jsonl
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.encoded import EncodedRecords, encode_records
from stage_runs import run_stage

CALLS = ['{"name": "hours", "arguments": {"place": "甲馆"}}', '{"name": "hours", "arguments": {"place": "乙馆"}}']
TOOLS = json.dumps([{"name": "hours", "description": "开放时间", "parameters": {"type": "object", "properties": {}}}])
CALLED = {
    "conversations": [
        {"from": "human", "value": "两个馆几点关门？"},
        {"from": "function_call", "value": CALLS[0]},
        {"from": "function_call", "value": CALLS[1]},
        {"from": "observation", "value": "21"},
        {"from": "observation", "value": "17"},
        {"from": "gpt", "value": "九点和五点。"},
    ],
    "tools": TOOLS,
}
PLAIN = {"messages": [{"role": "user", "content": "几点？"}, {"role": "assistant", "content": "八点。"}]}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    text = [json.dumps([CALLED, PLAIN], ensure_ascii=False)] * 4
    return {
        name: train_tokenizer(text, 420, name, tmp_path_factory.mktemp(name) / "tokenizer")
        for name in ("llama3", "llama3.1")
    }


def encode(rows: list[dict[str, Any]], tokenizer: Tokenizer, name: str, folder: Path) -> EncodedRecords:
    """Read rows with the stage of conversations, and encode what it keeps as training does."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    made = run_stage(Conversations, [file], folder / "made", validation_fraction=0, dedup="none")
    records = list(read_jsonl(made.out / "conversations.jsonl", Conversation))
    encoder = ChatEncoder(ChatTemplate.from_packaged(name, tokenizer), 2048, "truncate_turns", on_refused="drop")
    quiet = Progress(quiet=True)
    return encode_records(
        records, encoder.conversations, width=1, folder=folder / "encoded", progress=quiet, total=len(records)
    )


def learned(encoded: EncodedRecords, tokenizer: Tokenizer) -> list[str]:
    """The texts of the ids in a row that carry loss, without the token that ends each."""
    ids, mask = encoded.ids.tolist(), encoded.loss_mask.tolist()
    runs = groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1]))
    return [tokenizer.decode([token for token, _ in run][:-1]) for is_learned, run in runs if is_learned]


@pytest.mark.parametrize(
    "answer",
    [
        {"content": "八点。", "reasoning_content": "查一查。"},
        {"content": "<think>\n查一查。\n</think>\n\n八点。"},
        {"content": [{"type": "reasoning", "value": "查一查。"}, {"type": "text", "value": "八点。"}]},
    ],
)
def test_thinking_is_learned_before_the_answer_however_a_row_writes_it(
    tokenizers: dict[str, Tokenizer], tmp_path: Path, answer: dict[str, Any]
) -> None:
    row = {"messages": [{"role": "user", "content": "几点？"}, {"role": "assistant", **answer}]}
    encoded = encode([row], tokenizers["llama3.1"], "llama3.1", tmp_path)
    assert learned(encoded, tokenizers["llama3.1"]) == ["<think>\n查一查。\n</think>\n\n八点。"]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [PLAIN["messages"][0], {"role": "assistant", "content": "甲", "weight": 0}, *PLAIN["messages"]]},
        {
            "conversation": [
                {"system": "你是馆员。", "input": "开吗？", "output": "甲", "output_with_loss": False},
                {"input": "几点？", "output": "八点。", "output_with_loss": True},
            ]
        },
        {"messages": [PLAIN["messages"][0], {"role": "assistant", "content": "甲", "score": 1}, *PLAIN["messages"]]},
    ],
)
def test_an_answer_that_the_data_masks_is_read_and_not_learned(
    tokenizers: dict[str, Tokenizer], tmp_path: Path, row: dict[str, Any]
) -> None:
    encoded = encode([row], tokenizers["llama3"], "llama3", tmp_path)
    texts = learned(encoded, tokenizers["llama3"])
    assert texts == (["甲", "八点。"] if "score" in str(row) else ["八点。"])  # a rating masks nothing unasked
    assert "甲" in tokenizers["llama3"].decode(encoded.ids.tolist())


def test_calls_made_at_once_are_one_turn_that_is_learned_whole(
    tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    encoded = encode([CALLED], tokenizers["llama3.1"], "llama3.1", tmp_path)
    calls, answer = learned(encoded, tokenizers["llama3.1"])
    assert [json.loads(call)["parameters"]["place"] for call in calls.split("; ")] == ["甲馆", "乙馆"]
    assert answer == "九点和五点。"


def test_one_row_that_the_template_refuses_costs_the_others_nothing(
    tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    encoded = encode([PLAIN, CALLED, PLAIN], tokenizers["llama3"], "llama3", tmp_path)
    assert encoded.refused == {"template_lacks_tools": 1}
    assert learned(encoded, tokenizers["llama3"]) == ["八点。", "八点。"]


def test_a_thinking_mark_that_the_tokenizer_has_is_one_id_in_an_answer(
    tokenizers: dict[str, Tokenizer], tmp_path: Path
) -> None:
    tokenizers["llama3.1"].save(tmp_path / "marked")
    file = tmp_path / "marked" / "tokenizer.json"
    vocabulary = json.loads(file.read_text(encoding="utf-8"))
    first = max(token["id"] for token in vocabulary["added_tokens"]) + 1
    for token_id, mark in enumerate(("<think>", "</think>"), first):
        kind = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        vocabulary["added_tokens"].append({"id": token_id, "content": mark, **kind, "special": True})
    file.write_text(json.dumps(vocabulary), encoding="utf-8")
    row = {"messages": [PLAIN["messages"][0], {"role": "assistant", "content": "<think>查</think>八点。"}]}
    encoded = encode([row], Tokenizer.load(tmp_path / "marked"), "llama3.1", tmp_path)
    learned_ids = encoded.ids[encoded.loss_mask.astype(bool)].tolist()
    assert learned_ids[0] == first and learned_ids.count(first + 1) == 1
