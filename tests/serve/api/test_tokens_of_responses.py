"""What responses say of single tokens: where each stands in the text, and which belong to what is not shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from hanlin.inference.protocol import GenerationRequest, TokenLogprobs
from hanlin.inference.text_stream import TextDelta
from hanlin.serve.admission import Limits
from hanlin.serve.answer_stream import AnswerEnd
from hanlin.serve.api.fill_in import encode_fill_in
from hanlin.serve.api.openai.responses import ChatFormatter, CompletionFormatter
from hanlin.serve.registry import GenerationJob, ServedModel
from hanlin.serve.service import Answer
from hanlin.tokenizer.file_names import TEMPLATE_FILE
from hanlin.tokenizer.tokenizer import Tokenizer
from scripted_answers import scripted
from tokenizer_folders import tiny_sentencepiece

__all__ = ["tiny_sentencepiece"]


def serve(folder: Path) -> ServedModel:
    return ServedModel("m", scripted(folder, lambda text, request: ("", "stop")), Limits())


@pytest.fixture()
def job(tiny_tokenizer: Path) -> GenerationJob:
    model = serve(tiny_tokenizer)
    prompt = GenerationRequest(tuple(model.tokenizer.encode("问")), ())
    return GenerationJob(model, (prompt,), (), len(prompt.prompt_ids), (True,))


def answer(tokenizer: Tokenizer, text: str) -> Answer:
    """An answer as its stream decodes it, with log probabilities."""
    decoder, deltas = tokenizer.stream_decoder(continues_text=True), []
    pending: tuple[int, ...] = ()
    for token_id in tokenizer.encode(text, continuation=True):
        pending = (*pending, token_id)
        if piece := decoder.put(token_id):
            deltas.append(TextDelta(piece, pending, (TokenLogprobs(-1.0, ()),) * len(pending)))
            pending = ()
    return Answer(deltas, AnswerEnd("stop", sum(len(delta.ids) for delta in deltas)))


def test_an_offset_is_a_place_in_the_text_though_tokens_are_parts_of_characters(job: GenerationJob) -> None:
    tokenizer = job.model.tokenizer
    formatter = CompletionFormatter("m", tokenizer, True, [""])
    (choice,) = formatter.build_response(job, [answer(tokenizer, "the 𠮷 and 龘 of the day")])["choices"]
    logprobs = choice["logprobs"]
    assert any(token.startswith("bytes:") for token in logprobs["tokens"]), "no token is part of a character"
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert token.startswith("bytes:") or choice["text"].startswith(token, offset)
    # OpenAI: "the logprob of the sampled token" is always returned, so that there may be one more
    assert [list(top) for top in logprobs["top_logprobs"]] == [[token] for token in logprobs["tokens"]]


@pytest.mark.parametrize("shows_reasoning", [True, False])
def test_tokens_of_reasoning_that_is_left_out_are_left_out_too(job: GenerationJob, shows_reasoning: bool) -> None:
    tokenizer = job.model.tokenizer
    whole = answer(tokenizer, "<think>secret</think>好的")

    def formatter() -> ChatFormatter:
        return ChatFormatter("m", (), tokenizer, True, 1, shows_reasoning=shows_reasoning)

    def spell(rows: list[dict[str, Any]]) -> str:
        return b"".join(bytes(row["bytes"]) for row in rows).decode()

    (choice,) = formatter().build_response(job, [whole])["choices"]
    told = spell(choice["logprobs"]["content"])
    assert ("secret" in told) is shows_reasoning and told.endswith("好的")
    stream = formatter()
    events = [*stream.open_stream(job)]
    parts: list[TextDelta | AnswerEnd] = [*whole.text_deltas, whole.end]
    for part in parts:
        events += stream.format_event(0, part)
    choices = [json.loads(event.removeprefix(b"data: "))["choices"][0] for event in events]
    assert spell([row for choice in choices for row in (choice["logprobs"] or {"content": []})["content"]]) == told


def test_no_space_is_put_before_a_suffix(tiny_sentencepiece: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_sentencepiece, folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.add_special_tokens(["▁<PRE>", "▁<SUF>", "▁<MID>"])
    backend.save(str(folder / "tokenizer.json"))
    template = "{% for message in messages %}{{ message.content }}{{ eos_token }}{% endfor %}"
    (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    model = serve(folder)
    tokenizer = model.tokenizer
    prefix, suffix, middle = (tokenizer.token_id(f"▁<{name}>") for name in ("PRE", "SUF", "MID"))
    before, after = tokenizer.encode("def f():"), tokenizer.encode("return x", continuation=True)
    assert after != tokenizer.encode("return x")
    assert encode_fill_in(model, "def f():", "return x") == (tokenizer.bos_id, prefix, *before, suffix, *after, middle)
