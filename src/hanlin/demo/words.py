"""The topics about words and things: antonyms and colors."""

from __future__ import annotations

from hanlin.demo.facts import Relation, Row, Wording

ANTONYMS = """
大 big 小 small; 高 high 低 low; 长 long 短 short; 快 fast 慢 slow; 热 hot 冷 cold; 新 new 旧 old; 多 many 少 few
远 far 近 near; 买 buy 卖 sell; 开始 begin 结束 end
"""

COLORS = """
白色 white: 雪 snow, 牛奶 milk
绿色 green: 草 grass, 青蛙 the frog
蓝色 blue: 天空 the sky, 大海 the sea
黑色 black: 煤 coal, 乌鸦 the crow
黄色 yellow: 香蕉 the banana, 柠檬 the lemon
"""


def _make_opposite_rows() -> tuple[Row, ...]:
    rows = []
    for pair in ANTONYMS.replace("\n", ";").split(";"):
        if pair.strip():
            word, word_en, opposite, opposite_en = pair.split()
            rows.append(Row({"x": word, "y": opposite}, {"x": word_en, "y": opposite_en}, word))
            rows.append(Row({"x": opposite, "y": word}, {"x": opposite_en, "y": word_en}, opposite))
    return tuple(rows)


def _make_group_rows(table: str) -> tuple[Row, ...]:
    """Make the rows of a table whose lines read `group group_en: thing thing_en, thing thing_en`."""
    rows = []
    for line in table.strip().splitlines():
        group, things = line.split(": ")
        group_zh, group_en = group.split()
        for thing in things.split(", "):
            thing_zh, thing_en = thing.split(" ", 1)
            rows.append(Row({"x": thing_zh, "y": group_zh}, {"x": thing_en, "y": group_en}, thing_zh))
    return tuple(rows)


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "antonyms",
        "antonyms",
        Wording(
            (
                "{x}的反义词是什么？",
                "{x}的反义词是哪个？",
                "和{x}意思相反的词是什么？",
                "与{x}相反的是什么？",
                "{x}的对面是什么词？",
                "哪个词和{x}相反？",
                "{x}反过来是什么？",
                "{x}的相反词怎么说？",
            ),
            "{x}的反义词是{y}。",
            ("{x}的反义词是{y}。", "和{x}意思相反的词是{y}。", "{x}与{y}意思相反。", "不是{x}，就是{y}。"),
        ),
        Wording(
            (
                "What is the opposite of {x}?",
                "Which word is the opposite of {x}?",
                "What is the opposite word of {x}?",
                "What word means the opposite of {x}?",
                "Can you say the opposite of {x}?",
                "The opposite of {x} is which word?",
            ),
            "The opposite of {x} is {y}.",
            ("The opposite of {x} is {y}.", "If it is not {x}, it is {y}."),
        ),
        _make_opposite_rows(),
    ),
    Relation(
        "colours",
        "colours",
        Wording(
            (
                "{x}是什么颜色？",
                "{x}是什么颜色的？",
                "{x}的颜色是什么？",
                "{x}是哪种颜色？",
                "画{x}要用什么颜色？",
                "{x}看上去是什么颜色？",
                "一般来说，{x}是什么颜色的？",
                "{x}有什么颜色？",
            ),
            "{x}是{y}的。",
            ("{x}是{y}的。", "孩子们用{y}画{x}。", "{x}的颜色是{y}。"),
        ),
        Wording(
            (
                "What colour is {x}?",
                "Which colour is {x}?",
                "What is the colour of {x}?",
                "What colour does {x} have?",
                "In which colour do you paint {x}?",
                "What colour do you see in {x}?",
            ),
            "{x} is {y}.",
            ("{x} is {y}.", "The children paint {x} in {y}.", "The colour of {x} is {y}."),
        ),
        _make_group_rows(COLORS),
    ),
)
