"""The dirt that raw text comes with, planted on purpose and counted, so that cleaning can be checked against it.

Owns every kind of dirt. Does not clean anything and knows nothing of how cleaning works.
"""

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
"""How many documents of each kind of dirt there are, as a share of the clean passages."""

EXPLAINED: Mapping[str, str] = {
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
NOISE = ("\u200b", "\u0007", "\u000b", "\ufeff", "\u0000", "\u200e")
LAUGHS = "哈呵嘿啊哦嗯"
PAGE = (
    "<html><head><title>云溪镇</title><script>var menu = 1;</script><style>p {{ color: red }}</style></head>"
    "<body><!-- menu -->\n{paragraphs}\n</body></html>"
)


@dataclass(frozen=True, slots=True)
class Soiled:
    """Documents with dirt in them and the number planted of each kind.

    `chinese` and `english` are the passages left untouched; `pages` those in HTML; `dirty` all others.
    """

    chinese: tuple[str, ...]
    english: tuple[str, ...]
    dirty: tuple[str, ...]
    pages: tuple[str, ...]
    planted: Mapping[str, int]


def soil(chinese: Sequence[str], english: Sequence[str], rng: random.Random) -> Soiled:
    """Soil some of the passages and add rubbish to them. No passage is soiled in two ways."""
    total = len(chinese) + len(english)
    planted = {kind: max(2, round(share * total)) for kind, share in SHARES.items()}
    stock, foreign = iter(chinese), iter(english)
    dirty: list[str] = []

    def spoil(kind: str, passages: Iterator[str], how: Callable[[str, random.Random], str]) -> None:
        dirty.extend(how(next(passages), rng) for _ in range(planted[kind]))

    spoil("advertisement_lines", stock, _with_advertisement)
    spoil("control_characters", stock, _with_noise)
    spoil("full_width_documents", foreign, _full_width)
    spoil("mojibake_documents", stock, _mojibake)
    spoil("replacement_character_documents", stock, _with_losses)
    pages = [_page(next(stock), rng) for _ in range(planted["html_documents"])]
    clean_chinese, clean_english = tuple(stock), tuple(foreign)
    originals = rng.sample((*clean_chinese, *clean_english), planted["exact_copies"] + planted["near_copies"])
    dirty += originals[: planted["exact_copies"]]
    dirty += [_nearly(text, rng) for text in originals[planted["exact_copies"] :]]
    dirty += [_advertisement(number, rng) for number in range(planted["advertisement_documents"])]
    dirty += [LAUGHS[number % len(LAUGHS)] * (80 + number) for number in range(planted["repeated_character_documents"])]
    dirty += [f"第{number}页" for number in range(planted["too_short_documents"])]
    rng.shuffle(dirty)
    return Soiled(clean_chinese, clean_english, tuple(dirty), tuple(pages), planted)


def _with_advertisement(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    lines.insert(rng.randint(1, len(lines)), rng.choice(ADVERTISEMENTS))
    return "\n".join(lines)


def _with_noise(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(4):
        letters.insert(rng.randint(1, len(letters) - 1), rng.choice(NOISE))
    return "".join(letters)


def _full_width(text: str, rng: random.Random) -> str:
    """ASCII letters and digits moved to the full-width forms, U+FF01 to U+FF5E."""
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isascii() and letter.isalnum() else letter for letter in text)


def _mojibake(text: str, rng: random.Random) -> str:
    return text.encode("utf-8").decode("latin-1")


def _with_losses(text: str, rng: random.Random) -> str:
    lost = set(rng.sample(range(len(text)), max(3, len(text) // 20)))
    return "".join("\ufffd" if place in lost else letter for place, letter in enumerate(text))


def _nearly(text: str, rng: random.Random) -> str:
    """The text with a remark before or after it; nothing that it says is changed."""
    if text[0].isascii():
        return rng.choice(("Copied: {}", "{} The end.", "Once more: {}")).format(text)
    return rng.choice(("转载：{}", "{}完。", "再读一遍：{}")).format(text)


def _advertisement(number: int, rng: random.Random) -> str:
    return f"{number}号店：" + "，".join(rng.sample(OFFERS, len(OFFERS))) + "！"


def _page(text: str, rng: random.Random) -> str:
    paragraphs = "\n".join(f'<p class="text">{html.escape(line)}&nbsp;</p>' for line in text.split("\n"))
    return PAGE.format(paragraphs=paragraphs)
