"""Faces and feelings in posts: names in brackets ([泪]), faces drawn with marks (⊙▽⊙), emoji.

They are no language and no debris either: rules that judge what a text is written in leave them aside.
"""

from __future__ import annotations

import re

_NAMED = re.compile(r"\[[^\W\d_]{1,8}\]")
_EMOJI = re.compile("[\U0001f000-\U0001faff\ufe0e\ufe0f\u200d\u2764\u2665\u2661]|[\u2600-\u27bf](?=\ufe0f)")
_EYE = r"[^\w\s。，、！？.·…~*/|#\-—－]|[πTOoσｰーㅠㅜQ＝]"
_MOUTH = r"[_＿ωωДдεθ∀皿口.。\-－—︿﹏▽∇△^o︶]{1,3}"
_FACE = re.compile(rf"({_EYE}){_MOUTH}\1")
_BRACKETED_FACE = re.compile(
    r"[ヾヽ\\]{0,2}[(（](?=[^()（）\n]{0,12}[´｀`^＾ﾟ゜°¯￣_＿▽∇≧≦><;；=＝@*•●◕\u0300-\u036f])[^()（）\u4e00-\u9fff\n]{1,14}[)）]"
    r"[ノﾉっシゞﾞつ彡ψو~☆✧♪]{0,3}"
)
_FORK = re.compile(r"┭┮﹏┭┮|[≧＞>]_{0,2}[▽∇﹏ω._]{1,2}_{0,2}[≦＜<]")


def strip_emoticons(text: str) -> str:
    """Remove names of emoticons in brackets, faces drawn with marks and kana, and emoji.

    Example:
        strip_emoticons("太好了[泪](´θ｀)ノ⊙▽⊙😀") == "太好了"
    """
    text = _EMOJI.sub("", _NAMED.sub("", text))
    return _FACE.sub("", _FORK.sub("", _BRACKETED_FACE.sub("", text)))
