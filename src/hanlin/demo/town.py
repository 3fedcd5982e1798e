"""The places of 云溪镇 (Yunxi), an invented town, and the people who live there.

Nobody and nothing in it is real.
"""

from __future__ import annotations

from hanlin.demo.facts import Relation, Row, Wording

STREETS = {
    "东街": "East Street",
    "西街": "West Street",
    "南街": "South Street",
    "北街": "North Street",
    "竹林路": "Bamboo Road",
    "河边路": "River Road",
    "桥头巷": "Bridge Lane",
    "学堂巷": "School Lane",
}
PEOPLE = """
林雨 Lin Yu 医生 doctor
陈山 Chen Shan 木匠 carpenter
王梅 Wang Mei 老师 teacher
李松 Li Song 农民 farmer
周河 Zhou He 渔夫 fisherman
吴兰 Wu Lan 裁缝 tailor
马亮 Ma Liang 邮差 postman
高竹 Gao Zhu 厨师 cook
"""
PLACES = """
书店 bookshop 东街
茶馆 teahouse 河边路
医院 hospital 南街
学校 school 学堂巷
邮局 post-office 西街
菜市场 market 桥头巷
面包店 bakery 北街
博物馆 museum 竹林路
"""


def parse_table(text: str) -> list[list[str]]:
    """Split a table into the words of each line; a hyphen is a space inside an English name."""
    return [line.split() for line in text.strip().splitlines()]


def _make_people_rows() -> tuple[Row, ...]:
    return tuple(
        Row({"p": name, "job": job}, {"p": f"{surname_en} {given_en}", "job": job_en}, name)
        for name, surname_en, given_en, job, job_en in parse_table(PEOPLE)
    )


def _make_place_rows() -> tuple[Row, ...]:
    return tuple(
        Row(
            {"place": place, "street": street},
            {"place": place_en.replace("-", " "), "street": STREETS[street]},
            place,
        )
        for place, place_en, street in parse_table(PLACES)
    )


PEOPLE_RELATIONS = (
    Relation(
        "job",
        "people",
        Wording(
            (
                "{p}是做什么的？",
                "{p}做什么工作？",
                "{p}的职业是什么？",
                "{p}在镇上做什么？",
                "{p}的工作是什么？",
                "{p}以什么为生？",
            ),
            "{p}是{job}。",
            ("{p}是{job}。", "{p}是云溪镇的{job}。", "{p}的工作是{job}，大家都认识。"),
        ),
        Wording(
            (
                "What does {p} do?",
                "What is the job of {p}?",
                "What work does {p} do?",
                "What is {p} by trade?",
                "What does {p} work as?",
                "Which job does {p} have?",
            ),
            "{p} is the {job}.",
            ("{p} is the {job}.", "{p} works as the {job} of Yunxi."),
        ),
        _make_people_rows(),
    ),
)

PLACE_RELATIONS = (
    Relation(
        "where",
        "places",
        Wording(
            (
                "{place}在哪里？",
                "{place}在哪条街上？",
                "去{place}要到哪条街？",
                "云溪镇的{place}在什么地方？",
                "怎么找{place}，它在哪条路上？",
                "{place}开在哪里？",
            ),
            "{place}在{street}。",
            ("{place}在{street}。", "云溪镇的{place}开在{street}。", "走到{street}就能看见{place}。"),
        ),
        Wording(
            (
                "Where is the {place}?",
                "On which street is the {place}?",
                "Where can I find the {place}?",
                "Which street is the {place} on?",
                "Where is the {place} of Yunxi?",
                "To which street do I go for the {place}?",
            ),
            "The {place} is on {street}.",
            ("The {place} is on {street}.", "On {street} you will find the {place}."),
        ),
        _make_place_rows(),
    ),
)

RELATIONS: tuple[Relation, ...] = (*PEOPLE_RELATIONS, *PLACE_RELATIONS)
