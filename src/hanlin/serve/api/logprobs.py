"""Log probabilities of the tokens of an answer, as OpenAI's chat completions and Ollama write them alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hanlin.inference.text_stream import TextDelta
from hanlin.tokenizer.tokenizer import Tokenizer


def format_logprobs(tokenizer: Tokenizer, text_deltas: Iterable[TextDelta]) -> list[dict[str, Any]]:
    """For each token its text, bytes, log probability and the alternatives to it."""
    return [
        {
            **_format_logprob(tokenizer, token_id, logprobs.logprob),
            "top_logprobs": [_format_logprob(tokenizer, other_id, logprob) for other_id, logprob in logprobs.top],
        }
        for text_delta in text_deltas
        for token_id, logprobs in zip(text_delta.ids, text_delta.logprobs, strict=True)
    ]


def clip_logprob(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999.0 for a token that cannot come."""
    return max(logprob, -9999.0)


def _format_logprob(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.token_bytes(token_id)
    return {"token": data.decode("utf-8", "replace"), "logprob": clip_logprob(logprob), "bytes": list(data)}
