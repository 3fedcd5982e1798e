"""What arrives late, twice or halved: nothing that a reader wrote or was answered is lost by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from hanlin.data.overlay import Overlay
from page_worlds import commit, make_small_run, metrics_text, write_rows

pytestmark = pytest.mark.web

DELAY = """
const real = window.fetch;
window.fetch = async (address, options = {}) => {
  const isOf = (part) => part && String(options.body).includes(part);
  const method = options.method ?? "GET";
  const isSlow = (row) => row[0] === method && String(address).includes(row[1]) && !isOf(row[2]);
  const delay = window.delays?.find(isSlow);
  if (delay) await new Promise((resolve) => setTimeout(resolve, delay[3]));
  return real(address, options);
};
"""


def open_slow(site: Any, path: str, delays: list[list[Any]], **options: Any) -> Any:
    """A page some of whose requests are on their way for a while: `[method, part of the address, but not with, ms]`."""
    page = site.open("/ui/login", wait="")
    page.context.add_init_script(f"window.delays = {json.dumps(delays)};{DELAY}")
    page.goto(site.server.address + path)
    page.locator(options.get("wait", "#model option")).first.wait_for(state="attached")
    return page


def test_a_question_whose_title_would_end_in_half_a_character_is_asked_and_stored(site: Any) -> None:
    page = site.open()
    site.ask(page, "字" * 59 + "😀后面还有", "Yes.")
    (row,) = site.store.list_conversations("")
    assert row["title"] == "字" * 59 + "😀"


def test_an_answer_that_grew_is_never_stored_over_the_whole_one(make_site: Callable[..., Any]) -> None:
    site = make_site(pause=0.02)
    page = open_slow(site, "/ui/chat", [["PATCH", "/ui/chat/messages/", '"state"', 3000]])
    site.script.text = "one two three four five six seven eight nine ten " * 12 + "END"
    page.locator("#question").fill("Count")
    page.locator("#question").press("Enter")
    page.locator(".turn.answer .figures").wait_for(timeout=120_000)
    page.wait_for_timeout(4000)
    (conversation,) = site.store.list_conversations("")
    answer = site.store.read_conversation("", conversation["id"])["messages"][1]
    assert answer["state"] == "done" and answer["content"].endswith("END")


def test_the_conversation_that_was_opened_last_is_shown_whichever_comes_first(site: Any) -> None:
    store = site.store
    ids = [store.create_conversation("", title, {}) for title in ("slow", "quick")]
    for conversation, text in zip(ids, ("of the slow one", "of the quick one"), strict=True):
        store.add_message("", conversation, None, role="user", content=text)
    page = open_slow(site, "/ui/chat", [["GET", f"/conversations/{ids[0]}", "", 1500]])
    page.get_by_role("button", name="slow", exact=True).click()
    page.get_by_role("button", name="quick", exact=True).click()
    page.locator(".question .text", has_text="of the quick one").wait_for()
    page.wait_for_timeout(2500)
    assert page.locator(".question .text").all_inner_texts() == ["of the quick one"] and ids[1] in page.url


def test_the_enter_that_chooses_a_word_in_safari_sends_nothing(site: Any) -> None:
    page = site.open()
    page.locator("#question").fill("你好")
    key = "{key: 'Enter', keyCode: 229, cancelable: true, bubbles: true}"
    page.locator("#question").evaluate(f"box => box.dispatchEvent(new KeyboardEvent('keydown', {key}))")
    page.wait_for_timeout(300)
    assert page.locator(".turn").count() == 0 and page.locator("#question").input_value() == "你好"


def test_a_conversation_goes_on_after_a_call_that_was_cut(site: Any) -> None:
    store = site.store
    conversation = store.create_conversation("", "cut", {})
    asked = store.add_message("", conversation, None, role="user", content="weather?")
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北'}}
    store.add_message(
        "", conversation, asked["id"], role="assistant", content="Let me see.", tool_calls=[call], state="cut"
    )
    page = site.open(f"/ui/chat?conversation={conversation}")
    page.locator(".answer .call", has_text="get_weather").wait_for()
    assert page.get_by_role("button", name="Send the results").count() == 0
    site.ask(page, "and now?", "It is sunny.")
    assert "Let me see." in site.script.prompt() and "get_weather" not in site.script.prompt()


def test_a_recipe_that_is_started_at_once_has_the_change_that_was_just_made(site: Any) -> None:
    make_small_run(site.folder)
    write_rows(site.folder / "chats.jsonl", [{"instruction": f"第{n}问？", "output": f"答{n}。"} for n in range(9)])
    (site.folder / "recipes").mkdir()
    mine = site.folder / "recipes" / "mine.yaml"
    shutil.copy(site.folder / "small.yaml", mine)
    path = f"/ui/recipes/edit/own/mine#token={site.frame.start_token}"
    page = open_slow(site, path, [["POST", "/ui/recipes/check", "", 1200]], wait="#form details")
    for summary in page.locator("details.stage > summary").all():
        summary.click()
    page.locator('[data-path="stages.chats.validation_fraction"]').fill("0.2")
    page.locator('[data-path="stages.text.validation_fraction"]').fill("0.3")
    page.locator("#save").click()
    page.locator(".notice", has_text="Saved").wait_for()
    text = mine.read_text(encoding="utf-8")
    assert "validation_fraction: 0.2" in text and "validation_fraction: 0.3" in text
    page.locator('[data-path="stages.chats.validation_fraction"]').fill("0.9")
    page.locator("#start").click()
    page.locator(".notice.problem", has_text="less than or equal to 0.5").wait_for()
    assert mine.read_text(encoding="utf-8") == text and "/ui/recipes/" in page.url


def test_a_row_that_is_fixed_keeps_the_numbers_that_a_script_would_round(site: Any) -> None:
    turns = [{"role": "user", "text": "查一下"}, {"role": "assistant", "text": "好。"}]
    turns[1]["tool_calls"] = [{"name": "f", "arguments": {"card": 110105199003071234, "price": 1.0}}]  # type: ignore[assignment]
    row = json.dumps({"id": "a#1", "messages": turns}, ensure_ascii=False)
    store = make_small_run(site.folder)
    folder = commit(store, "conversations", "conversations", "0" * 16, {"conversations.jsonl": row + "\n"})
    page = site.open(f"/ui/data/view/{folder.name}/row?number=0", wait="#correct-form")
    page.locator("#correct-form summary").click()
    content = page.locator("textarea[name=content]")
    content.fill(content.input_value().replace("好。", "好的。"))
    page.locator("[data-action=fix]").click()
    page.locator("p.corrected.fix").wait_for()
    (file,) = (site.folder / "overlays").glob("*.jsonl")
    (entry,) = Overlay.read(file).entries
    arguments = entry.row["messages"][1]["tool_calls"][0]["arguments"]
    assert (arguments["card"], repr(arguments["price"])) == (110105199003071234, "1.0")


def test_a_loss_that_was_no_number_is_told_beside_its_curve(site: Any) -> None:
    store = make_small_run(site.folder)
    text = metrics_text(40).replace('"step": 31, "loss": 0.0967741935483871', '"step": 31, "loss": NaN')
    assert "NaN" in text
    commit(store, "sft", "model", "0" * 16, {"metrics.jsonl": text}, run_stage=("broken", "tuned"), settings={})
    page = site.open("/ui/runs/view/broken", wait="section.curves")
    page.locator(".pictures .broken", has_text="loss: not a finite number at step 31").wait_for()
    assert page.locator(".pictures .uplot").count() > 0
