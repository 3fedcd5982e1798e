"""A streamed request that waits for its turn is told its place, if it asks for it."""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx

from hanlin.inference.loading import LoadedEngine
from hanlin.serve.admission import Limits
from live_server import run_server

BODY: dict[str, Any] = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "你叫什么名字？"}]}


def test_who_waits_is_told_the_place_and_each_step_ahead_and_others_are_not(opened: LoadedEngine) -> None:
    texts: dict[int, str] = {}
    released = threading.Event()

    def ask(number: int) -> None:
        headers = {"X-Hanlin-Queue": "1"} if number else {}
        with httpx.stream("POST", server.address + path, json=BODY, headers=headers, timeout=300) as response:
            texts[number] = ""
            for text in response.iter_text():
                texts[number] += text

    path = "/v1/chat/completions"
    with run_server(opened, pause=lambda: released.wait(300), limits=Limits(parallel=1)) as server:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for number, thread in enumerate(threads):
            thread.start()
            while server.served_models[0].queue.waiting + server.served_models[0].queue.running <= number:
                released.wait(0.01)
        while any(f": waiting {number}" not in texts.get(number, "") for number in (1, 2, 3)):
            released.wait(0.01)
        released.set()
        for thread in threads:
            thread.join(300)
    told = {number: [int(place) for place in re.findall(r"^: waiting (\d+)$", texts[number], re.M)] for number in texts}
    assert told[0] == [] and [told[number][0] for number in (1, 2, 3)] == [1, 2, 3]
    assert all(places == sorted(places, reverse=True) for places in told.values())
    assert all("delta" in text and text.endswith("data: [DONE]\n\n") for text in texts.values())
