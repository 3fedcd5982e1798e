"""Settings of the small world that the quickstart learns."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, setting


class DemoWorld(Settings):
    """A closed world written out as raw text, chats, preferences and held-out questions."""

    passages: int = setting(2000, "passages of raw text", "原始语料的篇数", ge=60, le=50_000)
    exchanges: int = setting(5000, "questions with answers in the chats", "对话中问答的个数", ge=200, le=200_000)
    english_answers: float = setting(
        0.45,
        "share of the Chinese questions in the chats that are answered in English",
        "对话中用英文回答中文问题的比例",
        ge=0,
        le=1,
    )
    pairs: int = setting(900, "preference pairs", "偏好对的个数", ge=20, le=50_000)
    questions: int = setting(
        480, "held-out questions, and as many for development", "留出题的个数（开发题同样多）", ge=60, le=2000
    )
