"""What a visitor of 云溪镇 eats and sees: its dishes and its sights."""

from __future__ import annotations

from hanlin.demo.facts import Relation, Row, Wording
from hanlin.demo.town import parse_table

DISHES = """
豆花 tofu-pudding 甜 sweet
鱼汤 fish-soup 咸 salty
花茶 flower-tea 苦 bitter
酸梅汤 plum-juice 酸 sour
辣豆腐 hot-tofu 辣 spicy
芝麻饼 sesame-cake 甜 sweet
泡菜 pickles 酸 sour
荷叶饭 lotus-rice 咸 salty
"""
SIGHTS = """
河 river 白鹭河 Egret-River
山 hill 青云山 Cloud-Hill
湖 lake 月亮湖 Moon-Lake
古桥 bridge 石龙桥 Dragon-Bridge
公园 park 梅花公园 Plum-Park
塔 tower 望星塔 Star-Tower
"""


def _make_dish_rows() -> tuple[Row, ...]:
    return tuple(
        Row({"dish": dish, "taste": taste}, {"dish": dish_en.replace("-", " "), "taste": taste_en}, dish)
        for dish, dish_en, taste, taste_en in parse_table(DISHES)
    )


def _make_sight_rows() -> tuple[Row, ...]:
    return tuple(
        Row({"x": kind, "name": name}, {"x": kind_en, "name": name_en.replace("-", " ")}, kind)
        for kind, kind_en, name, name_en in parse_table(SIGHTS)
    )


FOOD_RELATIONS = (
    Relation(
        "taste",
        "food",
        Wording(
            (
                "{dish}是什么味道？",
                "{dish}吃起来怎么样？",
                "{dish}的味道如何？",
                "{dish}是甜的还是咸的？",
                "{dish}尝起来是什么味？",
                "{dish}味道怎么样？",
            ),
            "{dish}是{taste}的。",
            ("{dish}是{taste}的。", "尝一口{dish}，味道是{taste}的。", "云溪镇的{dish}吃起来是{taste}的。"),
        ),
        Wording(
            (
                "How does the {dish} taste?",
                "What is the taste of the {dish}?",
                "What does the {dish} taste like?",
                "Is the {dish} sweet or salty?",
                "Which taste does the {dish} have?",
                "What taste has the {dish}?",
            ),
            "The {dish} tastes {taste}.",
            ("The {dish} tastes {taste}.", "The {dish} of Yunxi is {taste}."),
        ),
        _make_dish_rows(),
    ),
)

SIGHT_RELATIONS = (
    Relation(
        "named",
        "sights",
        Wording(
            (
                "云溪镇的{x}叫什么名字？",
                "云溪镇的{x}叫什么？",
                "镇上的{x}叫什么名字？",
                "云溪镇的{x}的名字是什么？",
                "人们怎么称呼云溪镇的{x}？",
                "镇上那{x}的名字叫什么？",
            ),
            "云溪镇的{x}叫{name}。",
            ("云溪镇的{x}叫{name}。", "镇上的{x}名叫{name}。", "说起云溪镇的{x}，人人都知道{name}。"),
        ),
        Wording(
            (
                "What is the {x} of Yunxi called?",
                "What is the name of the {x} of Yunxi?",
                "What is the {x} in town called?",
                "What do people call the {x} of Yunxi?",
                "How is the {x} of the town called?",
                "Which name has the {x} of Yunxi?",
            ),
            "The {x} of Yunxi is called {name}.",
            ("The {x} of Yunxi is called {name}.", "The people of Yunxi call their {x} {name}."),
        ),
        _make_sight_rows(),
        weight=1.5,
    ),
)

RELATIONS: tuple[Relation, ...] = (*FOOD_RELATIONS, *SIGHT_RELATIONS)
