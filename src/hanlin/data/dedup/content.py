"""What a question is about: its letters, or its words, without function words and words for quantities.

下列关于赵州桥的说法，哪一项是不正确的？   ->  赵州桥说法不正确
关于赵州桥，以下哪种说法不正确？           ->  赵州桥说法不正确
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from hanlin.data.dedup.keys import CodePoints, Hashes
from hanlin.data.dedup.minhash import fold_letters
from hanlin.data.dedup.numbers import DIGITS, unify_chinese_numbers, unify_english_numbers
from hanlin.data.text.char_stats import FIRST_SUPPLEMENTARY, count_char_kinds
from hanlin.data.text.patterns import compile_on_use


def _split(text: str) -> list[str]:
    return text.split()


_FUNCTION_CHARACTERS = (
    "的地得了着过吗呢吧啊呀嘛么之乎者也矣而则且与和及跟或是为乃即被把将给对就从自由于在到向往以按据因所其该此这那哪何谁"
    "什怎啥几多少请问有个些项种位只条件名会可要应都均共总还又再很最更并但它他她我们你您若如中里上呈不"
)
_FUNCTION_PAIRS = _split(
    "下列 以下 下面 关于 有关 对于 如果 假如 那么 因此 因为 由于 以及 然而 不过 其中 总共 共计 分别 各自 应该 应当 "
    "可以 能够 需要 必须 已经 曾经 若干 想问 现在 目前 根据 按照 依据 是否 选项 选择 回答 试问 求出 计算 已知 现有 "
    "那里 这里 时候 为止 正确 错误 有误 不对"
)
_STOPWORDS = frozenset(
    _split(
        "a an the of to in on at by for from with about into over after before between than then so and or "
        "but if as is are was were be been being am do does did done have has had having will would shall "
        "should can could may might must that this these those it its it they them their he him his she "
        "her we us our you your i my me there here what which who whom whose when where why how many much "
        "more most some any each every all both no not only just also very too please find calculate "
        "determine following number amount order well plus upon inside within suppose given called one "
        "such same other another 1"
    )
)
_CHINESE_CUE = compile_on_use(
    r"[?？吗呢哪谁]|什么|多少|若干|啥|怎|是否|[（(]\s*[)）]|_{2,}|＿|下列|以下|何[时种处地人事物以者项]|[为如]何"
    r"|几[个天小年本元人只次分千米公时种]|求[出：:得这该此其]|请[问选写计回算你根将给把]|试[求问计证]|想问|[的是][:：]"
)
_ENGLISH_CUE = compile_on_use(
    r"[?？](?!\w)|\b(?:what|which|who|whom|whose|when|where|why|how|find|calculate|determine|compute|solve|simplify"
    r"|evaluate|fill in|write)\b|_{2,}|\\uline"
)
"""Not the mark in an address (`index.php?item=1`)."""
_SENTENCE_START = compile_on_use(
    r"(?<=[a-z\d]) (?=(?:The|An?|This|That|These|Those|It|Its|He|She|They|We|You|His|Her|Their|Our|Your|My|In|On|At|By"
    r"|For|From|To|With|As|If|But|And|Or|So|There|Here|Is|Are|Was|Were|Do|Does|Did|Can|What|Which|Who|When|Where|Why"
    r"|How)\b)"
)
"""The blank before a function word with a capital: a sentence begins there, also after one without a mark."""
_NUMBER = compile_on_use(r"[0-9]+(?:\.[0-9]+)?")
_WORD = compile_on_use(r"[^\W_]+")
_MIN_HAN_OF_STEM = 6


class Content(NamedTuple):
    """The content of a text.

    Attributes:
        text: The text, its numbers in digits.
        codes: The letters, or hashes of the words, that are no function words.
        starts: Where each of them begins in `text`.
    """

    text: str
    codes: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]


def is_of_words(text: str) -> bool:
    """Whether a question is compared by words, not by characters."""
    han, latin, *_ = count_char_kinds(text)
    return 4 * han < latin


def find_cue(text: str, of_words: bool) -> bool:
    """Whether a text asks something, in words or by a mark."""
    return (_ENGLISH_CUE if of_words else _CHINESE_CUE).search(text) is not None


def find_numbers(text: str) -> frozenset[str]:
    """The numbers of a text in digits; 1 is mostly an article."""
    return frozenset(_NUMBER.findall(text)) - {"1"}


def may_be_stem(content: Content, of_words: bool) -> bool:
    """Whether a question of characters has enough Chinese to be a stem of an exam (`属于腹膜内位的器官是`).

    A stem asks in no word, so that short ones are found only where the text asks.
    """
    if of_words:
        return False
    return int(np.count_nonzero((content.codes >= 0x4E00) & (content.codes <= 0x9FFF))) >= _MIN_HAN_OF_STEM


def extract_content(text: str, of_words: bool) -> Content:
    """Extract what a text is about: by words, or by characters."""
    return _extract_words(text) if of_words else _extract_characters(text)


def _extract_words(text: str) -> Content:
    text = unify_english_numbers(_SENTENCE_START.sub("\n", text).casefold())
    words = [(match.start(), match.group()) for match in _WORD.finditer(text) if match.group() not in _STOPWORDS]
    codes = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for _, word in words], dtype=np.uint32)
    return Content(text, codes, np.array([start for start, _ in words], dtype=np.int64))


def _extract_characters(text: str) -> Content:
    text = unify_chinese_numbers(text)
    codes, is_letter = fold_letters(text)
    starts = np.flatnonzero(is_letter)
    codes = codes[starts]
    digits, is_function, firsts, seconds = _build_tables()
    in_table = np.minimum(codes, FIRST_SUPPLEMENTARY - 1)
    codes = digits.take(in_table) if len(codes) and codes.max() < FIRST_SUPPLEMENTARY else codes
    is_left_out = is_function.take(in_table)
    if len(codes) > 1:
        is_pair = (firsts.take(in_table[:-1]) & seconds.take(in_table[1:])) != 0
        is_left_out[:-1] |= is_pair
        is_left_out[1:] |= is_pair
        is_digit = (codes >= ord("0")) & (codes <= ord("9"))
        is_alone = codes == ord("1")
        is_alone[1:] &= ~(is_digit[:-1] & (np.diff(starts) == 1))
        is_alone[:-1] &= ~(is_digit[1:] & (np.diff(starts) == 1))
        is_left_out |= is_alone
    return Content(text, codes[~is_left_out], starts[~is_left_out])


@cache
def _build_tables() -> tuple[CodePoints, npt.NDArray[np.bool_], Hashes, Hashes]:
    """Build tables by code point, each of FIRST_SUPPLEMENTARY entries.

    Returns:
        (digit of a Chinese one, whether it is a function character, bits of the pairs that it begins, and ends).
    """
    digits = np.arange(FIRST_SUPPLEMENTARY, dtype=np.uint32)
    is_function = np.zeros(FIRST_SUPPLEMENTARY, dtype=np.bool_)
    firsts, seconds = np.zeros((2, FIRST_SUPPLEMENTARY), dtype=np.uint64)
    for char, digit in DIGITS.items():
        digits[ord(char)] = ord(digit)
    is_function[[ord(char) for char in _FUNCTION_CHARACTERS]] = True
    for bit, pair in enumerate(_FUNCTION_PAIRS):
        firsts[ord(pair[0])] |= np.uint64(1 << bit)
        seconds[ord(pair[1])] |= np.uint64(1 << bit)
    return digits, is_function, firsts, seconds
