"""A first visit in a real browser, short enough for the default suite; skipped without Chromium or Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hanlin.pipeline.artifacts import Store
from page_worlds import commit


def test_a_newcomer_is_one_click_away_from_the_demos_model_and_asks_it(
    make_site: Callable[..., Any], tiny_model: Path
) -> None:
    site = make_site(names=(), loads=True)
    artifact = commit(Store(site.folder), "merge", "model", "0" * 16, {}, run_stage=("quickstart", "merged"))
    shutil.copytree(tiny_model, artifact, dirs_exist_ok=True)
    page = site.open(f"/ui/#token={site.frame.start_token}", wait=".demo button")
    assert page.url.endswith("/ui/start")
    page.locator(".demo button").click()
    page.wait_for_url("**/ui/chat?model=quickstart")
    page.wait_for_function("() => document.getElementById('model').value === 'quickstart'")
    page.locator("[data-opens=settings]").click()
    page.locator("#sampling-max_tokens").fill("8")
    page.locator("#sampling-max_tokens").press("Tab")
    page.locator("#question").fill("你叫什么名字？")
    page.locator("#question").press("Enter")
    page.locator(".turn.answer .figures", has_text="tokens").wait_for()
    page.reload()
    page.locator(".turn.answer").wait_for()
    assert "你叫什么名字？" in page.locator(".turn.question").inner_text()
    assert (site.foreign, site.errors) == ([], [])
