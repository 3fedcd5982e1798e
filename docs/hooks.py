"""What the documentation site adds to the pages: the list of decisions, and no dead links.

Pages are read in the repository too, where they link to recipes and source files. The site has no such files, so that
a link which leaves `docs/` becomes its text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

DOCS = Path(__file__).resolve().parent


def without_outside_links(markdown: str, src_uri: str) -> str:
    """Replace each link that leads out of `docs/` to an existing file by its text.

    Args:
        markdown: the page.
        src_uri: its path below `docs/`, with forward slashes.
    """

    def text_or_link(match: re.Match[str]) -> str:
        target = match[2].partition("#")[0]
        if not target or "://" in target:
            return match[0]
        path = os.path.normpath(PurePosixPath(src_uri).parent / target)
        outside = path.startswith("..") and (DOCS / path).exists()
        return match[1] if outside else match[0]

    return re.sub(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)", text_or_link, markdown)


def list_of_decisions() -> str:
    """A Markdown list of all decisions, in order, with their titles."""
    lines = []
    for file in sorted((DOCS / "decisions").glob("[0-9]*.md")):
        title = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        lines.append(f"- [{title}]({file.name})\n")
    return "".join(lines)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs for every page before it is rendered."""
    src_uri = page.file.src_uri
    if src_uri == "decisions/index.md":
        markdown += "\n" + list_of_decisions()
    return without_outside_links(markdown, src_uri)
