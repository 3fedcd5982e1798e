"""The chat and its server: a queue, a slow or full disk, a session that ends, a server that is started anew."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hanlin.serve.admission import Limits
from hanlin.serve.auth import AccessPolicy

pytestmark = pytest.mark.web


def ask(page: Any, question: str) -> None:
    page.locator("#question").fill(question)
    page.locator("#question").press("Enter")


def test_a_reader_who_waits_is_told_the_place_in_the_queue(make_site: Callable[..., Any]) -> None:
    released = threading.Event()
    site = make_site(pause=lambda: released.wait(300), limits=Limits(parallel=1))
    first, second = site.open(), site.open()
    ask(first, "first")
    first.locator(".turn.answer.writing").wait_for()
    while not any(model.queue.running for model in site.server.served_models):
        released.wait(0.01)
    ask(second, "second")
    second.locator(".waiting", has_text="place 1 in the queue").wait_for()
    assert not first.locator(".waiting").is_visible()
    released.set()
    second.locator(".turn.answer .figures").wait_for()
    assert not second.locator(".waiting").is_visible()


def test_an_answer_is_drawn_before_the_question_is_stored(site: Any) -> None:
    page = site.open()
    site.script.text = "At once."
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/messages", hold)
    ask(page, "quick")
    page.locator(".turn.answer .body", has_text="At once.").wait_for()
    assert len(held) == 1 and site.store.list_conversations("") == []
    held[0].continue_()
    page.unroute("**/messages")
    page.locator(".turn.answer .figures").wait_for()
    page.reload()
    page.locator(".turn.answer .body", has_text="At once.").wait_for()
    assert page.locator(".turn.question .text").inner_text() == "quick"


def test_a_question_that_cannot_be_stored_comes_back_into_its_field(site: Any) -> None:
    page = site.open()
    refusal = {"error": {"message": "the disk is full", "code": None}}
    page.route("**/messages", lambda route: route.fulfill(status=500, json=refusal))
    ask(page, "kept")
    page.locator(".notice.problem", has_text="the disk is full").wait_for()
    page.wait_for_function("() => document.getElementById('question').value === 'kept'")
    assert page.locator(".turn").count() == 0 and not page.url.partition("?")[2]
    page.unroute("**/messages")
    site.ask(page, "kept", "Now it is.")
    assert page.locator(".turn.question").count() == 1
    site.errors.clear()  # the browser's own line about the status 500


def test_one_conversation_is_saved_as_markdown_and_as_training_data(site: Any) -> None:
    page = site.open()
    page.locator(".export summary").click()
    assert page.locator("#save-markdown").is_disabled()
    site.ask(page, "天气如何？", "**晴**")
    saved = {}
    for button in ("#save-markdown", "#save-jsonl"):
        with page.expect_download() as download:
            page.locator(button).click()
        saved[download.value.suggested_filename] = download.value.path().read_text(encoding="utf-8")
    assert saved["天气如何.md"].startswith("# 天气如何？\n\n## You\n\n天气如何？\n\n## tiny\n\n**晴**")
    assert '"content": "**晴**"' in saved["天气如何.jsonl"]


def test_logging_out_ends_the_session_in_every_tab_and_no_tab_holds_the_key(make_site: Callable[..., Any]) -> None:
    site = make_site(policy=AccessPolicy(api_keys=("secret",)))
    page = site.open(wait="#login")
    page.get_by_label("Key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    page.locator("#model option").first.wait_for(state="attached")
    other = page.context.new_page()
    other.goto(site.server.address + "/ui/chat")
    other.locator("#model option").first.wait_for(state="attached")
    site.ask(other, "hello", "The other tab needs no key.")
    assert not page.evaluate("() => JSON.stringify({ ...sessionStorage, ...localStorage })").count("secret")
    page.get_by_role("button", name="Log out").click()
    page.locator("#login").wait_for()
    other.locator("#login").wait_for()
    other.goto(site.server.address + "/ui/chat")
    other.locator("#login").wait_for()


def test_a_page_that_stayed_open_over_a_new_start_of_the_server_goes_on(site: Any) -> None:
    page = site.open()
    site.frame.page_token = "of-the-new-server"
    site.ask(page, "hello", "Still here.")
    assert page.locator(".turn.answer .body").inner_text() == "Still here."
    site.errors.clear()  # the browser's own line about the status 403
