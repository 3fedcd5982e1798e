"""How fast the page is: its start, each view, what it adds to the first token, and 50 users at once.

`python bench/page.py [FOLDER [MODEL]]`: FOLDER (else HANLIN_HOME, else an empty one) is shown, MODEL (else
HANLIN_MODEL) answers; without a model the last two are left out. Views and the first token in the page are measured in
Chromium (HANLIN_CHROMIUM) through Playwright; without these they are left out. The last line is one JSON object.

- `up`: seconds from the command `hanlin ui` without a model to the first page sent.
- `views`: milliseconds from the address to the load event of each view with its content there, the median of 5.
- `first_token`: milliseconds to the first text by the plain API, by the page's own request, and from the key until the
  text is drawn; the page stores the question meanwhile.
- `users`: 50 streams at once; the longest gap between two pieces of text of one stream, how many that waited were told
  their place in the queue and within which time, and the longest time that the page took meanwhile to answer a request
  of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from command_line import existing_folder, existing_path, run_main
from servers import CONTENT, StreamedAnswer, ask_all, free_port, start_server

CHROMIUM = os.environ.get("HANLIN_CHROMIUM", "/usr/bin/chromium")
VIEWS = ("start", "chat", "runs", "data", "evaluation", "recipes")
STARTS, VISITS, ROUNDS, USERS = 5, 5, 20, 50
QUESTION = "你叫什么名字？"
MODEL = "model"
READ_FIRST = """() => new Promise((resolve) => {
  const turns = document.getElementById("turns");
  const begin = performance.now();
  const observer = new MutationObserver(() => {
    const bodies = turns.querySelectorAll(".turn.answer .body");
    if (!bodies.length || !bodies[bodies.length - 1].textContent.trim()) return;
    observer.disconnect();
    resolve(performance.now() - begin);
  });
  observer.observe(turns, { childList: true, subtree: true, characterData: true });
  document.getElementById("composer").requestSubmit();
})"""
"""Send what is typed, and return the milliseconds until the answer has text."""


def command(folder: Path, port: int, model: Path | None = None) -> list[str]:
    models = ["--model", f"{MODEL}={model}"] if model is not None else []
    return [sys.executable, "-m", "hanlin", "ui", str(folder), "--port", str(port), *models]


def measure_start(folder: Path) -> float:
    """Seconds from the command to the first page, the process and its imports included."""
    import subprocess

    port = free_port()
    begin = time.perf_counter()
    process = subprocess.Popen(command(folder, port), stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ui/", timeout=10) as response:
                    response.read()
                return time.perf_counter() - begin
            except OSError:
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def open_browser() -> Iterator[Any]:
    """A page of Chromium, or None if there is no Chromium or no Playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield None
        return
    if not Path(CHROMIUM).is_file():
        yield None
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_page()
        browser.close()


def measure_views(page: Any, address: str) -> dict[str, dict[str, float]]:
    """For each view the first visit and the median of the next ones, in milliseconds."""
    figures = {}
    for view in VIEWS:
        times = []
        for _ in range(VISITS + 1):
            page.goto("about:blank")
            begin = time.perf_counter()
            page.goto(f"{address}/ui/{view}")
            page.locator("main h1").first.wait_for(state="attached")
            times.append(1000 * (time.perf_counter() - begin))
        figures[view] = {"first": round(times[0], 1), "median": round(statistics.median(times[1:]), 1)}
    return figures


def measure_first_token(page: Any, port: int) -> dict[str, float]:
    """Median milliseconds to the first text; API and page take turns, with one prompt."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
    body |= {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 32}
    page.goto(f"http://127.0.0.1:{port}/ui/chat")
    page.wait_for_function("() => document.getElementById('model').value !== ''")
    page.locator("[data-opens=settings]").click()
    for name, value in (("temperature", "0"), ("max_tokens", "32")):
        page.locator(f"#sampling-{name}").fill(value)
        page.locator(f"#sampling-{name}").press("Tab")
    plain, drawn = [], []
    for number in range(ROUNDS + 2):
        (answer,) = ask_all(port, [body])
        page.locator("#new-conversation").click()
        page.locator("#question").fill(QUESTION)
        shown = page.evaluate(READ_FIRST)
        page.locator(".turn.answer .figures", has_text="tokens").wait_for()
        if number > 1:  # the first ones fill caches
            plain.append(1000 * answer.first)
            drawn.append(shown)
    api, whole = statistics.median(plain), statistics.median(drawn)
    stored = _read_stored_times(page)[-ROUNDS:]
    own = 1000 * statistics.median(stored)
    return {
        "api": round(api, 1),
        "page_request": round(own, 1),
        "added_to_request": round(own - api, 1),
        "page_drawn": round(whole, 1),
        "added_until_drawn": round(whole - api, 1),
    }


def _read_stored_times(page: Any) -> list[float]:
    """Seconds to the first text as the page's own requests saw them, the oldest first."""
    times: list[float] = page.evaluate(
        """async () => {
          const read = async (path) => (await fetch(path)).json();
          const { conversations } = await read("/ui/chat/conversations");
          const times = [];
          for (const { id } of conversations.reverse()) {
            const { messages } = await read(`/ui/chat/conversations/${id}`);
            times.push(...messages.map((message) => message.stats?.first_seconds).filter(Boolean));
          }
          return times;
        }"""
    )
    return times


def find_longest_gap(answer: StreamedAnswer) -> float:
    """The longest time between two pieces of text of a stream, in seconds."""
    ends = [match.end() for match in CONTENT.finditer(answer.raw)]
    arrived = [next(seconds for length, seconds in answer.times if length >= end) for end in ends]
    return max((later - earlier for earlier, later in pairwise(arrived)), default=0.0)


def find_first(answer: StreamedAnswer, sign: bytes) -> float:
    """Seconds until a sign had come in a stream that holds it."""
    end = answer.raw.index(sign) + len(sign)
    return next(seconds for length, seconds in answer.times if length >= end)


def measure_users(port: int) -> dict[str, float]:
    """Streams at once, each with a question of its own, and the page's own requests beside them."""
    bodies = [
        {"model": MODEL, "messages": [{"role": "user", "content": f"{QUESTION}（{number}）"}], "stream": True}
        | {"max_tokens": 128, "ignore_eos": True, "temperature": 1, "seed": number}
        for number in range(USERS)
    ]
    waits: list[float] = []
    ended = threading.Event()

    def visit() -> None:
        while not ended.is_set():
            begin = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ui/chat/models", timeout=60) as response:
                response.read()
            waits.append(time.perf_counter() - begin)
            ended.wait(0.1)

    thread = threading.Thread(target=visit)
    thread.start()
    try:
        answers = ask_all(port, bodies, headers="X-Hanlin-Queue: 1\r\n")
    finally:
        ended.set()
        thread.join()
    gaps = [find_longest_gap(answer) for answer in answers]
    told = [find_first(answer, b": waiting ") for answer in answers if b": waiting " in answer.raw]
    return {
        "users": USERS,
        "answered": sum(answer.status == 200 and bool(answer.finish) for answer in answers),
        "pieces": sum(answer.pieces for answer in answers),
        "seconds": round(max(answer.last for answer in answers), 2),
        "longest_wait_for_the_first": round(max(answer.first for answer in answers), 2),
        "told_their_place": len(told),
        "longest_until_told_ms": round(1000 * max(told, default=0.0), 1),
        "longest_gap_ms": round(1000 * max(gaps), 1),
        "median_of_longest_gaps_ms": round(1000 * statistics.median(gaps), 1),
        "page_longest_ms": round(1000 * max(waits), 1),
    }


def wait_for_model(port: int) -> None:
    """Wait until the model is served; `hanlin ui` loads it after it is up."""
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ui/chat/models", timeout=60) as response:
            models = json.loads(response.read())
        if models["ready"]:
            return
        if any(model["state"] == "failed" for model in models["loading"]):
            sys.exit(f"the model was not loaded: {models['loading']}")
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("home", type=existing_folder, nargs="?", default=os.environ.get("HANLIN_HOME") or None)
    parser.add_argument("model", type=existing_path, nargs="?", default=os.environ.get("HANLIN_MODEL") or None)
    arguments = parser.parse_args()
    home, model = arguments.home, arguments.model.resolve() if arguments.model else None
    result: dict[str, Any] = {"bench": "page", "load_before": os.getloadavg()[0], "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as empty, open_browser() as page:
        folder = home.resolve() if home else Path(empty)
        starts = [measure_start(Path(empty)) for _ in range(STARTS + 1)][1:]  # the first fills the file cache
        result["up"] = {"median": round(statistics.median(starts), 2), "highest": round(max(starts), 2)}
        print(f"up: {result['up']}", flush=True)
        port = free_port()
        if page is not None:
            with start_server("hanlin ui", command(folder, port), port, MODEL, "/ui/start"):
                result["views"] = measure_views(page, f"http://127.0.0.1:{port}")
            print(f"views: {result['views']}", flush=True)
        if model is not None:
            port = free_port()
            with start_server("hanlin ui", command(Path(empty), port, model), port, MODEL, "/ui/start"):
                wait_for_model(port)
                if page is not None:
                    result["first_token"] = measure_first_token(page, port)
                    print(f"first token: {result['first_token']}", flush=True)
                ask_all(port, [{"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": True}])
                result["users"] = measure_users(port)
    result["load_after"] = os.getloadavg()[0]
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
