"""Each view in both languages, wide and on a phone, light and dark: labels, contrast, and pictures to look at."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.web

LOOKS = [
    (locale, width, theme) for locale in ("zh-CN", "en-US") for width in (1280, 390) for theme in ("light", "dark")
]


def fill(site: Any) -> str:
    store = site.store
    conversation = store.create_conversation("", "翰林院在哪里？", {"system": "你是小翰。"})
    asked = store.add_message("", conversation, None, role="user", content="翰林院在哪里？请列表说明。")["id"]
    table = "| 时间 | 事 |\n|---|---|\n| 春天 | 院子里开满了花 |"
    text = f"翰林院在**城东**：\n\n{table}\n\n```python\nprint('你好')\n```\n\n$$E = mc^2$$"
    stats = {"prompt_tokens": 42, "completion_tokens": 96, "tokens_per_second": 31.4, "first_seconds": 0.21}
    answer = store.add_message(
        "", conversation, asked, role="assistant", content=text, reasoning="先想一想。", model="tuned", stats=stats
    )
    asked = store.add_message("", conversation, answer["id"], role="user", content="开什么花？")["id"]
    first = None
    for model, content in (("tiny", "桃花。"), ("tuned", "桃花和**杏花**。")):
        request = {"pair": "p"}
        added = store.add_message(
            "", conversation, asked, role="assistant", content=content, model=model, stats=stats, request=request
        )
        first = first or added["id"]
    store.update_conversation("", conversation, leaf=first)
    store.create_conversation("", "Write a poem about spring", {})
    return f"/ui/chat?conversation={conversation}"


@pytest.mark.parametrize(("locale", "width", "theme"), LOOKS)
def test_a_view_has_labels_and_contrast(site: Any, locale: str, width: int, theme: str) -> None:
    path = fill(site)
    source = Path(os.environ.get("HANLIN_AXE", ""))
    pictures = os.environ.get("HANLIN_SCREENSHOTS")
    if not source.is_file() and not pictures:
        pytest.skip("axe-core is not here (HANLIN_AXE names axe.min.js; make test-web fetches it)")
    context = {"locale": locale, "viewport": {"width": width, "height": 800}, "color_scheme": theme}
    views = (
        ("chat", path, ".answer math"),
        ("settings", path, ".answer math"),
        ("empty", "/ui/chat", ".empty"),
        ("login", "/ui/login", "#login"),
    )
    for name, address, wait in views:
        page = site.open(address, wait=wait, **context)
        if name == "settings":
            page.locator("[data-opens=settings]").click()
            page.locator("#settings").wait_for()
        if pictures:
            Path(pictures).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{pictures}/{name}-{locale[:2]}-{width}-{theme}.png")
        if source.is_file():
            page.evaluate(source.read_text(encoding="utf-8"))
            found = page.evaluate("() => axe.run().then((result) => result.violations)")
            assert [(rule["id"], node["html"][:160]) for rule in found for node in rule["nodes"]] == [], name
        page.context.close()
