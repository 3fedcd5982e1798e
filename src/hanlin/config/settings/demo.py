"""Settings of the demo world, the small data set that the quickstart trains on."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, setting


class DemoWorld(Settings):
    """A small closed world as raw text, conversations, preference pairs and held-out questions."""

    passages: int = setting(2000, "number of passages of raw text", "原始语料的篇数", ge=60, le=50_000)
    exchanges: int = setting(
        5000, "number of questions with answers in the conversations", "对话中的问答数", ge=200, le=200_000
    )
    english_answers: float = setting(
        0.45,
        "fraction of the Chinese questions in the conversations that are answered in English",
        "对话中以英文回答中文问题的比例",
        ge=0,
        le=1,
    )
    pairs: int = setting(900, "number of preference pairs", "偏好对的个数", ge=20, le=50_000)
    questions: int = setting(
        480,
        "number of held-out questions; there are as many development questions",
        "留出问题的个数（开发问题的个数相同）",
        ge=60,
        le=2000,
    )
