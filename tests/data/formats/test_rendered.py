"""Conversations that a chat template has rendered are read into their turns, or named for what they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.rendered import find_rendering
from hanlin.data.formats.preferences import ParsedPreference, read_pairs
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.ledger import Drop
from stage_runs import Made

Put = Callable[[str, Any], Path]
SYSTEM, ASK, TELL = "你说话很短。", "天为什么蓝？\n一句话。", "因为空气散射蓝光。"
MORE, LAST = "那傍晚呢？", "红光走得更远。"
ASKED = (Message("user", ASK), Message("assistant", TELL))
TWICE = (*ASKED, Message("user", MORE), Message("assistant", LAST))
WITH_SYSTEM = (Message("system", SYSTEM), *TWICE)
DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
INTRO = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


def join(turns: tuple[Message, ...], opening: str, closing: str, **names: str) -> str:
    return "".join(
        opening.format(role=names.get(turn.role, turn.role)) + turn.text + closing for turn in turns
    )  # fmt: skip


TEXTS: dict[str, tuple[str, tuple[Message, ...]]] = {
    "ChatML": (join(WITH_SYSTEM, "<|im_start|>{role}\n", "<|im_end|>\n"), WITH_SYSTEM),
    "ChatML with a prompt at the end": (
        join(TWICE, "<|im_start|>{role}\n", "<|im_end|>\n") + "<|im_start|>assistant\n",
        TWICE,
    ),
    "Llama 3": (
        "<|begin_of_text|>" + join(WITH_SYSTEM, "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
        WITH_SYSTEM,
    ),
    "Llama 3.1 without a system text": (
        f"<|start_header_id|>system<|end_header_id|>\n\n{DATES}<|eot_id|>"
        + join(TWICE, "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
        TWICE,
    ),
    "Llama 3.1 with a system text": (
        f"<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{DATES}{SYSTEM}<|eot_id|>"
        + join(TWICE, "<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>"),
        WITH_SYSTEM,
    ),
    "Llama 2": (
        f"<s>[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n\n{ASK} [/INST] {TELL} </s><s>[INST] {MORE} [/INST] {LAST} </s>",
        WITH_SYSTEM,
    ),
    "Mistral": (f"<s>[INST] {ASK} [/INST]{TELL}</s>[INST] {MORE} [/INST]{LAST}</s>", TWICE),
    "Guanaco": (f"### Human: {ASK}### Assistant: {TELL}### Human: {MORE}### Assistant: {LAST}", TWICE),
    "Alpaca": (f"{INTRO}### Instruction:\n{ASK}\n\n### Response:\n{TELL}</s>", ASKED),
    "Alpaca with an input": (
        INTRO.replace("a task.", "a task, paired with an input that provides further context.")
        + f"### Instruction:\n天为什么蓝？\n\n### Input:\n一句话。\n\n### Response:\n{TELL}",
        ASKED,
    ),
    "Alpaca without its introduction": (f"### Instruction:\n{ASK}\n\n### Response:\n{TELL}", ASKED),
    "Gemma": (join(TWICE, "<start_of_turn>{role}\n", "<end_of_turn>\n", assistant="model"), TWICE),
    "Zephyr": (join(WITH_SYSTEM, "<|{role}|>\n", "</s>\n"), WITH_SYSTEM),
    "DeepSeek": (
        f"<｜begin▁of▁sentence｜>{SYSTEM}<｜User｜>{ASK}<｜Assistant｜>{TELL}<｜end▁of▁sentence｜>"
        f"<｜User｜>{MORE}<｜Assistant｜>{LAST}<｜end▁of▁sentence｜>",
        WITH_SYSTEM,
    ),
    "Vicuna": (
        f"A chat between a curious user and an assistant. USER: {ASK} ASSISTANT: {TELL}</s>"
        f"USER: {MORE} ASSISTANT: {LAST}</s>",
        (Message("system", "A chat between a curious user and an assistant."), *TWICE),
    ),
    "TeleChat": (f"<_user>{ASK}<_bot>{TELL}<_end><_user>{MORE}<_bot>{LAST}<_end>", TWICE),
    "MiniCPM": (f"<用户>{ASK}<AI>{TELL}</s><用户>{MORE}<AI>{LAST}", TWICE),
    "Baichuan": (f"<reserved_106>{ASK}<reserved_107>{TELL}</s><reserved_106>{MORE}<reserved_107>{LAST}</s>", TWICE),
    "InternLM": (join(TWICE, "<|{role}|>:", "<eoh>\n", user="User", assistant="Bot"), TWICE),
    "InternLM2": (join(WITH_SYSTEM, "[UNUSED_TOKEN_146]{role}\n", "[UNUSED_TOKEN_145]\n"), WITH_SYSTEM),
    "Command R": (
        join(
            TWICE, "<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>", "<|END_OF_TURN_TOKEN|>", user="USER", assistant="CHATBOT"
        ),
        TWICE,
    ),
    "BlueLM": (f"[|Human|]:{ASK}[|AI|]:{TELL}</s>[|Human|]:{MORE}[|AI|]:{LAST}</s>", TWICE),
    "Skywork": (f"[USER]{ASK}[SEP][BOT]{TELL}[SEP][USER]{MORE}[SEP][BOT]{LAST}[SEP]", TWICE),
    "Llama 4": (join(WITH_SYSTEM, "<|header_start|>{role}<|header_end|>\n\n", "<|eot|>"), WITH_SYSTEM),
    "Kimi": (join(TWICE, "<|im_{role}|>{role}<|im_middle|>", "<|im_end|>"), TWICE),
    "Seed": (join(TWICE, "<seed:bos>{role}\n", "<seed:eos>"), TWICE),
    "GLM-4": ("[gMASK]<sop>" + join(TWICE, "<|{role}|>\n", ""), TWICE),
}


def read_row(row: Any) -> tuple[str, ParsedChat | Drop]:
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row))
    (item,) = chosen.read(row)
    return chosen.name, item


@pytest.mark.parametrize("field", ["text", "conversation"])
@pytest.mark.parametrize("name", TEXTS)
def test_a_rendered_conversation_is_read_into_its_turns(name: str, field: str) -> None:
    text, messages = TEXTS[name]
    found, item = read_row({field: text, "id": 1})
    assert found == "tagged_text"
    assert isinstance(item, ParsedChat), item
    assert item.messages == messages
    assert not item.unread


@pytest.mark.parametrize("is_closed", [True, False])
@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Llama 2", "Gemma", "TeleChat", "Skywork", "Kimi"])
def test_a_rendered_prompt_beside_its_answer_is_read_into_its_turns(name: str, is_closed: bool) -> None:
    """The mark that closes the answer is the template's too."""
    text, messages = TEXTS[name]
    prompt, answer = text[: text.index(LAST)], text[text.index(LAST) :].rstrip()
    _, item = read_row({"prompt": prompt, "completion": answer if is_closed else LAST})
    assert isinstance(item, ParsedChat) and item.messages == messages


@pytest.mark.parametrize("name", ["ChatML", "Llama 3", "Mistral", "TeleChat"])
def test_a_rendered_prompt_of_a_pair_is_read_into_its_turns(name: str) -> None:
    text, messages = TEXTS[name]
    prompt, answer = text[: text.index(LAST)], text[text.index(LAST) :].rstrip()
    for row in (
        {"prompt": prompt, "chosen": answer, "rejected": answer.replace(LAST, "不知道。")},
        {"chosen": text, "rejected": text.replace(LAST, "不知道。")},
    ):
        (pair,) = read_pairs(row)
        assert isinstance(pair, ParsedPreference) and (*pair.prompt, pair.chosen) == messages
        assert pair.rejected.text == "不知道。"


def test_headings_of_a_template_around_question_and_answer_go() -> None:
    twice = "\n\n### Response:\n\n\n### Response:\n" + TELL
    _, item = read_row({"instruction": f"\n\n### Instruction:\n{ASK}", "input": None, "output": twice})
    assert isinstance(item, ParsedChat) and item.messages == ASKED
    _, item = read_row({"context": "Instruction: 天为什么蓝？\nInput: 一句话。\nAnswer: ", "target": TELL})
    assert isinstance(item, ParsedChat) and item.messages == ASKED


def test_reasoning_and_calls_inside_a_rendered_conversation_are_read() -> None:
    turns = (
        Message("user", "三加四？"),
        Message(
            "assistant", '<think>\n加。\n</think>\n\n<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
        ),
        Message("tool", "7"),
        Message("assistant", "等于七。"),
    )
    _, item = read_row({"text": join(turns, "<|im_start|>{role}\n", "<|im_end|>\n")})
    assert isinstance(item, ParsedChat), item
    assert item.messages[1].reasoning == "加。" and item.messages[1].tool_calls[0].name == "add"
    assert [turn.role for turn in item.messages] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<|im_start|>user\n甲<|im_end|>\n乙<|im_start|>assistant\n丙<|im_end|>", "unparsed_tags"),
        ("<|im_start|>narrator\n甲<|im_end|>\n<|im_start|>assistant\n丙<|im_end|>", "unknown_role"),
        ("[INST] 甲 [/INST] 乙 [/INST] 丙", "unparsed_tags"),
        ("### Instruction:\n甲\n\n### Response:\n乙\n\n### Input:\n丙", "unparsed_tags"),
    ],
)
def test_a_text_that_is_not_all_turns_is_dropped_by_name(text: str, reason: str) -> None:
    _, item = read_row({"text": text})
    assert isinstance(item, Drop) and item.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "### 安装\n先装好编译器。",
        "### Instructions for use\nRead them first.",
        "<div>[INST] 不是开头</div>",
        "[INST] 没有结尾的标记",
        "Below is an instruction that describes a task: sort the list.",
        "在 ChatML 里，每一轮以 <|im_start|>user 开头。",
    ],
)
def test_ordinary_text_is_not_taken_for_a_rendered_conversation(text: str) -> None:
    assert find_rendering(text) == ""


def test_a_question_with_headings_stays_a_question() -> None:
    row = {"prompt": "### Instruction: 把下面的话翻译成英文\n### Response: 你好", "response": "Hello"}
    _, item = read_row(row)
    assert isinstance(item, ParsedChat) and item.messages[0].text == row["prompt"]


def test_a_rendered_text_in_a_field_of_another_name_is_named_with_the_way_out(
    put: Put, run: Callable[..., Made]
) -> None:
    path = put("a.jsonl", [{"sample_text": TEXTS["ChatML"][0], "lang": "zh"}])
    with pytest.raises(UserError, match="chat template ChatML has rendered") as refusal:
        run(Conversations, path)
    assert "{text: sample_text}" in str(refusal.value.hint)


def test_a_corpus_reads_such_texts_as_documents(put: Put, run: Callable[..., Made]) -> None:
    made = run(Corpus, put("a.jsonl", [{"text": TEXTS["ChatML with a prompt at the end"][0]}]), rules=())
    assert made.kept[0]["text"].startswith("<|im_start|>user")


@pytest.mark.parametrize("weight", [0, 0.0, "0"])
def test_a_row_of_weight_zero_is_read_and_not_learned(weight: Any) -> None:
    _, item = read_row({"prompt": ASK, "response": TELL, "weight": weight})
    assert isinstance(item, ParsedChat) and [turn.train for turn in item.messages] == [None, False]


@pytest.mark.parametrize("weight", [1, 0.5, 12, None])
def test_another_weight_of_a_row_is_a_figure(weight: Any) -> None:
    _, item = read_row({"prompt": ASK, "response": TELL, "weight": weight})
    assert isinstance(item, ParsedChat) and [turn.train for turn in item.messages] == [None, None]
    assert item.meta.get("weight") == weight


# --- segments with a flag each ----------------------------------------------------------------------------------------


def segments(*parts: tuple[bool, str]) -> dict[str, Any]:
    return {"segments": [{"label": label, "text": text} for label, text in parts]}


def learned(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    return tuple(replace(turn, train=True) if turn.role == "assistant" else turn for turn in turns)


def read_segments(row: dict[str, Any]) -> ParsedChat:
    (chat,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    assert isinstance(chat, ParsedChat), chat
    return chat


@pytest.mark.parametrize(
    "parts",
    [
        ((False, f"<s>{ASK}\n"), (True, f"{TELL}</s>")),
        ((False, f"用户：{ASK}\n助手："), (True, TELL)),
        ((False, f"<s>[INST] {ASK} [/INST]"), (True, f" {TELL}</s>")),
        (
            (False, f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"),
            (True, f"{TELL[:4]}"),
            (True, f"{TELL[4:]}<|im_end|>\n"),
        ),
        ((False, f"### Instruction:\n{ASK}\n\n### Response:\n"), (True, TELL)),
    ],
)
def test_segments_of_a_text_are_turns_and_what_they_flag_is_learned(parts: tuple[tuple[bool, str], ...]) -> None:
    assert read_segments(segments(*parts)).messages == learned(ASKED)


def test_an_answer_in_segments_without_the_flag_is_read_and_not_learned() -> None:
    first = f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n{TELL}<|im_end|>\n"
    second = f"<|im_start|>user\n{MORE}<|im_end|>\n<|im_start|>assistant\n"
    chat = read_segments(segments((False, first), (False, second), (True, f"{LAST}<|im_end|>")))
    assert [turn.train for turn in chat.messages] == [None, False, None, True] and chat.unread == ()


def test_segments_that_flag_a_question_are_named_and_half_an_answer_is_dropped() -> None:
    asked = f"<|im_start|>user\n{ASK}<|im_end|>\n<|im_start|>assistant\n"
    assert read_segments(segments((True, asked), (True, f"{TELL}<|im_end|>"))).unread == ("segments.label",)
    row = segments((False, asked + TELL[:3]), (True, f"{TELL[3:]}<|im_end|>"))
    (item,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    assert isinstance(item, Drop) and item.reason == "loss_weight"


def test_segments_that_are_all_learned_have_no_question() -> None:
    row = segments((True, f"<s>{TELL}"), (True, f"{LAST}</s>"))
    (item,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    assert item == Drop("no_question")


def test_segments_with_the_marks_of_an_unknown_template_are_dropped_by_name() -> None:
    row = segments((False, f"<|question|>{ASK}<|reply|>"), (True, TELL))
    (item,) = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row)).read(row)
    assert item == Drop("unparsed_tags", "<|question|>")
