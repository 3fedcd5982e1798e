"""An answer that the client began within its thinking block goes on there, and what follows is split as usual."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from live_server import LiveServer

TURNS: Any = [{"role": "user", "content": "<think> 是什么？"}, {"role": "assistant", "content": "<think>\n先看"}]
REST = " 看题目\n</think>\n\n是标签。"


def ask(server: LiveServer, turns: Any = TURNS, **fields: Any) -> Any:
    body = {"model": "tiny", "messages": turns, **fields}
    response = httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=300)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["message"]


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1", "llama3.1", "no reasoning"])
def test_a_begun_thought_is_gone_on_with(serve_template: Any, name: str) -> None:
    with serve_template(name, REST) as (script, server):
        message = ask(server)
        assert (message["content"], message["reasoning_content"]) == ("是标签。", " 看题目")
        prompt = script.prompt()
        assert prompt.endswith("<think>\n先看") and prompt.count("<think>") == 2 and "</think>" not in prompt

        chunks = server.client().chat.completions.create(model="tiny", messages=TURNS, stream=True)
        deltas: Any = [chunk.choices[0].delta for chunk in chunks]
        assert "".join(delta.content or "" for delta in deltas) == "是标签。"
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == " 看题目"

        begun = [TURNS[0], {"role": "assistant", "content": "<think>\n先看\n</think>\n\n"}]
        message = ask(server, begun)
        assert message["content"] == REST and "reasoning_content" not in message


def test_a_question_about_the_tag_makes_no_thought(serve_template: Any) -> None:
    with serve_template("qwen3", "签") as (_, server):
        message = ask(server, [TURNS[0], {"role": "assistant", "content": "是标"}])
        assert message["content"] == "签" and "reasoning_content" not in message


def test_a_thought_that_does_not_end_is_reasoning_to_its_last_word(serve_template: Any) -> None:
    with serve_template("qwen3", "看题", "length") as (_, server):
        message = ask(server)
        assert (message["content"], message["reasoning_content"]) == ("", "看题")
