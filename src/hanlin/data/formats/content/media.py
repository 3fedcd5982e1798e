"""Pictures, sound and video: fields, typed parts and placeholders that stand for them, which no text model can read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from hanlin.core.records import Message
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

MEDIA_FIELDS = frozenset(
    (
        *("image", "images", "image_path", "image_paths", "image_url", "image_urls", "img", "img_path", "picture"),
        *("pictures", "video", "videos", "video_path", "audio", "audios", "audio_path", "speech", "图片"),
    )
)
"""Fields of a row that hold files other than text."""
MEDIA_PARTS = frozenset(
    (
        *("image", "images", "image_url", "input_image", "img", "picture", "video", "video_url", "input_video"),
        *("audio", "audio_url", "input_audio", "speech", "file", "input_file", "document"),
    )
)
"""Types of typed parts that hold files other than text."""

_WORD = r"(?:image|img|picture|video|audio|speech|sound)"
_PLACEHOLDER = compile_on_use(
    rf"<__dj__{_WORD}>|<\|(?:{_WORD}|vision_start|image_pad|video_pad|audio_bos|AUDIO)(?:[_-]?\w+)?\|>"
    rf"|<(?:image|picture|video|audio|speech)(?:[_ -]?\d+|_placeholder|_here)?>"
    r"|<ImageHere>|<(img|audio)>[^<>\n]{1,300}\.(?:jpe?g|png|webp|gif|bmp|wav|mp3|flac|ogg|m4a|mp4)[^<>\n]*</\1>"
    r"|(?<![=(:]['\"])(?<!url\()data:(?:image|video|audio)/[\w.+-]+;base64,"
    r"|<(?:图片|图像|照片|视频|音频|语音)\d*>|[\[【](?:图片|图像|照片|圖片|image|images|img|picture)[ _-]?\d*[\]】]"
    r"|[\[【](?:视频|语音|音频|video|audio)[ _-]?\d*[\]】](?=[ \t]*(?:\n|\Z))",
    re.I,
)
_WORDS = (
    *(
        "image",
        "Image",
        "IMAGE",
        "img",
        "IMG",
        "video",
        "Video",
        "VIDEO",
        "audio",
        "Audio",
        "AUDIO",
        "vision",
        "base64",
    ),
    *("speech", "picture", "Picture", "图", "圖", "照片", "视频", "语音", "音频"),
)
"""One of these is in every placeholder."""
_CODE = compile_on_use(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_ABOUT_MARKUP = compile_on_use(
    r"\s*[”\"'’」』》）)]*\s*(?:标签|标记|元素|控件|占位符|tags?\b|elements?\b|placeholders?\b|token)", re.I
)


def find_media_field(row: Mapping[str, Any]) -> str | None:
    """Find a field of a row that holds a file other than text."""
    if MEDIA_FIELDS.isdisjoint(row):
        return None
    for name in row.keys() & MEDIA_FIELDS:
        value = row[name]
        if value and isinstance(value, str | list | dict | bytes):
            return name
    return None


def find_placeholder(text: str) -> str | None:
    """Find a placeholder of a picture, sound or video in a text; HTML, code and talk about tags are none."""
    if "<" not in text and "[" not in text and "【" not in text and ";base64," not in text:
        return None
    if not any(word in text for word in _WORDS) or _PLACEHOLDER.search(text) is None:
        return None
    plain = _CODE.sub("", text)
    for match in _PLACEHOLDER.finditer(plain):
        mark = match[0]
        is_tag = mark.startswith("<") and mark[1:2] not in "|" and "/" not in mark
        if is_tag and (f"</{mark[1:]}" in plain or _ABOUT_MARKUP.match(plain, match.end())):
            continue
        return mark
    return None


_MARKDOWN_PICTURE = compile_on_use(r"!\[[^\]\n]*\]\([^()\s]+\)")
_ABOUT_MARKDOWN = compile_on_use(r"markdown|语法|格式|链接|渲染|代码|文档|显示|readme|syntax|link|render|html", re.I)
_MAX_ASKED_CHARS = 60
"""A text that shows a picture and says more than this beside it is an article, not a question about the picture."""


def _find_shown_picture(text: str) -> str | None:
    """Find a picture that a question shows in Markdown, if the question says little besides."""
    plain = _CODE.sub("", text)
    match = _MARKDOWN_PICTURE.search(plain)
    rest = _MARKDOWN_PICTURE.sub("", plain).strip() if match else ""
    is_asked = match is not None and len(rest) <= _MAX_ASKED_CHARS and _ABOUT_MARKDOWN.search(rest) is None
    return match[0] if match is not None and is_asked else None


def check_media(row: Any, messages: Iterable[Message]) -> Drop | None:
    """Check that a conversation can be read as text.

    Args:
        row: The row that it was read from; its fields may hold pictures.
        messages: The turns.

    Returns:
        A Drop if the row has pictures, sound or video, or a turn a placeholder for one.
    """
    field = find_media_field(row) if isinstance(row, dict) else None
    if field is not None:
        return Drop("media", field)
    for message in messages:
        if message.role in ("user", "assistant"):
            mark = find_placeholder(message.text)
            if mark is None and message.role == "user" and "](" in message.text:
                mark = _find_shown_picture(message.text)
            if mark is not None:
                return Drop("media", mark[:40])
    return None
