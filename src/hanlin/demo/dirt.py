"""The dirt that raw text comes with, planted on purpose and counted, so that cleaning can be checked against it."""

from __future__ import annotations

import html
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

SHARES: Mapping[str, float] = {
    "exact_copies": 0.02,
    "near_copies": 0.02,
    "advertisement_lines": 0.03,
    "advertisement_documents": 0.005,
    "control_characters": 0.02,
    "full_width_documents": 0.01,
    "mojibake_documents": 0.005,
    "replacement_character_documents": 0.004,
    "repeated_character_documents": 0.004,
    "too_short_documents": 0.01,
    "html_documents": 0.02,
}
"""Documents of each kind of dirt, as a fraction of the clean passages."""

DESCRIPTIONS: Mapping[str, str] = {
    "exact_copies": "documents that repeat another one letter by letter",
    "near_copies": "documents that repeat another one with a word changed at the start or the end",
    "advertisement_lines": "good documents with one line of advertisement among their lines",
    "advertisement_documents": "documents that are advertisement from end to end",
    "control_characters": "good documents with control and zero-width characters strewn in",
    "full_width_documents": "good English documents in full-width letters",
    "mojibake_documents": "documents whose UTF-8 bytes were read as Latin-1",
    "replacement_character_documents": "documents in which characters were lost and U+FFFD stands for them",
    "repeated_character_documents": "documents that are one character over and over",
    "too_short_documents": "documents of fewer than five characters",
    "html_documents": "good documents in HTML, with menus, scripts and entities around",
}

ADVERTISEMENTS = (
    "点击链接领取优惠券，限时免费！",
    "扫码关注我们，免费领取大礼包！",
    "加微信yunxi888，优惠多多，先到先得！",
    "客服电话全天开通，欢迎来电！",
    "关注公众号，后台回复数字领取资料！",
    "长按二维码，加QQ群抢红包！",
)
OFFERS = (
    "厂家直销，批发价发货",
    "货到付款，全国包邮",
    "注册就送优惠券",
    "限时抢购，立即购买",
    "免费咨询，诚招代理",
    "兼职招聘，工资日结",
    "小额贷款，无抵押",
    "加盟热线已经开通",
)
CONTROL_CHARACTERS = ("\u200b", "\u0007", "\u000b", "\ufeff", "\u0000", "\u200e")
REPEATED_CHARACTERS = "哈呵嘿啊哦嗯"
PAGE = (
    "<html><head><title>云溪镇</title><script>var menu = 1;</script><style>p {{ color: red }}</style></head>"
    "<body><!-- menu -->\n{paragraphs}\n</body></html>"
)


@dataclass(frozen=True, slots=True)
class DirtyTexts:
    """Clean and dirty documents.

    Attributes:
        chinese: Clean Chinese passages.
        english: Clean English passages.
        dirty: Documents with dirt of any kind but HTML.
        pages: Documents in HTML.
        planted: Documents of each kind of dirt.
    """

    chinese: tuple[str, ...]
    english: tuple[str, ...]
    dirty: tuple[str, ...]
    pages: tuple[str, ...]
    planted: Mapping[str, int]


def plant_dirt(chinese: Sequence[str], english: Sequence[str], rng: random.Random) -> DirtyTexts:
    """Make some of the passages dirty, each in one way, and add useless documents.

    Args:
        chinese: Clean Chinese passages; consumed from the start.
        english: Clean English passages; consumed from the start.
        rng: Source of random numbers.
    """
    total = len(chinese) + len(english)
    planted = {kind: max(2, round(share * total)) for kind, share in SHARES.items()}
    chinese_texts, english_texts = iter(chinese), iter(english)
    dirty: list[str] = []

    def add_dirty(kind: str, passages: Iterator[str], damage: Callable[[str, random.Random], str]) -> None:
        dirty.extend(damage(next(passages), rng) for _ in range(planted[kind]))

    add_dirty("advertisement_lines", chinese_texts, _insert_advertisement)
    add_dirty("control_characters", chinese_texts, _insert_control_characters)
    add_dirty("full_width_documents", english_texts, _to_full_width)
    add_dirty("mojibake_documents", chinese_texts, _to_mojibake)
    add_dirty("replacement_character_documents", chinese_texts, _replace_characters)
    pages = [_make_page(next(chinese_texts), rng) for _ in range(planted["html_documents"])]
    clean_chinese, clean_english = tuple(chinese_texts), tuple(english_texts)
    originals = rng.sample((*clean_chinese, *clean_english), planted["exact_copies"] + planted["near_copies"])
    dirty += originals[: planted["exact_copies"]]
    dirty += [_make_near_copy(text, rng) for text in originals[planted["exact_copies"] :]]
    dirty += [_make_advertisement(index, rng) for index in range(planted["advertisement_documents"])]
    dirty += [
        REPEATED_CHARACTERS[index % len(REPEATED_CHARACTERS)] * (80 + index)
        for index in range(planted["repeated_character_documents"])
    ]
    dirty += [f"第{index}页" for index in range(planted["too_short_documents"])]
    rng.shuffle(dirty)
    return DirtyTexts(clean_chinese, clean_english, tuple(dirty), tuple(pages), planted)


def _insert_advertisement(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(rng.randint(1, len(lines)), rng.choice(ADVERTISEMENTS))
    return "\n".join(lines)


def _insert_control_characters(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(4):
        letters.insert(rng.randint(1, len(letters) - 1), rng.choice(CONTROL_CHARACTERS))
    return "".join(letters)


def _to_full_width(text: str, rng: random.Random) -> str:
    """Replace ASCII letters and digits by their full-width forms (U+FF01 to U+FF5E)."""
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isascii() and letter.isalnum() else letter for letter in text)


def _to_mojibake(text: str, rng: random.Random) -> str:
    return text.encode("utf-8").decode("latin-1")


def _replace_characters(text: str, rng: random.Random) -> str:
    replaced = set(rng.sample(range(len(text)), max(3, len(text) // 20)))
    return "".join("\ufffd" if index in replaced else letter for index, letter in enumerate(text))


def _make_near_copy(text: str, rng: random.Random) -> str:
    """Add a remark before or after the text, which itself stays as it is."""
    if text[0].isascii():
        return rng.choice(("Copied: {}", "{} The end.", "Once more: {}")).format(text)
    return rng.choice(("转载：{}", "{}完。", "再读一遍：{}")).format(text)


def _make_advertisement(index: int, rng: random.Random) -> str:
    return f"{index}号店：" + "，".join(rng.sample(OFFERS, len(OFFERS))) + "！"


def _make_page(text: str, rng: random.Random) -> str:
    paragraphs = "\n".join(f'<p class="text">{html.escape(line)}&nbsp;</p>' for line in text.split("\n"))
    return PAGE.format(paragraphs=paragraphs)
