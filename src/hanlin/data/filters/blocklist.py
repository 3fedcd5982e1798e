"""Word lists of the user's own: texts that hold such words are dropped, or the words are masked.

Owns the search. What stands in a list is the user's business; none is packaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Blocklist
from hanlin.core.context import Inputs
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.data.ledger import Drop

_LETTER = re.compile("[A-Za-z0-9]")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"


def build_blocklist_rules(lists: Sequence[Blocklist], inputs: Inputs) -> list[tuple[str, Callable[[str], str | Drop]]]:
    """A rule on text for each list, in order. Raises UserError for a file that is not text or holds no word."""
    rules: list[tuple[str, Callable[[str], str | Drop]]] = []
    for place, wanted in enumerate(lists):
        words = [word for path in inputs.paths(f"blocklists.{place}.path") for word in read_blocklist(path)]
        pattern = compile_words(words)
        rules.append(("blocklist", partial(apply_blocklist, pattern=pattern, action=wanted.action, least=wanted.least)))
    return rules


def apply_blocklist(text: str, pattern: re.Pattern[str], action: str, least: int) -> str | Drop:
    """Drop a text with `least` words of the list or more (each mention counts), or put ＊ for each of their characters.

    Letter case makes no difference; a word of Latin letters is found only as a whole word, so that `ass` is not found
    in `class`, and a single Chinese character only where no other stands beside it, so that 性 is not found in 可能性.
    Default 1: the list says what is unwanted, the user how often.
    """
    if action == "mask":
        return pattern.sub(lambda match: "＊" * len(match[0]), text)
    hits = pattern.findall(text)
    return Drop("blocklist", "、".join(sorted(set(hits))[:5])) if len(hits) >= least else text


def read_blocklist(path: Path) -> list[str]:
    """The words of a file in UTF-8: one on a line; blank lines and those that begin with # are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(say("not UTF-8", "不是 UTF-8 编码"), path, say("save it as UTF-8", "请另存为 UTF-8")) from error
    except OSError as error:
        raise UserError(say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}"), path) from error
    words = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not words:
        raise UserError(say("there is no word in this list", "词表中没有词"), path)
    return words


def compile_words(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the longest of the words at each place, in a time that hardly grows with their number: they
    share their beginnings."""
    root: dict[str, Any] = {}
    alone = []
    for word in words:
        if re.fullmatch(f"[{_HAN}]", word):
            alone.append(word)
            continue
        node = root
        for char in word.casefold():
            node = node.setdefault(char, {})
        node[""] = {}
    single = [f"(?<![{_HAN}])[{''.join(alone)}](?![{_HAN}])"] if alone else []
    return re.compile("|".join(([_compile_branches(root, "")] if root else []) + single), re.I)


def _compile_branches(node: dict[str, Any], before: str) -> str:
    return "(?:" + "|".join(_compile_endings(node, before)) + ")"


def _compile_endings(node: dict[str, Any], before: str) -> Iterator[str]:
    for char in sorted(node, reverse=True):  # the end of a word comes last: longer words are tried first
        if char == "":
            yield "(?![A-Za-z0-9])" if _LETTER.fullmatch(before) else ""
        else:
            boundary = "(?<![A-Za-z0-9])" if not before and _LETTER.fullmatch(char) else ""
            rest = _compile_branches(node[char], char) if list(node[char]) != [""] or _LETTER.fullmatch(char) else ""
            yield boundary + re.escape(char) + rest
