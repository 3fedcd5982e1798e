"""The text of HTML pages."""

from __future__ import annotations

import html as entities
import re
from html.parser import HTMLParser

from hanlin.data.ledger import Drop

_PAGE = re.compile(
    r"(?>\s*<!--.*?-->)*+\s*<(?:!doctype\s+html|html|head|body|div|p|table|span|article|section)\b", re.I | re.S
)


_TAG = re.compile(
    r"</?(?:p|br|div|span|section|a|b|i|u|em|strong|table|t[rdh]|tbody|thead|col|colgroup|li|ul|ol|h[1-6]|img|font|center"
    r"|script)\b[^<>]*>",
    re.I,
)


_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|[lr]dquo|[lr]squo|middot|hellip|mdash|ndash|#\d{2,6}|#x[0-9a-f]{2,5});", re.I
)


_ON_ENTITIES = re.compile(
    r"转义|轉義|(?:字符|HTML ?)实体|实体(?:字符|引用|编码|名称)|(?:html|character) entit(?:y|ies)", re.I
)
"""Words of lessons on entities, in which &lt; means itself."""


def html(text: str) -> str | Drop:
    """Extract the text of an HTML page, and decode entities in plain text.

    Why: tags and scripts are no language. A text is a page if it begins as one, or has a common tag in every 100
    characters or a third of its characters in tags, some of them closing. Text that only mentions tags (`<p>`, or in
    ``` fences) is left alone.
    """
    if "<" not in text and "&" not in text:
        return text
    quoted = "```" in text or "`<" in text
    if not quoted and (_PAGE.match(text) or ("</" in text and _is_tagged(text))):
        return _read_page(text) or Drop("no_text", "a page without visible text")
    if quoted and "</" in text:
        return _strip_styled(text)
    if not quoted and "&" in text and _ENTITY.search(text) and not _ON_ENTITIES.search(text):
        return _ENTITY.sub(lambda match: entities.unescape(match.group()), text)
    return text


def _read_page(text: str) -> str:
    reader = _PageReader()
    reader.feed(text)
    reader.close()
    return reader.text()


def _strip_styled(text: str) -> str:
    """Extract the text around fenced code if tags with styles are a third of it, as in articles saved as Markdown."""
    parts = _FENCED.split(text)
    prose = "".join(parts[::2])
    if 3 * sum(len(match.group()) for match in _STYLED.finditer(prose)) <= len(prose):
        return text
    return "\n".join(part if index % 2 else _read_page(part) for index, part in enumerate(parts))


def _is_tagged(text: str) -> bool:
    tags = [match.group() for match in _TAG.finditer(text)]
    return len(tags) * 100 > len(text) or sum(map(len, tags)) * 3 > len(text)


_FENCED = re.compile(r"(^[ \t]*```.*?^[ \t]*```[^\n]*$)", re.S | re.M)
_STYLED = re.compile(r"<[a-z]+\s[^<>]*style=[^<>]*>", re.I)


class _PageReader(HTMLParser):
    """Collects the visible text of a page; block elements end a line."""

    hidden_tags = frozenset((
        "script", "style", "head", "noscript", "template", "svg", "iframe", "nav", "footer", "select", "button",
    ))  # fmt: skip
    block_tags = frozenset((
        "p", "div", "br", "li", "ul", "ol", "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article",
        "header", "blockquote", "pre", "dd", "dt", "dl", "hr", "form",
    ))  # fmt: skip

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.hidden_tags:
            self._hidden.append(tag)
        elif tag in self.block_tags:
            self._parts.append("\n")
        elif tag == "body":
            self._hidden.clear()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            del self._hidden[self._hidden.index(tag) :]
        elif tag in self.block_tags:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self._parts.append(data)

    def text(self) -> str:
        lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in "".join(self._parts).split("\n"))
        return "\n".join(line for line in lines if line)
