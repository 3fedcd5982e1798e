"""Settings of the demo world, the small data set that the quickstart trains on."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, setting


class DemoWorld(Settings):
    """A small closed world as raw text, conversations, preference pairs and held-out questions."""

    passages: int = setting(2000, "number of passages of raw text", ge=60, le=50_000)
    exchanges: int = setting(5000, "number of questions with answers in the conversations", ge=200, le=200_000)
    english_answers: float = setting(
        0.45,
        "fraction of the Chinese questions in the conversations that are answered in English",
        ge=0,
        le=1,
    )
    pairs: int = setting(900, "number of preference pairs", ge=20, le=50_000)
    questions: int = setting(
        480,
        "number of held-out questions; there are as many development questions",
        ge=60,
        le=2000,
    )
