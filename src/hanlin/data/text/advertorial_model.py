"""How likely a page is written to sell: measures of its words and form, and a logistic model of them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hanlin.data.text.advertorial_phrases import KINDS, find_advertorial_phrases
from hanlin.data.text.char_stats import code_points
from hanlin.data.text.ngrams import hash_short_ngrams
from hanlin.data.text.patterns import compile_on_use

_JOB_WORDS = frozenset((
    *("招聘", "应聘", "岗位职责", "任职要求", "任职资格", "薪资", "五险", "招聘会", "简历", "面试"),
    *("月薪", "包食宿", "包吃住", "底薪"),
))  # fmt: skip
_MIN_JOB_WORDS = 2
"""A page with as many of them, and no more than a profile of a company beside them, offers jobs."""
_NEWS_REPORT = compile_on_use(
    r"(?:记者|通讯员|特约|见习)\s?[\u4e00-\u9fff]{2,4}(?=[\s，,）)、：:]|摄|报道|$)"
    r"|[（(][^（）()\n]{0,14}(?:记者|通讯员)[^（）()\n]{1,30}[）)]|文/图|图/文"
    r"|\d ?日[^，。\n]{0,8}(?:消息|电|讯|获悉|报道|晚间|宣布)|[网报社端]讯|讯\s?[（(]"
    r"|招股书|IPO|半年报|年报|净利润|营收|募资|质押|董事会|天眼查|[（(]完[）)]|报道称|据(?:媒体|外媒)?报道"
    r"|\d{6}\.S[HZ]|[（(]\d{6}[）)]|[（(]\d{4,5}\.HK[）)]|\(\d+\.\d{2,3}, -?\d|同比(?:增|下降)"
    r"|表示[，,：:。]|据介绍|据悉|记者\d{0,2}日?从|从[^，。\n]{2,24}(?:获悉|了解到)|(?:告诉|对)[^，。\n]{0,10}记者"
    r"|特此公告|公告称|发布(?:公告|声明|通报)|犯罪嫌疑人"
    r"|\A[^。]{0,80}?(?:近日|日前|昨日|月\d{1,2}日)[，,]",
    re.M,
)
"""What news has and an advertorial seldom: a byline, a date line, a stock code and accounts, somebody who is quoted."""
_LIKE_NEWS = compile_on_use(
    r"\d ?月 ?\d{1,2} ?日|近日|日前|今年以来，|上半年，|新华|央视"
    r"|原标题|返回搜狐|来源：[^\n]{1,10}(?:网|报|社|联播|新闻|台)|据了解|[（(]责任编辑[：:]"
    r"|\A[^。]{0,60}?(?:今日|最近|今天|昨天|本周|近期)[^。]{0,24}?(?:宣布|发布|推出|上线|公布|亮相|举行|举办|召开|开展)"
)
"""What news has and some advertorials: a day, where it was published first. It counts if the model is not sure.

Of 26 news of 2023 that the model takes for advertorials in spite of `_NEWS_REPORT` as it was before, read on the half
for tuning, 12 were wrong, and 11 of those have one of both; of 100 pages of SkyPile that it drops rightly 4 do.
"""
_SURE = 0.9
OPENING_CHARS = 400
"""The beginning of a page that is judged alone, if the page is more than twice as long."""
_SURE_OF_OPENING = 0.83
"""Of pages that crawlers took for news 24 of the half for tuning begin so, all advertorials; at 0.6 reports do too."""
_MAX_REPEATS = 3
"""A word counts this often at most: what a page is about does not make it an advertorial."""
_LEAST_CHARS = 300
_MOST_FROM_FORM = 2.0
"""Beside the length: a profile 1, telephone numbers 1."""
_MOST_FROM_REPEATS = 0.15
"""Of the most frequent pair of characters, 120 times in 1,000; the other repeat has a negative weight."""
_TELLING_KINDS = ("voice", "trade", "claim", "disease", "honor", "heading", "quality", "goods", "industry", "editor")
_PROFILE_CHARS = 220
_ORGANIZATION = r"(?:公司|集团|厂|企业|商行|工作室|事务所|俱乐部|酒店|度假村|基地|中心)"
_PROFILE = re.compile(
    _ORGANIZATION
    + r"[^。！？\n]{0,60}?(?:成立于|创建于|始建于|创办于|创立于|组建于|注册|位于|坐落|座落|是一家|是集|专业从事"
    r"|专业生产|专业致力|前身|主要从事|主营|专注|致力|拥有|是国内)"
)
_NUMBERED_LINE = re.compile(r"^\s*(?:\d+[、.．]|[一二三四五六七八九十]+、)", re.M)
_SENTENCE_END = re.compile(r"[。！？!?\n]+")
_PHONE = re.compile(r"1[3-9]\d{9}|0\d{2,3}-\d{7,8}|400-?\d{3}")
_MODEL_NUMBER = re.compile(r"[A-Z]{1,5}-?\d{2,}")
_MARKS = {"“": "quote", "他": "he", "您": "you"}
_CLINIC_SIGNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"(?:医院|专科|医生|专家|研究[所院]|门诊|诊所|皮肤病)[^。，！？!?\n]{0,16}"
        r"(?:提示|提醒|介绍|解答|祝愿|祝福|讲解|表示|指出|告诉|分析)",
        r"正规[^。！？!?\n]{0,8}(?:医院|专科|治疗|机构)"
        r"|[去到往][^。，！？!?\n]{0,8}专[业科][^。，！？!?\n]{0,8}(?:医院|治疗|就诊)|及[早时][^。！？!?\n]{0,6}(?:治疗|就医|就诊)",
        r"希望[^。！？!?\n]{0,24}(?:帮助|帮到|患者|大家|治疗|康复|重视)|祝愿?[^。！？!?\n]{0,16}(?:康复|健康)",
        r"(?:下面|一起)[^。！？!?\n]{0,30}(?:介绍|看看|了解|解答|讲解)|那么[，,]"
        r"|以上(?:就?是|内容)[^。！？!?\n]{0,40}(?:介绍|内容|讲解|解答)",
        r"哪[家个里][^。！？!?\n]{0,8}(?:医院|好)|医院[^。！？!?\n]{0,8}(?:哪[家个]|怎么样|好不好)",
    )
)
"""What pages of clinics say beside the disease that they are about."""


WEIGHTS: dict[str, float] = {
    "voice": 1.09,
    "trade": 0.49,
    "claim": 0.84,
    "goods": 0.16,
    "disease": 0.33,
    "company": 0.13,
    "profile": 0.01,
    "honor": 0.49,
    "buying": 0.14,
    "heading": 0.33,
    "quality": 0.33,
    "industry": 0.30,
    "editor": 0.53,
    "clinic": 0.27,
    "finance": -0.18,
    "speech": -0.15,
    "science": -0.25,
    "office": -0.42,
    "question": -1.17,
    "betting": 0.42,
    "quote": -0.33,
    "he": -0.13,
    "you": -0.06,
    "praise": 0.22,
    "numbered_line": -0.10,
    "phone": 0.43,
    "model_number": -0.03,
    "name": -0.28,
    "word": 0.03,
    "clinic_page": 0.60,
    "profile_first": 1.01,
    "sentence_chars": -0.05,
    "chars": 0.28,
}
"""Weight of each measure, fitted by bench/fit_advertorials.py."""
BIAS = -4.785


def measure_page(text: str) -> dict[str, float]:
    """Measure a page.

    Args:
        text: A text that is not empty.

    Returns:
        By name: log(1 + how often it occurs in 1,000 characters) for each kind of words and marks; further measures of
        the form.
    """
    found = find_advertorial_phrases(text)
    words = dict.fromkeys((*KINDS, "praise"), 0.0) | _measure_words(text, found)
    return words | _measure_form(text, found) | _measure_repeats(text)


def _measure_words(text: str, found: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The measures of words that are not 0: of most kinds a page has none."""
    scale = 1000 / max(len(text), _LEAST_CHARS)
    counts = {kind: _count_words(words) for kind, words in found.items()}
    counts["praise"] = len({*found.get("voice", ()), *found.get("trade", ()), *found.get("claim", ())})
    return {name: math.log1p(scale * count) for name, count in counts.items()}


def _count_words(words: Sequence[str]) -> int:
    """Count words, each `_MAX_REPEATS` times at most."""
    if len(words) <= _MAX_REPEATS:
        return len(words)
    return sum(min(_MAX_REPEATS, count) for count in Counter(words).values())


def _measure_form(text: str, found: Mapping[str, Sequence[str]]) -> dict[str, float]:
    scale = 1000 / max(len(text), _LEAST_CHARS)
    counts = {
        **{name: text.count(mark) for mark, name in _MARKS.items()},
        "numbered_line": len(_NUMBERED_LINE.findall(text)),
        "phone": len(_PHONE.findall(text)),
        "model_number": len(_MODEL_NUMBER.findall(text)),
    }
    diseases = Counter(found.get("disease", ())).most_common(1)
    signs = sum(1 for sign in _CLINIC_SIGNS if sign.search(text)) if diseases else 0
    sentences = 1 + len(_SENTENCE_END.findall(text))
    return {name: math.log1p(scale * count) for name, count in counts.items()} | {
        "clinic_page": signs * math.log1p(scale * diseases[0][1]) if diseases else 0.0,
        "profile_first": float(bool(_PROFILE.search(text, 0, _PROFILE_CHARS))),
        "sentence_chars": math.log(len(text) / sentences + 1),
        "chars": _measure_length(text),
    }


def _measure_length(text: str) -> float:
    return math.log(max(len(text), 50))


def _measure_repeats(text: str) -> dict[str, float]:
    """What is repeated most: four characters, such as the name of what a page sells, and two."""
    scale = 1000 / max(len(text), _LEAST_CHARS)
    return {name: math.log1p(scale * _count_most_frequent(text, size)) for name, size in (("name", 4), ("word", 2))}


def _count_most_frequent(text: str, length: int) -> int:
    """How often the most frequent `length` characters occur."""
    hashes = np.sort(hash_short_ngrams(code_points(text), length))
    edges = np.flatnonzero(np.diff(hashes) != 0)
    return int(np.diff(edges, prepend=-1, append=len(hashes) - 1).max()) if len(hashes) else 0


def judge_page(text: str, min_probability: float) -> tuple[float, list[str]] | None:
    """Tell how likely a page is written to sell, and what words say so.

    A page that offers jobs sells nothing, nor does a report of a newspaper or on a share. The form is measured only if
    words and length leave it a chance, diseases apart, and repeats, which cost most, only if all else does.

    Args:
        text: The page.
        min_probability: Pages that are less likely are of no interest.

    Returns:
        (probability, up to 5 words of the kinds that only such pages have), or None for a page that is less likely.
    """
    found = find_advertorial_phrases(text)
    if len(_JOB_WORDS.intersection(found.get("office", ()))) >= _MIN_JOB_WORDS:
        return None
    needed = _logit(min_probability)
    logit = BIAS + _weigh(_measure_words(text, found))
    of_length = WEIGHTS["chars"] * _measure_length(text)
    if logit + of_length + _MOST_FROM_FORM < needed and "disease" not in found:
        return None
    logit += _weigh(_measure_form(text, found))
    if logit + _MOST_FROM_REPEATS < needed:
        return None
    logit += _weigh(_measure_repeats(text))
    if logit < needed or _NEWS_REPORT.search(text) or (logit < _logit(_SURE) and _LIKE_NEWS.search(text)):
        return None
    words = dict.fromkeys(word for kind in _TELLING_KINDS for word in found.get(kind, ()))
    return 1 / (1 + math.exp(-min(30.0, logit))), list(words)[:5]


def judge_opening(text: str) -> tuple[float, list[str]] | None:
    """Tell whether the beginning of a longer page is written to sell, whatever the page goes on with.

    Programs put news, chapters of novels or lists of towns behind an advertorial, so that search engines find it.

    Args:
        text: The page.

    Returns:
        (probability, up to 5 words) as `judge_page`, or None for a page that begins otherwise.
    """
    return judge_page(text[:OPENING_CHARS], _SURE_OF_OPENING)


def _weigh(measures: Mapping[str, float]) -> float:
    return sum(WEIGHTS[name] * value for name, value in measures.items())


def _logit(probability: float) -> float:
    probability = min(1 - 1e-12, max(1e-12, probability))
    return math.log(probability / (1 - probability))
