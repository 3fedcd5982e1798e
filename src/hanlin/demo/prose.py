"""Passages about the small world as people write them: lessons, town papers, diaries, phrase books.

Everything in a passage is true in the world; questions occur only in wordings for training.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hanlin.demo.facts import Fact, Language
from hanlin.demo.numbers import format_hanzi
from hanlin.demo.split import QuestionVariant, Split

Kind = Literal["lesson", "paper", "diary", "phrase_book"]
SHARES: Mapping[tuple[Kind, Language], float] = {
    ("lesson", "zh"): 0.34,
    ("paper", "zh"): 0.14,
    ("diary", "zh"): 0.10,
    ("lesson", "en"): 0.20,
    ("paper", "en"): 0.08,
    ("phrase_book", "zh"): 0.14,
}
"""Fraction of the passages of each kind. A phrase book holds both languages side by side."""

TOWN_TOPICS = ("people", "places", "food", "sights")
EVERYDAY_TOPICS = ("colours", "antonyms")
QUESTION_SHARE = 0.35
"""Fraction of a lesson's sentences that are a question with its answer."""
SENTENCES: Mapping[Kind, int] = {"lesson": 16, "paper": 20, "diary": 17, "phrase_book": 10}
"""Facts in a passage. With fewer, the blocks of text would be too short to count as documents."""

TITLES: Mapping[str, tuple[str, str]] = {
    "assistant": ("助手小翰", "Xiaohan, the assistant"),
    "numerals": ("认数字", "numbers and words"),
    "addition": ("加法", "adding"),
    "units": ("量一量，称一称", "weights and measures"),
    "weekdays": ("星期", "the days of the week"),
    "antonyms": ("反义词", "opposites"),
    "colours": ("颜色", "colours"),
    "people": ("镇上的人", "the people of Yunxi"),
    "places": ("镇上的地方", "the places of Yunxi"),
    "food": ("好吃的", "the food of Yunxi"),
    "sights": ("风景", "the sights of Yunxi"),
}
WEATHER = ("天晴", "下着小雨", "刮着大风", "起了雾", "下雪了", "天阴沉沉的", "太阳很好", "雨刚停")
MOODS = (
    "心里很高兴",
    "走得有些累",
    "觉得很有意思",
    "一路哼着歌",
    "不知不觉天就黑了",
    "大家都笑了",
    "舍不得回家",
    "记在了本子上",
)
WALKS = (
    "我和奶奶去镇上走了一圈",
    "弟弟拉着我出门",
    "放学以后我没有马上回家",
    "我一个人沿着河边散步",
    "爸爸带我们去赶集",
    "同桌约我一起写作业",
    "我在窗前看了一会儿书",
    "外婆讲起镇上的事",
)
LINKS = (
    "后来我听说，",
    "奶奶告诉我，",
    "路上有人说，",
    "我还记得，",
    "墙上写着：",
    "老人们常说，",
    "我想了想，",
    "弟弟抢着说，",
)
OPENINGS_ZH = (
    "云溪小学课本第{n}课：{title}。",
    "今天老师讲{title}。",
    "这一页说的是{title}，请跟着念。",
    "第{n}单元，{title}，先读再背。",
    "黑板上写着两个字：练习。今天练{title}。",
    "下面是关于{title}的小常识。",
)
CLOSINGS_ZH = (
    "下课以后再念一遍。",
    "请把这些写进本子里。",
    "明天老师要提问。",
    "念熟了就不会忘。",
    "同桌之间可以互相问一问。",
)
OPENINGS_EN = (
    "Lesson {n} of the school book of Yunxi is about {title}.",
    "Today the teacher speaks of {title}.",
    "Read this page on {title} and say it aloud.",
    "Unit {n} is on {title}; first read, then learn by heart.",
    "Here are some short notes on {title}.",
)
CLOSINGS_EN = (
    "After class, read it once more.",
    "Write this down in your book.",
    "Tomorrow the teacher will ask.",
    "Ask each other until you know it.",
)
PAPERS_ZH = (
    "《云溪日报》第{n}期消息。",
    "镇上的布告栏第{n}号。",
    "写给客人的小册子，第{n}页。",
    "说说我们云溪镇，之{n}。",
)
PAPERS_EN = (
    "News from the Yunxi Daily, number {n}.",
    "Notice {n} on the board of the town.",
    "Page {n} of a small guide for guests.",
    "Letter {n} from the town of Yunxi.",
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of some paragraphs, one a line."""

    kind: Kind
    language: Language
    text: str


def make_passages(split: Split, count: int, rng: random.Random) -> list[Passage]:
    """Make `count` passages of all kinds, shuffled; each fact occurs as often as its weight says."""
    questions: dict[tuple[str, Language], list[QuestionVariant]] = {}
    for variant in split.training:
        questions.setdefault((variant.fact.key, variant.language), []).append(variant)
    writer = _PassageWriter(split.facts, questions, rng)
    kinds = list(SHARES)
    passages = []
    for index in range(count):
        kind, language = kinds[index] if index < len(kinds) else rng.choices(kinds, list(SHARES.values()))[0]
        passages.append(Passage(kind, language, writer.write(kind, language)))
    rng.shuffle(passages)
    return passages


class _PassageWriter:
    """Writes passages; facts are drawn from shuffled cycles, so that each occurs as often as its weight says."""

    def __init__(
        self,
        facts: Sequence[Fact],
        questions: Mapping[tuple[str, Language], Sequence[QuestionVariant]],
        rng: random.Random,
    ) -> None:
        self.questions = questions
        self.rng = rng
        self.topics = list(dict.fromkeys(fact.topic for fact in facts))
        self.weights = [sum(fact.relation.weight for fact in facts if fact.topic == topic) for topic in self.topics]
        self.cycles: dict[tuple[str, ...], Iterator[Fact]] = {}
        self.facts = facts

    def write(self, kind: Kind, language: Language) -> str:
        by_kind: Mapping[Kind, Callable[[Language], str]] = {
            "lesson": self.write_lesson,
            "paper": self.write_paper,
            "diary": self.write_diary,
            "phrase_book": self.write_phrase_book,
        }
        return by_kind[kind](language)

    def write_lesson(self, language: Language) -> str:
        (topic,) = self.rng.choices(self.topics, self.weights)
        title = TITLES[topic][0 if language == "zh" else 1]
        opening = self._fill_opening(OPENINGS_ZH if language == "zh" else OPENINGS_EN, title)
        closing = self.rng.choice(CLOSINGS_ZH if language == "zh" else CLOSINGS_EN)
        sentences = [self._phrase(fact, language) for fact in self._next_facts((topic,), SENTENCES["lesson"])]
        return _join_paragraphs([opening, *sentences, closing], language, 3)

    def write_paper(self, language: Language) -> str:
        opening = self._fill_opening(PAPERS_ZH if language == "zh" else PAPERS_EN, "")
        sentences = [
            self._sample_statement(fact, language) for fact in self._next_facts(TOWN_TOPICS, SENTENCES["paper"])
        ]
        return _join_paragraphs([opening, *sentences], language, 2)

    def write_diary(self, language: Language) -> str:
        rng = self.rng
        date = (
            f"{format_hanzi(rng.randint(1, 12))}月{format_hanzi(rng.randint(1, 28))}日，"
            f"{rng.choice(WEATHER)}，{rng.choice(WALKS)}。"
        )
        sentences = []
        for fact in self._next_facts((*TOWN_TOPICS, *EVERYDAY_TOPICS), SENTENCES["diary"]):
            link = rng.choice(LINKS) if rng.random() < 0.4 else ""
            sentences.append(link + self._sample_statement(fact, language))
        return _join_paragraphs([date, *sentences, f"{rng.choice(MOODS)}。"], language, 2)

    def write_phrase_book(self, language: Language) -> str:
        (topic,) = self.rng.choices(self.topics, self.weights)
        lines = []
        for fact in self._next_facts((topic,), SENTENCES["phrase_book"]):
            pair = [fact.answer("zh"), fact.answer("en")]
            if self.rng.random() < 0.5:
                pair.reverse()
            lines.append(" ".join(pair))
        return "\n".join(lines)

    def _next_facts(self, topics: tuple[str, ...], count: int) -> list[Fact]:
        if topics not in self.cycles:
            self.cycles[topics] = self._cycle([fact for fact in self.facts if fact.topic in topics])
        return [next(self.cycles[topics]) for _ in range(count)]

    def _cycle(self, facts: Sequence[Fact]) -> Iterator[Fact]:
        """Repeat the facts without end, reshuffled in each cycle; a fact occurs `weight` times a cycle on average."""
        while True:
            order = []
            for fact in facts:
                times = int(fact.relation.weight) + (self.rng.random() < fact.relation.weight % 1)
                order += [fact] * times
            self.rng.shuffle(order)
            yield from order

    def _phrase(self, fact: Fact, language: Language) -> str:
        questions = self.questions.get((fact.key, language))
        if questions and self.rng.random() < QUESTION_SHARE:
            labels = ("问：", "答：") if language == "zh" else ("Question: ", " Answer: ")
            return f"{labels[0]}{self.rng.choice(questions).question}{labels[1]}{fact.answer(language)}"
        return self._sample_statement(fact, language)

    def _sample_statement(self, fact: Fact, language: Language) -> str:
        return self.rng.choice(fact.statements(language))

    def _fill_opening(self, templates: Sequence[str], title: str) -> str:
        return self.rng.choice(templates).format(n=self.rng.randint(1, 99), title=title)


def _join_paragraphs(sentences: Sequence[str], language: Language, count: int) -> str:
    """Join sentences into `count` paragraphs of about equal length, one a line."""
    join = "" if language == "zh" else " "
    size = -(-len(sentences) // count)
    return "\n".join(join.join(sentences[start : start + size]) for start in range(0, len(sentences), size))
