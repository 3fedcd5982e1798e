"""What transformers makes of the same conversation, from the real tokenizers and from the folders that we save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hanlin.chat.packaged import packaged_names
from hanlin.chat.template import ChatTemplate
from hanlin.chat.template_data import to_template_messages, to_template_tools
from hanlin.core.records import Message, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.tokenizer import Tokenizer

OWN_CHATS = [
    [Message("user", "你好"), Message("assistant", "你好！")],
    [
        Message("system", "  You are brief.\n"),
        Message("user", " 三加四？\n"),
        Message("assistant", "\n7\n\n"),
        Message("user", "(why)?"),
        Message("assistant", "(because) 3 + 4 = 7\n```python\n  x = 1\n```"),
    ],
    [
        Message("user", "a"),
        Message("assistant", "\ttabs and  spaces"),
        Message("user", "😀"),
        Message("assistant", "龘"),
    ],
]
TOOLS = [{"name": "time_of", "description": "城市的时间", "parameters": {"type": "object", "properties": {}}}]
TOOL_CHAT = [
    Message("system", "用工具。"),
    Message("user", "北京几点？"),
    Message("assistant", "", tool_calls=(ToolCall("time_of", {"city": "北京", "n": 1}),)),
    Message("tool", "八点", name="time_of"),
    Message("assistant", "八点。"),
]


@pytest.fixture(scope="session")
def chats(shared_data: Path) -> list[list[Message]]:
    """Real conversations in Chinese and English beside our own."""
    found = list(OWN_CHATS)
    roles: dict[str, Any] = {"human": "user", "gpt": "assistant"}
    with (shared_data / "sft" / "sharegpt_zh_1K.dev.jsonl").open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(12), strict=False):
            found.append([Message(roles[turn["from"]], turn["value"]) for turn in json.loads(line)["conversations"]])
    rows = json.loads((shared_data / "sft" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    found += [[Message("user", row["instruction"]), Message("assistant", row["output"])] for row in rows[:15]]
    return found


def check(folder: Path, template: ChatTemplate, chats: list[list[Message]], mask: bool = True) -> None:
    theirs: Any = AutoTokenizer.from_pretrained(folder)
    theirs.model_max_length = 10**9  # else it warns of long conversations
    for messages in chats:
        data = to_template_messages(messages)
        ours = template.render(messages)
        whole = theirs.apply_chat_template(data, return_dict=True, return_assistant_tokens_mask=mask)
        assert whole["input_ids"] == ours.ids
        if mask:
            assert whole["assistant_masks"] == [int(loss_mask) for loss_mask in ours.loss_mask]
        prompt = theirs.apply_chat_template(data[:-1], return_dict=True, add_generation_prompt=True)
        assert prompt["input_ids"] == template.render(messages[:-1], prompt=True).ids


@pytest.mark.parametrize("name", sorted({*packaged_names()} - {"deepseek_r1", "qwen3"}))
def test_a_saved_folder_gives_the_same_ids_and_mask_in_transformers(name: str, tmp_path: Path) -> None:
    texts = [message.text for chat in OWN_CHATS for message in chat] * 3
    tokenizer = train_tokenizer(texts, vocab_size=340, template=name, out=tmp_path)
    check(tmp_path, ChatTemplate.load(tmp_path, tokenizer), OWN_CHATS)


@pytest.mark.parametrize("name", ["llama2", "alpaca2", "atom", "plain"])
def test_a_saved_sentencepiece_folder_gives_the_same_ids_and_mask_in_transformers(
    name: str, tiny_sentencepiece: Path, tmp_path: Path
) -> None:
    template = ChatTemplate.from_packaged(name, Tokenizer.load(tiny_sentencepiece))
    template.save(tmp_path)
    check(tmp_path, template, OWN_CHATS)


def test_llama3s_own_template_gives_the_same_ids(llama3: Path, chats: list[list[Message]]) -> None:
    check(llama3, ChatTemplate.load(llama3), chats, mask=False)


def test_our_llama3_equals_llama3s_own_and_is_saved_with_its_mask(
    llama3: Path, chats: list[list[Message]], tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(llama3)
    ours, own = ChatTemplate.from_packaged("llama3", tokenizer), ChatTemplate.load(llama3, tokenizer)
    for messages in chats:
        assert ours.render(messages) == own.render(messages)
    assert ours.stop_ids == own.stop_ids == (128001, 128009)
    ours.save(tmp_path)
    check(tmp_path, ours, chats)


def test_llama31_saved_gives_the_same_ids_and_mask_with_tools_and_without(
    llama3: Path, chats: list[list[Message]], tmp_path: Path
) -> None:
    template = ChatTemplate.from_packaged("llama3.1", Tokenizer.load(llama3))
    template.save(tmp_path)
    check(tmp_path, template, chats)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    ours = template.render(TOOL_CHAT, TOOLS)
    data, tools = to_template_messages(TOOL_CHAT), to_template_tools(TOOLS)
    whole = theirs.apply_chat_template(data, tools=tools, return_dict=True, return_assistant_tokens_mask=True)
    assert whole["input_ids"] == ours.ids
    assert whole["assistant_masks"] == [int(loss_mask) for loss_mask in ours.loss_mask]


@pytest.mark.parametrize("name", ["llama2", "alpaca2", "atom"])
def test_llama2_saved_gives_the_same_ids_and_mask(
    name: str, llama2: Path, chats: list[list[Message]], tmp_path: Path
) -> None:
    """Loaded from its original folder transformers 5 would set no space after a special token, as if Llama 2 had not
    been trained with SentencePiece; the saved folder names a class that keeps to `tokenizer.json`.
    """
    template = ChatTemplate.from_packaged(name, Tokenizer.load(llama2))
    template.save(tmp_path)
    check(tmp_path, template, chats)


def test_llama2_sees_each_exchange_as_meta_encoded_it(llama2: Path) -> None:
    """Meta's `generation.py` encodes each `[INST] question [/INST] answer ` by itself, between `<s>` and `</s>`."""
    sentencepiece = pytest.importorskip("sentencepiece")
    meta = sentencepiece.SentencePieceProcessor(model_file=str(llama2 / "tokenizer.model"))
    template = ChatTemplate.from_packaged("llama2", Tokenizer.load(llama2))
    messages = [
        Message("user", "hi 你"),
        Message("assistant", "hello"),
        Message("user", "ok?"),
        Message("assistant", "好"),
    ]
    expected: list[int] = []
    for question, answer in (messages[:2], messages[2:]):
        expected += [1, *meta.encode(f"[INST] {question.text} [/INST] {answer.text} "), 2]
    assert template.render(messages).ids == expected


def test_typed_special_tokens_become_the_ids_that_transformers_sanitises_them_to(llama3: Path) -> None:
    """Transformers encodes a sanitised token apart from its neighbors; between line ends that is no difference."""
    theirs: Any = AutoTokenizer.from_pretrained(llama3)
    template = ChatTemplate.load(llama3)
    messages = [Message("user", "说\n<|eot_id|>\n吧\n<|begin_of_text|>\n完"), Message("assistant", "好")]
    data = to_template_messages(messages)
    whole = theirs.apply_chat_template(data, return_dict=True, sanitize_control_tokens=True)
    ours = template.render(messages).ids
    assert theirs.decode(whole["input_ids"]) == theirs.decode(ours)
    assert [n for n in whole["input_ids"] if n >= 128000] == [n for n in ours if n >= 128000]
