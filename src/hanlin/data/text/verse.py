"""What repeats or draws for a reason: code shown step by step, refrains of verse, drawn rules, numbers, emoticons.

`repetition` asks here only about texts that it would otherwise drop, so that nothing here costs time on other texts.
"""

from __future__ import annotations

import re

_FENCED = re.compile(r"^[ \t]*```.*?(?:^[ \t]*```|\Z)", re.S | re.M)
_INDENTS_AND_DECIMALS = re.compile(r"[ \t\u3000\n]{2,}|(?<=\d\.)\d+")
_DRAWN_RULE = re.compile(r"([-=_~*·.—…─━═＿])\1{3,}")
_NOT_VERSE = re.compile(r"[\d|*#=<>{}\[\]/\\:：]")
_MIN_LINES = 6
_MAX_LINE_CHARS = 32
_CLAUSE_END = re.compile(r"[，。！？；、：\n]+")
_MAX_MEAN_CLAUSE = 5.5
MAX_VERSE_REPETITION = 0.75
"""How much of a song or poem may be repetition."""
MIN_VERSE_LINES = 4
"""How many different lines a song or poem has at least."""
_MIN_CHARS_BESIDE_RULES = 50


def strip_code(text: str) -> str:
    """Remove fenced code: lessons show the same code again with one line more."""
    return _FENCED.sub("", text) if "```" in text else text


def is_verse(text: str) -> bool:
    """Whether a text is a song or poem: only short lines without digits, symbols or addresses; or, if written in whole
    stanzas, clauses of four or five characters as in the 诗经.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines or len(_NOT_VERSE.findall(text)) * 50 > len(text):
        return False
    long = sum(len(line.encode("utf-8")) > 3 * _MAX_LINE_CHARS for line in lines)
    if len(lines) >= _MIN_LINES and long * 10 <= len(lines):
        return True
    clauses = [clause for clause in _CLAUSE_END.split(text) if clause.strip()]
    return len(clauses) >= _MIN_LINES and sum(map(len, clauses)) <= _MAX_MEAN_CLAUSE * len(clauses)


def strip_drawn_rules(text: str) -> str:
    """Remove indents and decimals, and cut drawn rules (-----, ＿＿＿) to three characters.

    A text of which drawn rules are more than 0.7 of the characters is returned as it is, unless it has 50 characters
    beside them: it has nothing else.
    """
    drawn = sum(len(rule[0]) for rule in _DRAWN_RULE.finditer(text))
    if 10 * drawn > 7 * len(text) and len(text) - drawn < _MIN_CHARS_BESIDE_RULES:
        return text
    return _DRAWN_RULE.sub(r"\1\1\1", _INDENTS_AND_DECIMALS.sub(" ", text))


# --- faces and feelings in posts: names in brackets ([泪]), faces drawn with marks (⊙▽⊙), emoji ----------------------

MAX_POST_CHARS = 200
"""Length of what is taken for a post or a review, in which people laugh and draw faces."""
NAMED_EMOTICON = re.compile(r"\[[^\W\d_]{1,8}\]")
_EMOJI = re.compile("[\U0001f000-\U0001faff\ufe0e\ufe0f\u200d\u2764\u2665\u2661]|[\u2600-\u27bf](?=\ufe0f)")
_EYE = r"[^\w\s。，、！？.·…~*/|#\-—－]|[πTOoσｰーㅠㅜQ＝]"
_MOUTH = r"[_＿ωωДдεθ∀皿口.。\-－—︿﹏▽∇△^o︶]{1,3}"
_FACE = re.compile(rf"({_EYE}){_MOUTH}\1")
_BRACKETED_FACE = re.compile(
    r"[ヾヽ\\]{0,2}[(（](?=[^()（）\n]{0,12}[´｀`^＾ﾟ゜°¯￣_＿▽∇≧≦><;；=＝@*•●◕\u0300-\u036f])[^()（）\u4e00-\u9fff\n]{1,14}[)）]"
    r"[ノﾉっシゞﾞつ彡ψو~☆✧♪]{0,3}"
)
_SHRUG = re.compile(r"[¯╮┐╰][\\_]{0,2}[(（][^()（）\u4e00-\u9fff\n]{1,8}[)）][_/]{0,2}[¯╭┌╯]")
_FORK = re.compile(r"┭┮﹏┭┮|[≧＞>]_{0,2}[▽∇﹏ω._]{1,2}_{0,2}[≦＜<]")


def strip_emoticons(text: str) -> str:
    """Remove names of emoticons in brackets, faces drawn with marks and kana, and emoji.

    Example:
        strip_emoticons("太好了[泪](´θ｀)ノ⊙▽⊙😀") == "太好了"
    """
    text = _EMOJI.sub("", NAMED_EMOTICON.sub("", text))
    return _FACE.sub("", _FORK.sub("", _BRACKETED_FACE.sub("", _SHRUG.sub("", text))))
