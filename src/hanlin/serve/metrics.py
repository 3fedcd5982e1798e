"""What a server counts, in the form that Prometheus reads: requests, tokens, places, times. Never texts or keys."""

from __future__ import annotations

from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hanlin.serve.registry import Models

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server."""

    def __init__(self, models: Models) -> None:
        self._registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self._registry, "namespace": "hanlin"}
        self._requests = Counter("requests", "requests by route and status", ["route", "status"], **kept)
        self._seconds = Histogram(
            "request_seconds", "from a request's arrival to its end", ["route"], buckets=_SECONDS, **kept
        )
        self._first = Histogram(
            "first_piece_seconds", "from a place to the first text", ["model"], buckets=_SECONDS, **kept
        )
        self._prompt = Counter("prompt_tokens", "tokens of prompts", ["model"], **kept)
        self._written = Counter("generated_tokens", "tokens generated", ["model"], **kept)
        self._answers = Counter("answers", "answers by why they ended", ["model", "finish"], **kept)
        answering = Gauge("answering", "places taken", ["model"], **kept)
        waiting = Gauge("waiting", "requests in the queue", ["model"], **kept)
        restarts = Gauge("engine_restarts", "times that an engine ended and was started again", ["model"], **kept)
        for name in models.all:  # looked up when asked: another may have taken the name
            answering.labels(name).set_function(partial(_now, models, name, "door.answering"))
            waiting.labels(name).set_function(partial(_now, models, name, "door.waiting"))
            restarts.labels(name).set_function(partial(_now, models, name, "restarts"))

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_piece(self, model: str, seconds: float) -> None:
        self._first.labels(model).observe(seconds)

    def answer(self, model: str, finish: str, tokens: int) -> None:
        self._answers.labels(model, finish).inc()
        self._written.labels(model).inc(tokens)

    def prompt(self, model: str, tokens: int) -> None:
        self._prompt.labels(model).inc(tokens)

    def text(self) -> bytes:
        return generate_latest(self._registry)


def _now(models: Models, name: str, what: str) -> int:
    served = models.all[name]
    if what == "restarts":
        return int(getattr(served.engine, "restarts", 0))
    return served.door.answering if what == "door.answering" else served.door.waiting
