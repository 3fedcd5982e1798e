"""What becomes of each conversation: reasoning, masks, rows that a template refuses, and what is told of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.chat.rendering.loss_rules import LossRules
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.records import Conversation, Message, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.train.dataset.describe import describe_encoding
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.encoded import EncodedRecords, encode_records
from hanlin.train.dataset.mask_checks import MaskRules

QUESTION = Message("user", "你好")
ANSWER = Message("assistant", "三")
FIRST, SECOND = Message("assistant", "一", reasoning="想一"), Message("assistant", "二", reasoning="想二")
RECORDS = [
    Conversation(
        (
            QUESTION,
            Message("assistant", "一", reasoning="想一"),
            QUESTION,
            Message("assistant", "二", reasoning="想二"),
        ),
        "two thoughts",
    ),
    Conversation(
        (
            QUESTION,
            Message("assistant", "", (ToolCall("f", {}),)),
            Message("tool", "1", name="f"),
            Message("assistant", "三"),
        ),
        "a call",
    ),
    Conversation((QUESTION, Message("assistant", "说 <think> 吧")), "a tag"),
    Conversation((QUESTION, Message("assistant", "四", reasoning="想四")), "off", meta={"enable_thinking": False}),
    Conversation((QUESTION, Message("assistant", "五", train=False)), "read"),
]


def encode(tmp_path: Path, name: str, **settings: object) -> EncodedRecords:
    tokenizer = train_tokenizer(["你好一二三四五想"] * 4, 340, name, tmp_path / "tokenizer")
    template = ChatTemplate.from_packaged(name, tokenizer)
    encoder = ChatEncoder(template, 512, "truncate_turns", **settings)  # type: ignore[arg-type]
    encoded = encode_records(
        RECORDS,
        encoder.conversations,
        width=1,
        folder=tmp_path / "encoded",
        progress=Progress(quiet=True),
        total=len(RECORDS),
    )
    MaskRules.for_chats(template, encoder.rules.reasoning == "read").check(encoded)
    return encoded


def test_every_record_is_learned_or_dropped_by_name(tmp_path: Path) -> None:
    encoded = encode(tmp_path, "llama3", on_refused="drop")
    assert encoded.refused == {"template_lacks_tools": 1, "nothing_to_learn": 1}
    assert encoded.record_count + sum(encoded.refused.values()) == len(RECORDS)
    assert encoded.record_ids(range(len(encoded))) == ["two thoughts", "two thoughts", "a tag", "off"]
    assert encoded.notes == {"several_examples": 1, "spells_thinking_tags": 1, "reasoning_dropped": 1}
    told = "\n".join(describe_encoding(encoded))
    assert "2 of 5 records are not learned from" in told and "a call: the chat template llama3 has no form" in told


def test_a_refused_row_stops_the_run_if_that_is_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no form for tools") as caught:
        encode(tmp_path, "llama3", on_refused="error")
    assert "on_refused: drop" in (caught.value.hint or "")


@pytest.mark.parametrize("name", ["deepseek_r1", "llama3", "qwen3"])
def test_reasoning_that_is_read_or_dropped_is_not_learned(name: str, tmp_path: Path) -> None:
    read = encode(tmp_path / "read", name, on_refused="drop", rules=LossRules(reasoning="read"))
    learned = encode(tmp_path / "learned", name, on_refused="drop")
    dropped = encode(tmp_path / "dropped", name, on_refused="drop", drop_reasoning=True)
    assert read.ids.tolist() == learned.ids.tolist()
    assert read.loss_mask.sum() < learned.loss_mask.sum()
    assert dropped.notes["reasoning_dropped"] == 2


@pytest.mark.parametrize(("text", "is_told"), [("好</s>", True), ("好<|im_end|>\n", True), ("</s> 是结束符。", False)])
def test_an_end_token_that_an_answer_spells_at_its_end_is_told_before_training(
    text: str, is_told: bool, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(["你好"] * 4, 340, "llama3", tmp_path)
    encoder = ChatEncoder(ChatTemplate.from_packaged("llama3", tokenizer), 512, "truncate_turns")
    record = Conversation((Message("user", "你好"), Message("assistant", text)), "a")
    (encoded,) = encoder.conversations([record])
    assert encoded.notes == (("ends_with_end_token",) if is_told else ())
