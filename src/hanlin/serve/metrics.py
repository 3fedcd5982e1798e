"""The server's counters in Prometheus format: requests, tokens, slots, durations. Never texts or keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hanlin.serve.registry import ModelRegistry, ServedModel

_SECONDS_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """The counters of one server; each name below is exported with the prefix `hanlin_`."""

    def __init__(self, models: ModelRegistry) -> None:
        self._registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self._registry, "namespace": "hanlin"}
        self._requests = Counter("requests", "requests by route and status", ["route", "status"], **common)
        self._request_seconds = Histogram(
            "request_duration_seconds",
            "from the arrival of a request to its end",
            ["route"],
            buckets=_SECONDS_BUCKETS,
            **common,
        )
        self._first_text_seconds = Histogram(
            "time_to_first_text_seconds",
            "from the slot that a request got to its first text",
            ["model"],
            buckets=_SECONDS_BUCKETS,
            **common,
        )
        self._prompt_tokens = Counter("prompt_tokens", "tokens of prompts", ["model"], **common)
        self._generated_tokens = Counter("generated_tokens", "tokens generated", ["model"], **common)
        self._answers = Counter("answers", "answers by why they ended", ["model", "finish_reason"], **common)
        self._running = Gauge("answers_running", "answers that are being generated", ["model"], **common)
        self._waiting = Gauge("requests_waiting", "requests in the queue", ["model"], **common)
        self._restarts = Gauge("engine_restarts", "restarts of an engine that had crashed", ["model"], **common)
        self._models = models
        self._watched: set[str] = set()

    def _watch_models(self) -> None:
        """Let the gauges follow every model that there is by now."""
        models = self._models
        for name in models.by_name.keys() - self._watched:  # looked up at each scrape: a reloaded model may have it
            self._running.labels(name).set_function(partial(_read_model, models, name, _count_running))
            self._waiting.labels(name).set_function(partial(_read_model, models, name, _count_waiting))
            self._restarts.labels(name).set_function(partial(_read_model, models, name, _count_restarts))
            self._watched.add(name)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def observe_first_text(self, model: str, seconds: float) -> None:
        self._first_text_seconds.labels(model).observe(seconds)

    def count_answer(self, model: str, finish_reason: str, tokens: int) -> None:
        self._answers.labels(model, finish_reason).inc()
        self._generated_tokens.labels(model).inc(tokens)

    def count_prompt(self, model: str, tokens: int) -> None:
        self._prompt_tokens.labels(model).inc(tokens)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        self._watch_models()
        return generate_latest(self._registry)


def _read_model(models: ModelRegistry, name: str, read: Callable[[ServedModel], int]) -> int:
    return read(models.by_name[name])


def _count_running(model: ServedModel) -> int:
    return model.queue.running


def _count_waiting(model: ServedModel) -> int:
    return model.queue.waiting


def _count_restarts(model: ServedModel) -> int:
    return int(getattr(model.engine, "restarts", 0))
