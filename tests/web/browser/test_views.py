"""Runs, data, evaluations and recipes in a real browser: what a reader does, keyboard, labels and contrast."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from hanlin.data.overlay import Overlay
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.run_record import read_run_record
from page_worlds import commit, make_small_run, metrics_text, write_rows

pytestmark = pytest.mark.web

LOOKS = [
    (locale, width, theme) for locale in ("zh-CN", "en-US") for width in (1280, 390) for theme in ("light", "dark")
]
ANSWERS = [
    {"id": f"q{n}", "topic": "places", "question": f"第{n}问？", "question_language": "zh", "answers": ["对"]}
    | {"answer": "对" if n % 3 else "错", "language": "zh", "exact": bool(n % 3), "finish": "stop", "ids": [1]}
    for n in range(12)
]


@pytest.fixture()
def world(site: Any, tiny_tokenizer: Path) -> Store:
    """The page's folder with a run of data stages, two training runs, two evaluations and a tokenizer."""
    store = make_small_run(site.folder)
    shutil.copytree(tiny_tokenizer, site.folder / "models" / "tiny")
    for run, rate in (("first", 1e-4), ("second", 3e-4)):
        files = {"metrics.jsonl": metrics_text(400, spike=77), "quality.html": "<h1>quality</h1>"}
        commit(store, "sft", "model", f"{run:0<16}", files, run_stage=(run, "tuned"), settings={"learning_rate": rate})
        rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ANSWERS)
        commit(store, "evaluate", "evaluation", f"{run:0<16}", {"answers.jsonl": rows}, run_stage=(run, "asked"))
    return store


def with_token(site: Any, path: str) -> str:
    return f"{path}#token={site.frame.start_token}"


def test_a_run_draws_its_graph_and_curves_and_a_part_closer(site: Any, world: Store) -> None:
    page = site.open("/ui/runs", wait="main table")
    page.get_by_role("link", name="first").click()
    page.locator(".picture canvas").first.wait_for()
    assert page.locator(".graph .node").count() == 2
    assert page.locator(".forgetting td").nth(2).inner_text() == "2.5 ▼"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/curves/" in request.url else None)
    page.get_by_role("button", name="last tenth").click()
    page.wait_for_function("() => document.querySelector('.u-legend') !== null")
    page.wait_for_timeout(300)
    assert any("first=360" in url for url in asked)


def test_curves_are_looked_at_closer_by_mouse_by_keys_and_by_buttons_and_whole_again(site: Any, world: Store) -> None:
    for path in ("/ui/runs/view/first", "/ui/runs/compare?run=first&run=second"):
        page = site.open(path, wait=".picture canvas")
        part = page.locator(".part")
        page.locator(".pictures").focus()
        for key, shown in (("+", "steps 100 to 300"), ("ArrowRight", "steps 150 to 350"), ("-", "steps 50 to 400")):
            page.keyboard.press(key)
            page.locator(".part", has_text=shown).wait_for()
        page.keyboard.press("0")
        page.wait_for_function("() => document.querySelector('.part').textContent === ''")
        box = page.locator(".picture .u-over").first.bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 30, steps=4)
        page.mouse.up()
        page.wait_for_function(
            "() => /^steps (19|20)\\d to (29|30)\\d$/.test(document.querySelector('.part').textContent)"
        )
        page.mouse.dblclick(box["x"] + 40, box["y"] + 40)
        page.wait_for_function("() => document.querySelector('.part').textContent === ''")
        page.get_by_role("button", name="closer").click()
        page.locator(".part", has_text="steps 100 to 300").wait_for()
        page.get_by_role("button", name="whole run").click()
        page.wait_for_function("() => document.querySelector('.part').textContent === ''")
        assert part.count() == 1


def test_runs_are_compared_once_two_are_chosen(site: Any, world: Store) -> None:
    page = site.open("/ui/runs", wait="main table")
    assert page.locator("#compare-button").is_disabled()
    page.get_by_label("compare first").check()
    page.get_by_label("compare second").check()
    page.locator("#compare-button").click()
    page.locator(".picture canvas").first.wait_for()
    assert "learning_rate" in page.locator("main").inner_text()
    titles = page.locator(".picture h3").all_inner_texts()
    assert "forgetting: loss on probes (english)" in titles and not any("probe english" in title for title in titles)


def test_the_heading_of_curves_is_one_line_on_a_phone(site: Any, world: Store) -> None:
    for path in ("/ui/runs/view/first", "/ui/runs/compare?run=first&run=second"):
        page = site.open(path, wait=".picture canvas", viewport={"width": 390, "height": 800}, locale="zh-CN")
        box = page.locator(".curves h2").first.bounding_box()
        assert box is not None and box["height"] < 40, path


def test_a_recipe_by_form_is_refused_in_the_readers_words_then_run_stopped_and_shown(site: Any, world: Store) -> None:
    """Of a recipe of data stages alone: it is started from the page, and ends by itself."""
    write_rows(site.folder / "chats.jsonl", [{"instruction": f"第{n}问？", "output": f"答{n}。"} for n in range(9)])
    (site.folder / "recipes").mkdir()
    text = (site.folder / "small.yaml").read_text(encoding="utf-8")
    (site.folder / "recipes" / "mine.yaml").write_text(text, encoding="utf-8")
    page = site.open(with_token(site, "/ui/recipes/edit/own/mine"), wait="#form details")
    page.locator("details.stage > summary", has_text="chats").first.click()
    field = page.locator('[data-path="stages.chats.validation_fraction"]')
    field.fill("0.9")
    field.blur()
    page.locator("#verdict", has_text="less than or equal to 0.5").wait_for()
    assert page.locator("#start").is_disabled()
    field = page.locator('[data-path="stages.chats.validation_fraction"]')
    field.fill("0.2")
    field.blur()
    page.locator("#verdict", has_text="The recipe is valid").wait_for()
    assert "# a comment that stays" in page.locator("#yaml").input_value()
    assert "validation_fraction: 0.2" in page.locator("#yaml").input_value()
    page.locator("#start").click()
    page.wait_for_url("**/ui/runs/view/small")
    page.locator("[data-run-state=done]").wait_for(state="attached")
    record = read_run_record(world.runs / "small")
    assert record is not None and record.outcome == "done"
    assert (site.folder / "recipes" / "mine.yaml").read_text(encoding="utf-8") != text


def test_starting_asks_for_the_token_of_the_terminal(site: Any, world: Store) -> None:
    (site.folder / "recipes").mkdir()
    shutil.copy(site.folder / "small.yaml", site.folder / "recipes" / "mine.yaml")
    page = site.open("/ui/recipes/edit/own/mine", wait="#form details")
    page.locator("#save").click()
    page.locator("dialog input").fill(site.frame.start_token)
    page.locator("dialog button.primary").click()
    page.locator(".notice", has_text="Saved").wait_for()
    site.errors.clear()  # a browser notes each refusal, and the first request is refused


def test_a_row_is_searched_shown_by_tokens_and_corrected(site: Any, world: Store) -> None:
    page = site.open("/ui/data", wait="main table")
    page.get_by_role("link", name="small / chats").click()
    page.locator("input[type=search]").fill("第3个")
    page.locator("input[type=search]").press("Enter")
    page.wait_for_url("**text=*")
    assert page.locator("ol.rows li").count() == 1
    page.locator(".rowhead a").click()
    page.get_by_role("button", name="Show tokens").click()
    page.locator(".toks .tok.assistant.learned").first.wait_for()
    assert page.locator(".toks .tok.user.learned").count() == 0
    page.locator("#correct-form summary").click()
    content = page.locator("textarea[name=content]")
    text = content.input_value()
    content.fill("{")
    page.locator("[data-action=fix]").click()
    page.locator(".notice.problem", has_text="not JSON").wait_for()
    content.fill(re.sub("第3个回答", "改过的回答", text))
    page.locator("[data-action=fix]").click()
    page.locator("p.corrected.fix").wait_for()
    (entry,) = Overlay.read(site.folder / "overlays" / "small-chats.jsonl").entries
    assert entry.row["messages"][1]["text"] == "改过的回答在这里。"
    page.get_by_role("link", name="corrections").click()
    page.locator("[data-undo]").click()
    page.locator("ol.rows li").wait_for(state="detached")
    assert Overlay.read(site.folder / "overlays" / "small-chats.jsonl").entries == ()


def test_an_evaluation_opens_down_to_its_wrong_answers_and_is_compared(site: Any, world: Store) -> None:
    page = site.open("/ui/evaluation", wait="main table")
    page.get_by_role("link", name="first / asked").click()
    page.get_by_label("wrong answers only").check()
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url("**wrong=true*")
    assert page.locator("td.problem").count() == 4 and page.locator("td.good").count() == 0
    page.goto(site.server.address + "/ui/evaluation")
    for name in ("first", "second"):
        page.get_by_label(f"compare evaluate-{name:0<16}").check()
    page.locator("#compare-button").click()
    page.get_by_text("no difference shown").first.wait_for()


def test_a_reader_without_a_mouse_reaches_a_run_and_a_row(site: Any, world: Store) -> None:
    page = site.open("/ui/data", wait="main table")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # skip to the content
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('a[href*=conversations]')"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/data/view/**")


@pytest.mark.parametrize(("locale", "width", "theme"), LOOKS)
def test_every_view_has_labels_and_contrast_and_fits_its_width(
    site: Any, world: Store, locale: str, width: int, theme: str
) -> None:
    source = Path(os.environ.get("HANLIN_AXE", ""))
    pictures = os.environ.get("HANLIN_SCREENSHOTS")
    chats = next(world.artifacts.glob("conversations-*")).name
    data = f"/ui/data/view/{chats}"
    views = {
        "start": "/ui/start",
        "runs": "/ui/runs",
        "run": "/ui/runs/view/first",
        "run-data": "/ui/runs/view/small",
        "compare": "/ui/runs/compare?run=first&run=second",
        "artifact": f"/ui/runs/artifact/{chats}",
        "data": "/ui/data",
        "rows": data,
        "dropped": f"{data}?part=dropped",
        "row": f"{data}/row?number=1&tokenizer=models/tiny",
        "ledger": f"{data}/ledger",
        "lengths": f"{data}/lengths",
        "copies": f"{data}/copies",
        "corrections": f"{data}/overlay",
        "evaluation": "/ui/evaluation",
        "report": f"/ui/evaluation/view/evaluate-{'first':0<16}",
        "recipes": "/ui/recipes",
        "form": with_token(site, "/ui/recipes/edit/shipped/quickstart"),
    }
    waits = {
        "lengths": "#token-lengths caption",
        "run": ".picture canvas",
        "compare": ".picture canvas",
        "form": "#form details",
    }
    context = {"locale": locale, "viewport": {"width": width, "height": 800}, "color_scheme": theme}
    for name, address in views.items():
        page = site.open(address, wait=waits.get(name, "main h1"), **context)
        if name == "form":
            page.locator("details.stage > summary").nth(1).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        if pictures:
            Path(pictures).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{pictures}/{name}-{locale[:2]}-{width}-{theme}.png", full_page=True)
        if source.is_file():
            page.evaluate(source.read_text(encoding="utf-8"))
            found = page.evaluate("() => axe.run().then((result) => result.violations)")
            assert [(rule["id"], node["html"][:160]) for rule in found for node in rule["nodes"]] == [], name
        page.context.close()


def test_a_run_is_stopped_from_the_page(site: Any, world: Store) -> None:
    """A process that waits stands for a run; its record is what `hanlin run` writes."""
    import subprocess
    from dataclasses import asdict

    from hanlin.core.process import process_start_time, python_command
    from hanlin.pipeline.run_record import RunRecord, RunSource

    code = "import time; print('ready', flush=True); time.sleep(600)"
    with subprocess.Popen(python_command("-c", code), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None and child.stdout.readline()
        started = process_start_time(child.pid)
        assert started is not None
        record = RunRecord(RunSource(), os.uname().nodename, child.pid, started, "2026-01-01 00:00:00")
        (world.runs / "first" / "run.json").write_text(json.dumps(asdict(record)), encoding="utf-8")
        page = site.open(with_token(site, "/ui/runs/view/first"), wait="[data-action=stop]")
        page.locator("[data-action=stop]").click()
        page.locator("dialog button.danger").click()
        page.locator(".notice", has_text="told to stop").wait_for()
        assert child.wait() == -signal.SIGTERM


def test_a_run_that_was_killed_goes_on_from_the_page_to_its_end(site: Any, world: Store) -> None:
    """Its record says that it runs, and its process is gone; a stage is lost with it."""
    write_rows(site.folder / "chats.jsonl", [{"instruction": f"第{n}问？", "output": f"答{n}。"} for n in range(9)])
    (site.folder / "recipes").mkdir()
    shutil.copy(site.folder / "small.yaml", site.folder / "recipes" / "mine.yaml")
    page = site.open(with_token(site, "/ui/recipes/edit/own/mine"), wait="#form details")
    page.locator("#verdict", has_text="The recipe is valid").wait_for()
    page.locator("#start").click()
    page.wait_for_url("**/ui/runs/view/small")
    page.locator("[data-run-state=done]").wait_for(state="attached")
    file = world.runs / "small" / "run.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**record, "outcome": "running", "finished": ""}), encoding="utf-8")
    lost = (world.runs / "small" / "chats").resolve()
    shutil.rmtree(lost)
    page = site.open(with_token(site, "/ui/runs/view/small"), wait="[data-action=resume]")
    page.locator("[data-action=resume]").click()
    page.locator("[data-run-state=done]").wait_for(state="attached")
    assert (lost / "manifest.json").is_file()


def test_an_artifact_shows_what_it_was_made_from_and_its_quality_report(site: Any, world: Store) -> None:
    page = site.open("/ui/runs/view/small", wait="main h1")
    page.locator("a[href*='/ui/runs/artifact/conversations-']").first.click()
    page.locator(".lineage li", has_text="chats.jsonl").wait_for()
    page.goto(f"{site.server.address}/ui/runs/artifact/sft-{'first':0<16}")
    page.get_by_role("link", name="report: quality").click()
    page.get_by_text("quality", exact=True).wait_for()


def test_a_part_that_is_refused_leaves_the_page_as_it_was_and_says_so(site: Any, world: Store) -> None:
    page = site.open("/ui/runs/view/first", wait=".picture canvas")
    (world.runs / "first").rename(world.runs / "moved")
    page.locator("#stale", has_text="cannot be brought up to date").wait_for()
    assert "{" not in page.locator("#run-state").inner_text() and "first" in page.locator("h1").inner_text()
    (world.runs / "moved").rename(world.runs / "first")
    page.locator("#stale").wait_for(state="hidden")
    page.route("**/state", lambda route: route.abort())
    page.locator("#stale", has_text="does not answer").wait_for()
    page.unroute("**/state")
    page.locator("#stale").wait_for(state="hidden")
    site.errors.clear()  # the browser's own lines about both
