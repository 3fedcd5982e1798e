"""The topic of the calendar: the days of the week, one after the other."""

from __future__ import annotations

from hanlin.demo.facts import Relation, Row, Wording

DAYS_ZH = tuple(f"星期{name}" for name in "一二三四五六日")
DAYS_EN = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _make_day_rows(sign: int) -> tuple[Row, ...]:
    def row(day: int) -> Row:
        other = (day + sign) % 7
        zh, en = {"day": DAYS_ZH[day], "other": DAYS_ZH[other]}, {"day": DAYS_EN[day], "other": DAYS_EN[other]}
        return Row(zh, en, f"{day}:{sign:+d}")

    return tuple(row(day) for day in range(7))


WEEKDAY_RELATIONS = (
    Relation(
        "tomorrow",
        "weekdays",
        Wording(
            (
                "今天是{day}，明天是星期几？",
                "如果今天是{day}，明天呢？",
                "{day}的第二天是星期几？",
                "{day}的明天是星期几？",
                "{day}后面是星期几？",
                "今天{day}，那么明天是哪一天？",
            ),
            "今天是{day}，明天是{other}。",
            ("今天是{day}，明天是{other}。", "{day}的第二天是{other}。", "过了{day}就是{other}。"),
        ),
        Wording(
            (
                "If today is {day}, what day is tomorrow?",
                "Today is {day}; what day is tomorrow?",
                "What is tomorrow if it is {day} today?",
                "It is {day} today, so what is tomorrow?",
                "On {day}, what day is tomorrow?",
                "Tomorrow is what day, if today is {day}?",
            ),
            "If today is {day}, tomorrow is {other}.",
            ("If today is {day}, tomorrow is {other}.", "{day} is followed by {other}."),
        ),
        _make_day_rows(+1),
    ),
    Relation(
        "yesterday",
        "weekdays",
        Wording(
            (
                "今天是{day}，昨天是星期几？",
                "如果今天是{day}，昨天呢？",
                "{day}的头一天是星期几？",
                "{day}的昨天是星期几？",
                "{day}前面是星期几？",
                "今天{day}，那么昨天是哪一天？",
            ),
            "今天是{day}，昨天是{other}。",
            ("今天是{day}，昨天是{other}。", "{day}的头一天是{other}。", "{other}过完就到了{day}。"),
        ),
        Wording(
            (
                "If today is {day}, what day was yesterday?",
                "Today is {day}; what day was yesterday?",
                "What was yesterday if it is {day} today?",
                "It is {day} today, so what was yesterday?",
                "On {day}, what day was yesterday?",
                "Yesterday was what day, if today is {day}?",
            ),
            "If today is {day}, yesterday was {other}.",
            ("If today is {day}, yesterday was {other}.", "{day} comes right after {other}."),
        ),
        _make_day_rows(-1),
    ),
)

RELATIONS: tuple[Relation, ...] = WEEKDAY_RELATIONS
