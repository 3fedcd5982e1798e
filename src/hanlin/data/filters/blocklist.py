"""Blocklists of the user's own words: texts that contain them are dropped, or the words are masked.

No list is packaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hanlin.config.settings.data import Blocklist
from hanlin.core.context import Inputs
from hanlin.core.discover import read_word_list
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.data.ledger import Drop

_LETTER = re.compile("[A-Za-z0-9]")
_HAN = "\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"


def build_blocklist_rules(lists: Sequence[Blocklist], inputs: Inputs) -> list[tuple[str, Callable[[str], str | Drop]]]:
    """Build a rule on text for each blocklist, as (name, function).

    Args:
        lists: The setting `blocklists`.
        inputs: Paths of the lists, under `blocklists.<index>.path`.

    Raises:
        UserError: A file is not UTF-8 text or has no word.
    """
    rules: list[tuple[str, Callable[[str], str | Drop]]] = []
    for index, blocklist in enumerate(lists):
        words = [word for path in inputs.paths(f"blocklists.{index}.path") for word in read_blocklist(path)]
        pattern = compile_words(words)
        rules.append(
            ("blocklist", partial(apply_blocklist, pattern=pattern, action=blocklist.action, least=blocklist.least))
        )
    return rules


def apply_blocklist(text: str, pattern: re.Pattern[str], action: str, least: int) -> str | Drop:
    """Drop a text with at least `least` words of the list (each mention counts), or replace their characters by ＊.

    Letter case makes no difference. A word of Latin letters matches only as a whole word, so that `ass` is not found in
    `class`; a single Chinese character matches only without another beside it, so that 性 is not found in 可能性.
    """
    if action == "mask":
        return pattern.sub(lambda match: "＊" * len(match[0]), text)
    hits = pattern.findall(text)
    return Drop("blocklist", "、".join(sorted(set(hits))[:5])) if len(hits) >= least else text


def read_blocklist(path: Path) -> list[str]:
    """Read the words of a file (see `read_word_list`). Raises UserError if it has none."""
    words = read_word_list(path)
    if not words:
        raise UserError(tr("the blocklist has no words"), path)
    return words


def compile_words(words: Iterable[str]) -> re.Pattern[str]:
    """Compile words to a pattern that matches the longest one at each position.

    It is a trie: common prefixes are shared, so that matching time hardly grows with the number of words.
    """
    root: dict[str, Any] = {}
    single_chars = []
    for word in words:
        if re.fullmatch(f"[{_HAN}]", word):
            single_chars.append(word)
            continue
        node = root
        for char in word.casefold():
            node = node.setdefault(char, {})
        node[""] = {}
    single = [f"(?<![{_HAN}])[{''.join(single_chars)}](?![{_HAN}])"] if single_chars else []
    return re.compile("|".join(([_compile_branches(root, "")] if root else []) + single), re.I)


def _compile_branches(node: dict[str, Any], previous: str) -> str:
    return "(?:" + "|".join(_compile_endings(node, previous)) + ")"


def _compile_endings(node: dict[str, Any], previous: str) -> Iterator[str]:
    for char in sorted(node, reverse=True):  # the end of a word comes last: longer words are tried first
        if char == "":
            yield "(?![A-Za-z0-9])" if _LETTER.fullmatch(previous) else ""
        else:
            boundary = "(?<![A-Za-z0-9])" if not previous and _LETTER.fullmatch(char) else ""
            rest = _compile_branches(node[char], char) if list(node[char]) != [""] or _LETTER.fullmatch(char) else ""
            yield boundary + re.escape(char) + rest
