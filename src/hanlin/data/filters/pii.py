"""Personal data (PII) in text, found by pattern and checksum, masked or dropped.

Names and postal addresses are not found: no pattern tells them from other words.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from datetime import date
from functools import lru_cache

from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

_Check = Callable[[re.Match[str]], bool]
_HAN = compile_on_use("[\u4e00-\u9fff]")


def personal_data(text: str, action: str, of: str) -> str | Drop:
    """Replace personal data by its kind (`[手机号]`, or `[phone]` in text without Chinese), or drop the text.

    `action` is mask or drop; `of` lists kinds among mobile, id_card, bank_card, email, network, qq, wechat. Why: a
    model repeats what it read, and these numbers reach people. Numbers with a checksum must pass it: identity cards
    ISO 7064 MOD 11-2 (GB 11643-1999), with a valid date of birth; bank cards Luhn (ISO/IEC 7812-1), with the prefix of
    a known issuer. Reserved addresses (RFC 2606, RFC 6890), the server of a link (http://1.2.3.4/), numbers inside
    longer numbers, and QQ or 微信 as words are not personal data. Not in the default set: it would spoil tasks about
    such numbers (validating them).
    """
    masked_kinds: list[str] = []
    chinese = _HAN.search(text) is not None
    for name in _select_kinds(of):
        pattern, is_valid, zh, en = _PATTERNS[name]
        label = f"[{zh if chinese else en}]"

        def mask(match: re.Match[str], name: str = name, is_valid: _Check = is_valid, label: str = label) -> str:
            if not is_valid(match):
                return match[0]
            masked_kinds.append(name)
            secret = match.groupdict().get("secret")
            return label if secret is None else match[0].replace(secret, label)

        text = pattern.sub(mask, text)
    if masked_kinds and action == "drop":
        return Drop("personal_data", ", ".join(dict.fromkeys(masked_kinds)))
    return text


@lru_cache
def _select_kinds(of: str) -> tuple[str, ...]:
    names = of.replace(",", " ").split()
    return tuple(name for name in _PATTERNS if name in names)


def _accept(match: re.Match[str]) -> bool:
    return True


_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def is_id_card_number(number: str) -> bool:
    """Whether 18 characters are a Chinese identity number: a valid date of birth, and the right check character."""
    try:
        born = date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, number[:17], strict=True))
    return born.year >= 1880 and "10X98765432"[total % 11] == number[17].upper()


def passes_luhn(number: str) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(number)):
        doubled = int(digit) * (1 + index % 2)
        total += doubled - 9 * (doubled > 9)
    return total % 10 == 0


_CARD_PREFIXES = compile_on_use(
    r"62\d{14,17}|4\d{15}|5[1-5]\d{14}|2(?:2[2-9]|[3-6]\d|7[01])\d{13}|3[47]\d{13}|35\d{14}"
)


def _is_bank_card(match: re.Match[str]) -> bool:
    number = re.sub("[ -]", "", match[0])
    return bool(_CARD_PREFIXES.fullmatch(number)) and len(set(number)) > 3 and passes_luhn(number)


def _is_personal_email(match: re.Match[str]) -> bool:
    name, _, domain = match[0].lower().partition("@")
    reserved = domain.rsplit(".", 1)[-1] in ("test", "example", "invalid", "localhost", "local")
    return name != "git" and not reserved and domain.split(".")[-2:] not in (
        ["example", "com"], ["example", "org"], ["example", "net"],
    )  # fmt: skip


def _is_public_address(match: re.Match[str]) -> bool:
    if "-" in match[0] or (match[0].count(":") == 5 and len(match[0]) == 17):
        return True  # a MAC address
    octets = match[0].split(".")
    if len(octets) == 4 and sum(len(octet) > 1 for octet in octets) < 2:
        return False  # 3.1.4.2 is a version or the number of a section
    try:
        return ipaddress.ip_address(match[0]).is_global
    except ValueError:
        return False


_PATTERNS: dict[str, tuple[re.Pattern[str], _Check, str, str]] = {
    "email": (
        compile_on_use(r"(?<![\w.+%-])[A-Za-z0-9][\w.+%-]*@(?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,}(?![\w-])", re.A),
        _is_personal_email, "电子邮箱", "e-mail",
    ),
    "id_card": (
        compile_on_use(r"(?<![\dA-Za-z.])[1-8]\d{5}(?:18|19|20)\d{9}[\dXx](?![\dA-Za-z])"),
        lambda match: is_id_card_number(match[0]), "身份证号", "identity number",
    ),
    "bank_card": (
        compile_on_use(
            r"(?<![\dA-Za-z.-])(?:\d{4}([ -]?)\d{4}\1\d{4}\1\d{3,7}(?:\1\d{1,3})?|\d{4}([ -])\d{6}\2\d{5})"
            r"(?![\dA-Za-z]|[.-]\d)"
        ),
        _is_bank_card, "银行卡号", "bank card",
    ),
    "mobile": (
        compile_on_use(
            r"(?<![\dA-Za-z.,/=_-])(?:(?:\+|00)?86[- ]?)?1[3-9]\d([- ]?)\d{4}\1\d{4}"
            r"(?![\dA-Za-z_]|[.,-]\d|\s?(?:[元吨亿万]|人次|美元))"
        ),
        _accept, "手机号", "phone",
    ),
    "network": (
        compile_on_use(
            r"(?<![\w.:-])(?<!//)(?<!版本)(?<!版本 )(?<!ersion )(?:\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)"
            r"|[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5}(?![\w:])|[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){5}(?![\w-])"
            r"|[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){3,7}(?![\w:]))",
            re.A,
        ),
        _is_public_address, "网络地址", "network address",
    ),
    "qq": (
        compile_on_use(r"(?:(?<![A-Za-z])[Qq]{2}|扣扣|企鹅)(?:交流|咨询|客服|联系)?(?:群|号|号码|群号)?\s?[是为:：]?\s?(?P<secret>[1-9]\d{4,10})(?![\d版年])"),
        _accept, "QQ号", "QQ number",
    ),
    "wechat": (
        compile_on_use(
            r"(?:微信|薇信|[Vv]信|(?<![A-Za-z])(?:[Ww]e[Cc]hat|WECHAT|[Ww]eixin|VX|vx|Vx))"
            r"(?:\s?(?:号码?|ID|id|账号)\s?[是为:：]?\s?|\s?[:：]\s?)(?P<secret>[A-Za-z](?=[a-z]{5}|[\w-]*[\d_-])[\w-]{5,19})(?![\w-])",
            re.A,
        ),
        lambda match: match["secret"].lower() not in ("wechat", "weixin"), "微信号", "WeChat id",
    ),
}  # fmt: skip
"""For each kind of data: its pattern, a check of the match, and the label that replaces it in both languages. The group
`secret` is the part that is replaced if the rest is only a mention."""
