"""Lark, as llguidance reads it: texts with special tokens in them, and the thought before what an answer must fit."""

from __future__ import annotations

import json
import re

from hanlin.chat.reasoning import BEGIN_TAG, END_TAG
from hanlin.serve.api.tool_calls import BEGIN_CALL, END_CALL
from hanlin.serve.grammar_worker import escape_regex
from hanlin.serve.registry import Thought
from hanlin.tokenizer.tokenizer import Tokenizer

_SPACE = r"[ \t\r\n]{0,4}"
_TAGS = (BEGIN_TAG, END_TAG, BEGIN_CALL, END_CALL, "<|python_tag|>")
"""What may mark parts of an answer, as special tokens of some tokenizers."""


class LarkSpeller:
    """Writes Lark for one tokenizer.

    Attributes:
        special_tags: The tags that are special tokens, as one symbol of Lark; empty if there are none.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = {tag: tokenizer.token_id(tag) for tag in _TAGS}
        self._ids = {tag: tag_id for tag, tag_id in ids.items() if tag_id in tokenizer.special_ids}
        self.special_tags = f"<[{','.join(map(str, self._ids.values()))}]>" if self._ids else ""

    def spell(self, text: str) -> str:
        """Symbols of Lark that are `text`; special tokens in it are the tokens."""
        parts = re.split("(" + "|".join(map(re.escape, self._ids)) + ")", text) if self._ids else [text]
        symbols = [self._spell_part(part) for part in parts if part]
        return " ".join(symbols) if symbols else '""'

    def think_rules(self) -> tuple[str, str]:
        """The rule `opening` of the tag of a thought, and the rule `thought` of what comes after it up to its end."""
        begin, end = (self._ids.get(tag) for tag in (BEGIN_TAG, END_TAG))
        opening = f"opening[lazy]: /{_SPACE}{escape_regex(BEGIN_TAG)}/"
        thought = f"thought[lazy]: /(?s:.*){escape_regex(END_TAG)}/"
        return (
            opening if begin is None else f"opening: <[{begin}]>",
            thought if end is None else f"thought: /(?s:.*)/ <[{end}]>",
        )

    def write_before(self, thought: Thought) -> str:
        """Lark of an answer with a thought before `@answer`; empty if there is none."""
        if thought == "none":
            return ""
        before = "thought SPACE" if thought == "open" else "(opening thought SPACE)?"
        rules = ["%llguidance {}", f"start: {before} @answer", *self.think_rules(), f"SPACE: /{_SPACE}/", ""]
        return "\n".join(rules)

    def _spell_part(self, part: str) -> str:
        return f"<[{self._ids[part]}]>" if part in self._ids else quote(part)


def quote(text: str) -> str:
    """A text as a literal of Lark."""
    return json.dumps(text, ensure_ascii=False)
