"""The chat as a reader uses it, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hanlin.chat.packaged import read_packaged_template
from hanlin.chat.template import ChatTemplate
from hanlin.inference.loading import LoadedEngine
from hanlin.serve.auth import AccessPolicy

pytestmark = pytest.mark.web


def seed(site: Any, *turns: dict[str, Any]) -> str:
    """A conversation whose turns follow one another; returns the path of its page."""
    store = site.store
    conversation, parent = store.create_conversation("", "seeded", {}), None
    for turn in turns:
        parent = store.add_message("", conversation, parent, **turn)["id"]
    return f"/ui/chat?conversation={conversation}"


def test_an_answer_streams_in_with_its_figures_and_is_there_after_a_reload(site: Any) -> None:
    page = site.open()
    site.ask(page, "你叫什么名字？", "我叫**小翰**。")
    assert page.locator(".answer strong", has_text="小翰").count() == 1
    assert "tokens" in page.locator(".figures").inner_text()
    page.reload()
    page.locator(".answer strong", has_text="小翰").wait_for()
    assert page.locator("#conversation-list .open").inner_text() == "你叫什么名字？"


def test_an_answer_can_be_stopped_and_what_came_is_kept(make_site: Callable[..., Any]) -> None:
    site = make_site(pause=0.05)
    page = site.open()
    site.script.text = "one two three four five six seven eight nine ten " * 20
    page.locator("#question").fill("Count")
    page.locator("#send").click()
    page.locator(".answer .body", has_text="one").wait_for()
    page.locator("#stop").click()
    page.locator(".who .problem", has_text="stopped").wait_for()
    kept = page.locator(".answer .body").inner_text()
    page.reload()
    page.locator(".who .problem", has_text="stopped").wait_for()
    assert page.locator(".answer .body").inner_text() == kept and kept.startswith("one")


def test_an_edited_question_and_a_new_answer_are_branches_to_go_between(site: Any) -> None:
    page = site.open()
    site.ask(page, "first question", "first answer")
    site.script.text = "another answer"
    page.get_by_role("button", name="Again").click()
    page.locator(".answer .body", has_text="another answer").wait_for()
    page.get_by_role("button", name="Branch before").click()
    page.locator(".answer .body", has_text="first answer").wait_for()
    site.script.text = "edited answer"
    page.get_by_role("button", name="Edit").click()
    page.locator(".question textarea").fill("edited question")
    page.get_by_role("button", name="Ask in a new branch").click()
    page.locator(".answer .body", has_text="edited answer").wait_for()
    page.get_by_role("button", name="Branch before").first.click()
    page.locator(".question .text", has_text="first question").wait_for()


def test_two_models_answer_one_question_side_by_side(site: Any) -> None:
    page = site.open()
    page.locator("#side-by-side").click()
    page.locator("#question").fill("compare")
    page.locator("#send").click()
    page.locator(".pair .figures").nth(1).wait_for()
    assert page.locator(".pair .who strong").all_inner_texts() == ["tiny", "tuned"]
    page.get_by_role("button", name="Go on with this one").nth(1).click()
    page.locator(".pair .chosen .who", has_text="tuned").wait_for()


def test_a_tool_call_waits_for_a_result_that_is_typed(site: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
    path = seed(
        site,
        {"role": "user", "content": "天气？"},
        {"role": "assistant", "tool_calls": [call], "model": "tiny"},
    )
    site.script.text = "晴天。"
    page = site.open(path)
    page.locator(".call pre", has_text="北京").wait_for()
    page.get_by_label("What get_weather answers").fill("晴")
    page.get_by_role("button", name="Send the results").click()
    page.locator(".answer .body", has_text="晴天。").wait_for()
    assert "晴" in site.script.prompt() and page.locator(".turn.tool .text").inner_text() == "晴"


def test_thoughts_are_folded_and_open_by_the_keyboard(site: Any) -> None:
    page = site.open(
        seed(site, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning": "想了想"})
    )
    thought = page.locator(".thought .text", has_text="想了想")
    thought.wait_for(state="attached")
    assert not thought.is_visible()
    page.locator(".thought summary").press("Enter")
    assert thought.is_visible()


def test_a_better_answer_names_its_file_and_is_in_it(site: Any) -> None:
    page = site.open()
    site.ask(page, "question", "bad answer")
    page.get_by_role("button", name="Write a better one").click()
    page.get_by_label("Your better answer").fill("better answer")
    page.get_by_role("button", name="Keep it").click()
    page.locator(".notice", has_text="ui/preferences.jsonl: 1").wait_for()
    row = json.loads((site.folder / "ui" / "preferences.jsonl").read_text(encoding="utf-8"))
    assert (row["chosen"][0]["content"], row["rejected"][0]["content"]) == ("better answer", "bad answer")


def test_the_system_text_and_a_preset_are_sent_and_come_back(site: Any) -> None:
    page = site.open()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("System text").fill("You are terse.")
    page.get_by_label("Preset").select_option(label="exact (temperature 0)")
    site.ask(page, "hello", "Yes.")
    assert "You are terse." in site.script.prompt()
    assert site.script.requests[-1].sampling.temperature == 0
    page.reload()
    page.get_by_role("button", name="Settings").click()
    page.locator(".answer").wait_for()
    assert page.get_by_label("System text").input_value() == "You are terse."


def test_a_refusal_of_the_server_stands_at_the_answer(site: Any) -> None:
    page = site.open()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Tools (JSON)").fill('[{"name": "f"}]')
    page.get_by_label("System text").fill("x" * 400_000)
    page.locator("#question").fill("hello")
    page.locator("#send").click()
    page.locator(".answer .problem[role=alert]").wait_for()
    site.errors.clear()  # the browser's own line about the status 400


def test_tools_that_are_no_json_are_said_to_be_none(site: Any) -> None:
    page = site.open()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Tools (JSON)").fill("[{")
    page.get_by_label("System text").focus()
    page.locator("#tools-problem", has_text="not JSON").wait_for()


def test_a_deleted_conversation_is_gone(site: Any) -> None:
    page = site.open()
    site.ask(page, "question", "answer")
    page.get_by_role("button", name="Delete question").click()
    page.locator("dialog").get_by_role("button", name="Delete").click()
    page.locator("#conversation-list", has_text="None yet").wait_for()
    assert site.store.list_conversations("") == []


def test_everything_can_be_done_by_the_keyboard(site: Any) -> None:
    page = site.open()
    page.locator("#question").focus()
    page.keyboard.type("typed")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("line two")
    page.keyboard.press("Enter")
    page.locator(".answer .figures").wait_for()
    assert page.locator(".question .text").inner_text() == "typed\nline two"
    reached = set()
    page.locator("body").press("Tab")
    for _ in range(60):
        reached.add(page.evaluate("() => document.activeElement.textContent.trim() || document.activeElement.id"))
        page.keyboard.press("Tab")
    assert {"Copy", "Edit", "Again", "Write a better one", "question", "New conversation", "中文"} <= reached


def test_the_switches_of_language_and_theme_stay(site: Any) -> None:
    page = site.open()
    page.locator("#language-switch").click()
    page.get_by_role("button", name="新对话").wait_for()
    page.locator("#theme-switch").click()
    theme = page.locator("html").get_attribute("data-theme")
    page.reload()
    page.get_by_role("button", name="新对话").wait_for()
    assert page.locator("html").get_attribute("data-theme") == theme == "dark"


def test_the_address_of_the_terminal_hands_over_the_token_and_shows_it_no_longer(site: Any) -> None:
    page = site.open(f"/ui/chat#token={site.frame.start_token}")
    assert site.frame.start_token not in page.url
    assert page.evaluate("() => sessionStorage.getItem('hanlin-start-token')") == site.frame.start_token


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(site: Any, width: int) -> None:
    wide = "| " + " | ".join(f"column {number}" for number in range(30)) + " |\n" + "|---" * 30 + "|\n"
    path = seed(
        site,
        {"role": "user", "content": "字" * 500 + "x" * 500},
        {"role": "assistant", "content": wide + "\n```\n" + "y" * 400 + "\n```\n" + "z" * 400, "model": "m" * 100},
    )
    page = site.open(path, viewport={"width": width, "height": 800})
    page.locator(".answer table").wait_for()
    sizes = page.evaluate(
        """() => {
            const turns = document.querySelector(".turns");
            return [document.documentElement.scrollWidth, turns.scrollWidth, turns.clientWidth];
        }"""
    )
    assert sizes[0] <= width and sizes[1] <= sizes[2]


def test_thinking_is_switched_and_what_was_thought_is_folded(
    make_site: Callable[..., Any], opened: LoadedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate(read_packaged_template("qwen3"), opened.tokenizer, "qwen3")
    monkeypatch.setattr(LoadedEngine, "load_template", lambda _: template)
    site = make_site()
    page = site.open()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Thinking").select_option("off")
    site.ask(page, "quick", "No thoughts.")
    assert site.script.prompt().rstrip().endswith("</think>")
    page.get_by_label("Thinking").select_option("on")
    site.ask(page, "slow", "<think>\nLet me see.\n</think>\n\nAn answer.")
    assert "</think>" not in site.script.prompt().rpartition("slow")[2]
    answer = page.locator(".turn.answer").nth(1)
    assert answer.locator(".body").inner_text() == "An answer."
    assert (answer.locator(".thought .text").text_content() or "").strip() == "Let me see."
    assert not answer.locator(".thought .text").is_visible()


class Loader:
    """Notes what it is asked to load."""

    def __init__(self) -> None:
        self.states: list[Any] = []
        self.asked: list[str] = []

    def load(self, spec: str) -> None:
        self.asked.append(spec)


def test_the_first_visit_shows_the_models_of_the_folder_and_loading_asks_for_the_token(
    make_site: Callable[..., Any],
) -> None:
    site, loader = make_site(names=()), Loader()
    site.frame.services["loader"] = loader
    (site.folder / "model.gguf").touch()
    page = site.open(wait="")
    page.get_by_role("button", name="Load model.gguf").click()
    page.get_by_label("Token", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_label("Token", exact=True).fill(site.frame.start_token)
    assert loader.asked == []
    with page.expect_response(lambda response: response.status == 200 and response.request.method == "POST"):
        page.keyboard.press("Enter")
    assert loader.asked == [str(site.folder.resolve() / "model.gguf")]


def test_with_a_key_the_page_asks_for_it_and_then_chats(make_site: Callable[..., Any]) -> None:
    site = make_site(policy=AccessPolicy(api_keys=("secret",)))
    page = site.open(wait="#login")
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    page.locator(".problem", has_text="API key").wait_for()
    page.get_by_label("Key", exact=True).fill("secret")
    page.keyboard.press("Enter")
    page.locator("#model option").first.wait_for(state="attached")
    site.ask(page, "hello", "Hello, holder of a key.")
    assert page.locator(".answer .body").inner_text() == "Hello, holder of a key."
    assert site.store.list_conversations("") == []


def test_training_data_is_written_from_the_page_and_can_be_saved(site: Any) -> None:
    page = site.open()
    site.ask(page, "question", "answer")
    page.locator(".export summary").click()
    page.get_by_role("button", name="Write the files").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Save a copy").first.click()
    row = json.loads((site.folder / "ui" / "conversations.jsonl").read_text(encoding="utf-8"))
    assert [turn["content"] for turn in row["messages"]] == ["question", "answer"]
    assert json.loads(download.value.path().read_text(encoding="utf-8")) == row
