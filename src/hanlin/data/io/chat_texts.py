"""Texts that hold questions and answers or chats in a layout of their own, named for what they are with the way out.

Read as text, their marks would be learned. `format: text` reads them so all the same.
"""

from __future__ import annotations

import re
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.i18n import mark, tr

_YAML_SUFFIXES = (".yml", ".yaml")
_YAML_ROWS = re.compile(
    r"^\s*(?:-\s+)?(?:question|answer|questions|answers|q|a|prompt|response|instruction|output|messages|conversations|role"
    r"|user|assistant|问题|回答|问|答)\s*:",
    re.M | re.I,
)
_TO_JSON = (
    "python -c 'import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin){rows}, sys.stdout)' < in.yaml > out.json"
)
_CHATTERBOT = re.compile(r"^conversations:\s*\n\s*-\s+- ", re.M)
_TO_PAIRS = r"(printf 'prompt\tresponse\n'; sed -n 's/^M //p' in.conv | paste - -) > out.tsv"
_TIME = r"\d{1,2}:\d{2}(?::\d{2})?(?:\s?[AaPp]\.?[Mm]\.?)?"
_DATE = r"\[?(?:\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}),?\s+(?:[上下]午|周.|星期.)?\s?"
_SPOKEN_LINE = re.compile(rf"^{_DATE}{_TIME}\]?\s*(?:-\s+)?[^\n:：]{{1,40}}[:：]\s", re.M)
"""A line of WhatsApp or LINE: date, time, name and what is said."""
_SPEAKER_LINE = re.compile(
    rf"^(?:{_DATE}{_TIME}[ \t]+\S[^\n。！？]{{0,40}}|\S[^\n。！？]{{0,40}}[ \t]+{_DATE}{_TIME})[ \t]*$", re.M
)
"""A line of QQ or WeChat above what is said: date, time and name, or name, date and time."""
YAML = mark("these are questions with answers, or chats, in YAML")
XIAOHUANGJI = mark("these are chats of lines that begin with M, each chat behind a line E, as in xiaohuangji")
SPOKEN_LINES = mark("this is what people wrote to each other in a messenger, without a user and an assistant")
_MIN_LINES = 4


def refuse_chat_text(path: Path, head: str, suffix: str) -> None:
    """Raise UserError if a text holds questions and answers or chats in a layout that is not read.

    Args:
        path: The file.
        head: Its first characters.
        suffix: Its suffix, in lower case.
    """
    found: tuple[str, str] | None = None
    if suffix in _YAML_SUFFIXES:
        rows = '["conversations"]' if _CHATTERBOT.search(head) else ""
        if rows or len(_YAML_ROWS.findall(head)) > 1:
            command = f"`{_TO_JSON.format(rows=rows)}`"
            found = (tr(YAML), tr("write them as JSON, such as with {command}", command=command))
    else:
        lines = [line for line in head.split("\n")[:2000] if line.strip()]
        if _is_xiaohuangji(lines):
            found = (tr(XIAOHUANGJI), tr("write them as a table, such as with {command}", command=f"`{_TO_PAIRS}`"))
        elif _is_spoken(lines):
            hint = tr(
                "write the messages of a conversation into one row: {example}",
                example='{"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}]}',
            )
            found = (tr(SPOKEN_LINES), hint)
    if found is not None:
        raise UserError(found[0], path, tr("{hint}; to read it as text, set `format` to text", hint=found[1]))


def _is_xiaohuangji(lines: list[str]) -> bool:
    spoken = sum(line.startswith("M ") for line in lines)
    ends = sum(line.strip() == "E" for line in lines)
    return ends > 1 and spoken >= _MIN_LINES and spoken + ends >= 0.9 * len(lines)


def _is_spoken(lines: list[str]) -> bool:
    if len(lines) < _MIN_LINES:
        return False
    text = "\n".join(lines)
    spoken = len(_SPOKEN_LINE.findall(text))
    if spoken >= max(_MIN_LINES, 0.6 * len(lines)):
        return True
    speakers = _SPEAKER_LINE.findall(text)
    return len(speakers) >= max(_MIN_LINES, 0.25 * len(lines))
