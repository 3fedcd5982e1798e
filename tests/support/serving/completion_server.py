"""A server with OpenAI's completions API over an engine, as vLLM has it: it scores a prompt with `echo`."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hanlin.inference.loading import LoadedEngine
from hanlin.inference.protocol import GenerationRequest, SamplingParams


class CompletionServer:
    """Answers `/v1/completions`; `can_score` is False for a server that ignores `echo`, as most do."""

    def __init__(self, loaded: LoadedEngine, can_score: bool = True, dies_after: int | None = None) -> None:
        self._loaded, self._can_score = loaded, can_score
        self.answered, self.dies_after = 0, dies_after
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                self._send(200, {"data": [{"id": "tiny"}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/completions") or "prompt" not in body:
                    self._send(404, {"error": {"message": "there is no such path"}})
                    return
                with server._lock:
                    is_dead = server.dies_after is not None and server.answered >= server.dies_after
                    reply = {} if is_dead else server._answer(body)
                    server.answered += not is_dead
                self._send(503 if is_dead else 200, reply)

            def _send(self, status: int, data: dict[str, Any]) -> None:
                content = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def _answer(self, body: dict[str, Any]) -> dict[str, Any]:
        tokenizer, engine = self._loaded.tokenizer, self._loaded.engine
        begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        ids = [*begin, *tokenizer.encode(body["prompt"])]
        sampling = SamplingParams(max_new_tokens=body["max_tokens"])
        (completion,) = engine.generate([GenerationRequest(tuple(ids), (tokenizer.eos_id or 0,), sampling)])
        text = tokenizer.decode(completion.ids)
        for stop in body.get("stop", ()):
            text = text.split(stop)[0]
        choice: dict[str, Any] = {"text": text, "logprobs": None}
        if self._can_score and body.get("echo"):
            scores = engine.score([(ids[:place], [ids[place]]) for place in range(1, len(ids))])
            values: list[float | None] = [None, *(score.logprob for score in scores)]
            # the likeliest token of a place: the prompt's own, or one that is likelier
            tops = [None, *({"x": score.logprob + (0.0 if score.greedy else 0.1)} for score in scores)]
            tokens = [tokenizer.decode([token_id], skip_special=False) for token_id in ids]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def completion_server(
    loaded: LoadedEngine, can_score: bool = True, dies_after: int | None = None
) -> Iterator[CompletionServer]:
    """A running server over an engine."""
    server = CompletionServer(loaded, can_score, dies_after)
    try:
        yield server
    finally:
        server.close()
