"""Prompts whose ids go wrong first when two programs disagree: what stands in them, and in which order they speak."""

from __future__ import annotations

import json
import random
from pathlib import Path

from hanlin.core.records import Message, ToolCall
from hanlin.parity.backends.base import ChatPrompt

TEXTS = (
    "",
    " ",
    "\n\n",
    "  两个空格在前",
    "换行在后 \n",
    "\t制表\t",
    "\r\n回车\r\n",
    "\u00a0\u3000全角空格　\u2003",
    "\u200b零宽\u200d\ufeff",
    "你好，世界！",
    "三加四等于几？(7)",
    "繁體字與简体字，１２３ＡＢＣ。",
    "龘䶮𠮷𪚥㐂𰻞",
    "😀👨‍👩‍👧‍👦🏳️‍🌈👍🏽",
    "مرحبا بالعالم",
    "שלום \u202eabc\u202c",
    "e\u0301 a\u0308 ﬁ Ⅷ ﷺ",
    "สวัสดี नमस्ते 안녕 こんにちは",
    "def f(x):\n    return {'a': [1, 2.50], \"b\": x ** 2}  # 注释\n",
    "```python\n  x = 1\n\n\n  y = 2\n```",
    "[INST] a [/INST] <<SYS>>\nb\n<</SYS>>\n\n",
    "User:\nAssistant:\nHuman: a\nSystem: b\n",
    "{{ 7 * 7 }} {% raw %} {# c #} {% generation %}",
    "<b>&lt;&amp;\"'\\n\\u4e2d</b> ' ' \" \"",
    "1234567890 3.14159 0x1F 1e-9 １２",
    "A" * 300 + "啊" * 300 + " " * 50 + "\n" * 20 + "end",
    "▁a ▁▁b",
    "\ue000\ue001\U000f0000",
)


def real_texts(shared_data: Path) -> list[str]:
    """What people and assistants wrote, in Chinese and English."""
    texts: list[str] = []
    with (shared_data / "sft" / "sharegpt_zh_1K.dev.jsonl").open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(20), strict=False):
            texts += [turn["value"] for turn in json.loads(line)["conversations"][:4]]
    rows = json.loads((shared_data / "sft" / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    return texts + [text for row in rows[:20] for text in (row["instruction"], row["output"])]


def prompts(texts: list[str], conversations: int, seed: int = 7) -> list[ChatPrompt]:
    """Every text alone and as a system text, then conversations with up to four exchanges before the last question,
    about half of them with a system text; some users speak twice before they are answered.
    """
    draw = random.Random(seed)
    found = [ChatPrompt((Message("user", text),)) for text in texts]
    found += [ChatPrompt((Message("system", text), Message("user", "你好"))) for text in texts]
    for _ in range(conversations):
        turns = [Message("system", draw.choice(texts))] if draw.random() < 0.5 else []
        for _ in range(draw.randrange(5)):
            turns += [Message("user", draw.choice(texts)), Message("assistant", draw.choice(texts))]
        turns += [Message("user", draw.choice(texts)) for _ in range(draw.choice((1, 1, 1, 2)))]
        found.append(ChatPrompt(tuple(turns)))
    return found


def tool_prompts(texts: list[str], count: int, seed: int = 8) -> list[ChatPrompt]:
    """Conversations in which tools are offered, called and answer, their ends before and after the result."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        tools = tuple(
            {
                "name": f"tool_{number}",
                "description": draw.choice(texts),
                "parameters": {
                    "type": "object",
                    "properties": {
                        "城市": {"type": "string", "description": draw.choice(texts)},
                        "a": {"enum": [1, "x"]},
                    },
                    "required": ["城市"],
                },
            }
            for number in range(draw.randrange(1, 4))
        )
        turns = [Message("system", draw.choice(texts))] if draw.random() < 0.5 else []
        turns.append(Message("user", draw.choice(texts)))
        for _ in range(draw.randrange(3)):
            values = {
                "城市": draw.choice(texts),
                "n": 1,
                "f": 1.0,
                "big": 10**20,
                "z": [None, True, {"b": 1, "a": -0.5}],
            }
            turns.append(Message("assistant", "", (ToolCall("tool_0", draw.choice((values, {}))),)))
            turns.append(Message("tool", draw.choice(texts), name=draw.choice(("", "tool_0"))))
            if draw.random() < 0.5:
                turns += [Message("assistant", draw.choice(texts)), Message("user", draw.choice(texts))]
        found.append(ChatPrompt(tuple(turns), tools))
    return found
