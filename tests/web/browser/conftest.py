"""A real browser before a real server, whose model says what a test tells it to."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from hanlin.chat.template import ChatTemplate
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.serve.admission import Limits
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.loaded_model import EngineConfig, ModelLoader
from hanlin.serve.registry import ModelRegistry
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.web.app import add_page
from hanlin.web.chat.store import ChatStore
from hanlin.web.frame import Frame
from live_server import LiveServer, run_server
from scripted_model import ScriptedModel

CHROMIUM = os.environ.get("HANLIN_CHROMIUM", "/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (make test-web)")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"there is no Chromium at {CHROMIUM} (apt install chromium, or set HANLIN_CHROMIUM)")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def opened(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedEngine]:
    """The tiny model with room for a conversation, and a chat template that has tools."""
    folder = tmp_path_factory.mktemp("page") / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}), encoding="utf-8")
    ChatTemplate.from_packaged("llama3.1", Tokenizer.load(folder)).save(folder)
    model = load_engine(folder)
    yield model
    model.engine.close()


@dataclass
class Site:
    """A page that is served: its folder, its model's script, and what browsers asked other servers for."""

    folder: Path
    frame: Frame
    script: ScriptedModel
    server: LiveServer
    browser: Any
    foreign: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    contexts: list[Any] = field(default_factory=list)

    @property
    def store(self) -> ChatStore:
        return ChatStore(self.folder / "ui" / "chats.sqlite")

    def open(self, path: str = "/ui/chat", *, wait: str = "#model option", **context: Any) -> Any:
        """A new browser window at a path, with what a reader would see in its console collected."""
        window = self.browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 800}, **context})
        self.contexts.append(window)
        page = window.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._note_console)
        page.on("request", self._note_request)
        page.goto(self.server.address + path)
        if wait:
            page.locator(wait).first.wait_for(state="attached")
        return page

    def _note_console(self, message: Any) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.server.address, "data:", "blob:")):
            self.foreign.append(request.url)

    def ask(self, page: Any, question: str, answer: str) -> None:
        """Ask a question in the page and wait for the whole answer that the model is told to give."""
        self.script.text = answer
        before = page.locator(".turn.answer .figures").count()
        page.locator("#question").fill(question)
        page.locator("#question").press("Enter")
        page.locator(".turn.answer .figures").nth(before).wait_for()


@pytest.fixture()
def make_site(browser: Any, opened: LoadedEngine, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Serve the page; pauses are in seconds before each token, `loads` lets it load models of the folder."""
    from contextlib import ExitStack

    engine_stream = opened.engine.stream
    with ExitStack() as stack:

        def make(
            pause: float = 0.0, names: tuple[str, ...] = ("tiny", "tuned"), loads: bool = False, **options: Any
        ) -> Site:
            script = ScriptedModel(opened, "Hello.")
            frames: list[Frame] = []

            def extend(app: FastAPI, models: ModelRegistry) -> None:
                frames.append(Frame(tmp_path, options.get("policy") or AccessPolicy(), models))
                if loads:
                    engine = EngineConfig("transformers", {"separate_process": False})
                    frames[0].services["loader"] = loader = ModelLoader(models, engine, Limits())
                    stack.callback(loader.close)
                add_page(app, frames[0])

            server = stack.enter_context(run_server(opened, pause=pause, names=names, extend=extend, **options))
            site = Site(tmp_path, frames[0], script, server, browser)
            stack.callback(lambda: [window.close() for window in site.contexts])
            return site

        yield make
    opened.engine.stream = engine_stream  # type: ignore[method-assign]


@pytest.fixture()
def site(make_site: Callable[..., Any]) -> Iterator[Any]:
    """The page with two models; at the end nothing was asked of another server, and no script failed."""
    served = make_site()
    yield served
    assert (served.foreign, served.errors) == ([], [])
