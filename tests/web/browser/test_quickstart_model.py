"""The model that the quickstart made answers in a real browser; skipped where `make demo` has not been run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.pipeline.artifacts import Store
from page_worlds import commit

pytestmark = pytest.mark.web
MERGED = Path(os.environ.get("HANLIN_QUICKSTART", Path(__file__).parents[3] / "runs" / "quickstart" / "merged"))


@pytest.mark.skipif(
    not (MERGED / "config.json").is_file(), reason=f"no model of the quickstart at {MERGED} (make demo)"
)
def test_the_quickstarts_model_streams_what_it_learned_and_stops(make_site: Callable[..., Any]) -> None:
    site = make_site(names=(), loads=True)
    artifact = commit(Store(site.folder), "merge", "model", "0" * 16, {}, run_stage=("quickstart", "merged"))
    shutil.copytree(MERGED, artifact, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    page = site.open(f"/ui/#token={site.frame.start_token}", wait=".demo button")
    page.locator(".demo button").click()
    page.wait_for_url("**/ui/chat?model=quickstart")
    page.wait_for_function("() => document.getElementById('model').value === 'quickstart'")
    page.locator("#question").fill("你叫什么名字？")
    page.locator("#question").press("Enter")
    page.locator(".turn.answer .figures", has_text="tokens").wait_for()
    assert "翰" in page.locator(".turn.answer").inner_text()
    page.reload()
    page.locator(".turn.answer", has_text="翰").wait_for()
    assert not site.foreign and not site.errors
