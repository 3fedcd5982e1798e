"""End marks of chat templates, spelled at the end of answers: taken off, unless the answer is about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Preferences, UnpairedPreferences
from hanlin.core.records import Message, Preference, UnpairedPreference, read_jsonl
from hanlin.core.text import find_end_marks
from hanlin.data.filters.responses import end_marks
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
ENDING = re.compile(r"<\|(?:im_end|e(?!nd_header)[a-z_]+)\|>|</s>|<end_of_turn>|<｜end▁of▁sentence｜>")


def strip(answer: str, question: str = "春天有什么花？") -> str:
    _, stripped = end_marks((Message("user", question), Message("assistant", answer)))
    return stripped.text


@pytest.mark.parametrize(
    "mark",
    [
        *("</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>"),
        *("<|end|>", "<eos>", "[EOS]"),
        *("<end_of_turn>", "<｜end▁of▁sentence｜>", "<|end_of_turn|>", "<|eot|>", "<eoa>", "<|END_OF_TURN_TOKEN|>"),
        *("<|im_end|>\n", " </s></s>", "\n<|im_end|>\n<|endoftext|>"),
        *("<|eot_id|><|start_header_id|>", "<|im_end|>\n<|im_start|>assistant", "</s><s>"),
    ],
)  # fmt: skip
def test_a_mark_that_ends_an_answer_is_taken_off(mark: str) -> None:
    assert strip(f"有桃花，也有杏花。{mark}") == "有桃花，也有杏花。"
    assert strip(f"Peaches and plums{mark}", "What blooms?") == "Peaches and plums"
    assert strip(f"是{mark}") == "是"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("ChatML 怎样结束一轮？", "每一轮的末尾写 `<|im_end|>`"),
        ("怎么写？", "示例：\n```\n<|im_start|>user\n你好<|im_end|>\n```"),
        ("怎么写？", "示例：\n```\n你好<|im_end|>"),
        ("Llama 2 的结束符是什么？", "</s>"),
        ("Llama 2 用什么结束？", "每一轮的最后是 </s>"),
        ("Llama 3 每轮以什么结束？", "每轮以特殊词元结束，即 <|eot_id|>"),
        ("模板怎么写？", "开头是角色，结尾叫做 <|im_end|>"),
        ("What ends a turn?", "Every turn of Llama 3 ends with <|eot_id|>"),
        ("Which special token ends a turn?", "<|eot_id|>"),
        ("Which HTML tag closes it?", "</s>"),
        ("怎么加删除线？", "写成 <s>旧价格</s>"),
        ("Repeat: good day<|im_end|>now", "good day<|im_end|>"),
        ("你好", "<|im_end|> 之后的文字，模型不会再看。"),
    ],
)
def test_a_mark_that_an_answer_is_about_stays(question: str, answer: str) -> None:
    assert strip(answer, question) == answer


def test_a_question_loses_its_mark_with_its_answer_and_never_alone() -> None:
    chat = (Message("user", "你好</s>"), Message("assistant", "你好！</s>"), Message("user", "再见</s>"))
    assert [turn.text for turn in end_marks((*chat, Message("assistant", "再见！")))] == [
        "你好",
        "你好！",
        "再见",
        "再见！",
    ]
    asked = (Message("user", "请解释 </s>"), Message("assistant", "这是句子结束的意思。"))
    assert end_marks(asked) is asked


def test_an_answer_that_is_nothing_but_a_mark_is_empty() -> None:
    assert strip("<|im_end|>") == ""


def test_the_marks_of_every_packaged_template_are_known() -> None:
    templates = [file for file in resources.files("hanlin.chat").joinpath("templates").iterdir() if file.is_file()]
    words = {word for file in templates for word in ENDING.findall(file.read_text(encoding="utf-8"))}
    assert {"<|eot_id|>", "<|im_end|>"} <= words
    assert {word for word in words if find_end_marks(f"好。{word}") != 2} == set()


def test_the_rule_is_a_default_of_chats_and_pairs_and_can_be_left_out() -> None:
    for settings in (Conversations, Preferences, UnpairedPreferences):
        default = settings(sources=({"path": "a.jsonl"},))
        assert "end_marks" in [rule.name for rule in default.rules]
        without = settings(sources=({"path": "a.jsonl"},), rules=["default", {"end_marks": False}])
        assert "end_marks" not in [rule.name for rule in without.rules]


def test_a_long_text_costs_no_search() -> None:
    assert find_end_marks("<" * 1_000_000 + "]") == -1
    assert find_end_marks("春" * 10 + "<|end|>" * 10) == 10


def test_a_chat_is_counted_as_changed_where_an_answer_lost_a_mark(put: Put, run: Run) -> None:
    rows = [{"prompt": "几点？", "response": "九点。<|im_end|>"}, {"prompt": "哪天？", "response": "周一。"}]
    made = run(Conversations, put("a.jsonl", rows), validation_fraction=0)
    assert made.ledger["changed"] == {"end_marks": 1}
    assert "im_end" not in (made.out / "conversations.jsonl").read_text(encoding="utf-8")


def test_both_answers_of_a_pair_and_a_labeled_answer_lose_their_marks(put: Put, run: Run) -> None:
    pairs = [{"prompt": "几点？", "chosen": "九点。</s>", "rejected": "不知道。"}]
    made = run(Preferences, put("pairs.jsonl", pairs))
    (pair,) = read_jsonl(made.out / "preferences.jsonl", Preference)
    assert (pair.chosen.text, pair.rejected.text) == ("九点。", "不知道。") and made.ledger["changed"] == {
        "end_marks": 1
    }
    labeled = [{"prompt": "几点？", "response": "九点。<|eot_id|>", "label": True}]
    made = run(UnpairedPreferences, put("labeled.jsonl", labeled))
    (record,) = read_jsonl(made.out / "unpaired_preferences.jsonl", UnpairedPreference)
    assert record.answer.text == "九点。"


def test_pairs_that_differ_in_a_mark_alone_are_identical(put: Put, run: Run) -> None:
    rows = [{"prompt": "几点？", "chosen": "九点。", "rejected": "九点。</s>"}]
    rows.append({"prompt": "哪天？", "chosen": "周一。", "rejected": "周二。"})
    made = run(Preferences, put("pairs.jsonl", rows), max_dropped=1.0)
    assert made.ledger["dropped"] == {"identical_answers": 1}
