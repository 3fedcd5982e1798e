"""A server with OpenAI's chat API that answers what a script says, on a loopback port for the time of a test."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Script = Callable[[dict[str, Any]], tuple[str, str]]
"""Takes the body of a request; returns the answer and its finish reason. What it raises breaks the connection off."""


class ChatServerDouble:
    """The address of the server, and the bodies that it was sent."""

    def __init__(self, script: Script) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        double = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                double._send(self, json.dumps({"data": [{"id": "scripted"}]}).encode(), "application/json")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                double.requests.append(body)
                double.keys.append(self.headers.get("Authorization", ""))
                try:
                    text, finish = script(body)
                except ConnectionError:
                    self.close_connection = True
                    return
                events = [{"delta": {"content": text}, "finish_reason": None}, {"delta": {}, "finish_reason": finish}]
                rows = [{"choices": [event]} for event in events]
                rows[-1]["usage"] = {"total_tokens": 12, "completion_tokens": 7}  # type: ignore[assignment]
                data = "".join(f"data: {json.dumps(row)}\n\n" for row in rows) + "data: [DONE]\n\n"
                double._send(self, data.encode(), "text/event-stream")

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, data: bytes, kind: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@contextmanager
def chat_server(script: Script) -> Iterator[ChatServerDouble]:
    """A running server."""
    double = ChatServerDouble(script)
    try:
        yield double
    finally:
        double.close()
