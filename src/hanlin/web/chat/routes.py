"""Routes of the chat."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from hanlin.web.frame import Frame


def make_router(frame: Frame) -> APIRouter:
    """The page of the chat."""
    router = APIRouter()

    @router.get("/ui/chat")
    def show_chat(request: Request) -> Response:
        return frame.render(request, "chat/chat.html", view="chat")

    return router
