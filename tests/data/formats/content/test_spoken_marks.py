"""An answer about the marks of reasoning is an answer; one that begins with reasoning has it split off."""

from __future__ import annotations

import pytest

from hanlin.data.formats.content.reasoning import split_reasoning
from hanlin.data.ledger import Drop


@pytest.mark.parametrize(
    "text",
    [
        "<think> 标签里写的是草稿，不给人看。",
        "<think>标签里写草稿，草稿以 </think> 结束。",
        "`<think>` 标记包住草稿。",
        "<think> 和 </think> 之间是草稿。",
        "<think></think> 这一对标签之间是草稿。",
        "<think>...</think> 里的草稿不给人看。",
        "<think>…</think>是一对标签，中间写草稿。",
        "<think> is the tag before a draft; </think> is the one behind it.",
        "<think> tags wrap a draft:\n\n<think>\nfirst this.\n</think>\nthen that",
        "<think> 用来开始草稿，例如：\n```\n<think>先看河。</think>在河上。\n```",
        "<think>是一种特殊的标记，模型写到 </think>\n就开始回答。",
        "<thinking> 标签里写草稿，</thinking> 结束它。",
        "草稿结束的标记是 </think>",
        "写完草稿，模型输出 </think>\n然后才回答。",
        "The draft ends with </think>",
        "<think>是开始，</think>是结束，两者之间写草稿。",
        "<think> opens a draft, </think> closes it.",
    ],
)
def test_an_answer_about_the_marks_is_left_as_it_is(text: str) -> None:
    assert split_reasoning(text) == ("", text)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("<think>先看河。</think>在河上。", "先看河。", "在河上。"),
        ("<think>\n先看河\n</think>\n\n在河上。", "先看河", "\n\n在河上。"),
        ("<think></think>在河上。", "", "在河上。"),
        ("<think>…</think>\n在河上。", "…", "\n在河上。"),
        ("<think>是的，他问桥。</think>在河上。", "是的，他问桥。", "在河上。"),
        ("<think>标签是什么？要解释。</think>它是标记。", "标签是什么？要解释。", "它是标记。"),
        ("<think>问桥</think>中间那条河上。", "问桥", "中间那条河上。"),
        ("<think>and the river</think> is it.", "and the river", " is it."),
        ("<think>他问 <think> 标签。</think>好。", "他问 <think> 标签。", "好。"),
        ("<think>先看河，再写</think>在河上。", "先看河，再写", "在河上。"),
        ("<think>先看河，</think>在河上。", "先看河，", "在河上。"),
        ("<think>要解释。</think><think> 标签里写草稿。", "要解释。", "<think> 标签里写草稿。"),
        ("先看河</think>\n在河上。", "先看河", "\n在河上。"),
    ],
)
def test_reasoning_before_the_answer_is_split_off(text: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(text) == (reasoning, answer)


@pytest.mark.parametrize("text", ["<think>先看河", "<think>\n他问标签", "<think>"])
def test_reasoning_without_an_end_is_no_answer(text: str) -> None:
    found = split_reasoning(text)
    assert isinstance(found, Drop) and found.reason == "unclosed_reasoning"
