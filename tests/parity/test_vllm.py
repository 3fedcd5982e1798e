"""What a real vLLM makes of the folders that we save: the ids of its prompts, its answers and where they end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import tokenizers

from awkward_prompts import TEXTS, prompts, real_texts, tool_prompts
from hanlin.chat.packaged import packaged_names
from hanlin.chat.template import ChatTemplate
from hanlin.chat.template_data import to_template_tools
from hanlin.config.settings.model import InitModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.models import init_model
from hanlin.parity.backends.base import ChatPrompt, openai_messages
from hanlin.parity.backends.vllm import VllmBackend
from hanlin.tokenizer.tokenizer import Tokenizer
from live_vllm import live_vllm, vllm_program
from taught_model import LESSONS, taught_model

pytestmark = pytest.mark.vllm

CONVERSATIONS = 240
OTHER_FAMILIES = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
SMALL = {"tokenizer": "./t", "hidden_size": 64, "layers": 1, "heads": 2, "key_value_heads": 1, "context_length": 4096}
"""Heads of 32 numbers: the smallest that vLLM computes on a CPU."""


@dataclass(frozen=True)
class Served:
    url: str
    folder: Path


def born(tokenizer: Path, folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    init_model.run(
        InitModel.model_validate({**SMALL, **settings}),
        Inputs({"tokenizer": (tokenizer,)}),
        folder,
        StageContext(seed=3),
    )
    return folder


def with_tokens_of_other_families(source: Path, folder: Path) -> Path:
    """A real tokenizer with the special tokens that ChatML and Gemma write, so that every template fits."""
    tokenizer = init_model.load_tokenizer(source, folder / "unpacked")
    more = [tokenizers.AddedToken(token, special=True, normalized=False) for token in OTHER_FAMILIES]
    tokenizer.backend.add_special_tokens(more)
    tokenizer.save(folder / "tokenizer")
    return folder / "tokenizer"


def served(source: Path, template: str, folder: Path) -> Iterator[Served]:
    vllm_program()
    model = born(with_tokens_of_other_families(source, folder), folder / "model", template=template)
    with live_vllm(model, folder / "vllm.log", "--trust-request-chat-template") as url:
        yield Served(url, model)


@pytest.fixture(scope="module")
def llama3(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Llama 3's tokenizer, served with the template llama3.1."""
    yield from served(shared_data / "tokenizer" / "llama3", "llama3.1", tmp_path_factory.mktemp("llama3"))


@pytest.fixture(scope="module")
def llama2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Llama 2's tokenizer, served with the template llama2."""
    yield from served(shared_data / "tokenizer" / "llama2", "llama2", tmp_path_factory.mktemp("llama2"))


@pytest.fixture(scope="module")
def texts(shared_data: Path) -> list[str]:
    return [*TEXTS, *real_texts(shared_data)]


def agree(template: ChatTemplate, backend: VllmBackend, batch: Sequence[ChatPrompt]) -> None:
    begun = time.monotonic()
    theirs = backend.render_prompts(batch)
    seconds = time.monotonic() - begun
    ours = [template.render(prompt.messages, prompt.tools, prompt=True).ids for prompt in batch]
    mismatches = [prompt for prompt, one, other in zip(batch, ours, theirs, strict=True) if one != other]
    print(f"{template.origin}: {len(batch)} prompts, {len(mismatches)} differ, {seconds:.2f} s in vLLM")
    assert not mismatches, f"{len(mismatches)} of {len(batch)}, the first: {mismatches[0]}"


WITH_OWN_TOKENS = {"deepseek_r1"}
"""Templates whose special tokens Llama 3's tokenizer lacks; `test_generated_in_vllm` adds them."""


@pytest.mark.parametrize("name", [name for name in packaged_names() if name not in WITH_OWN_TOKENS])
def test_llama3s_tokenizer_gives_the_same_ids(name: str, llama3: Served, texts: list[str]) -> None:
    template = ChatTemplate.from_packaged(name, Tokenizer.load(llama3.folder))
    agree(template, VllmBackend(llama3.url, chat_template=template.source), prompts(texts, CONVERSATIONS))


@pytest.mark.parametrize("name", ["alpaca2", "atom", "chatml", "gemma2", "llama2", "plain"])
def test_llama2s_tokenizer_gives_the_same_ids(name: str, llama2: Served, texts: list[str]) -> None:
    template = ChatTemplate.from_packaged(name, Tokenizer.load(llama2.folder))
    agree(template, VllmBackend(llama2.url, chat_template=template.source), prompts(texts, CONVERSATIONS))


def test_the_template_of_a_saved_llama3_folder_gives_the_same_ids_with_tools_and_without(
    llama3: Served, texts: list[str]
) -> None:
    template, backend = ChatTemplate.load(llama3.folder), VllmBackend(llama3.url)
    agree(template, backend, prompts(texts, CONVERSATIONS))
    agree(template, backend, tool_prompts(texts, CONVERSATIONS))


def test_the_template_of_a_saved_llama2_folder_gives_the_same_ids(llama2: Served, texts: list[str]) -> None:
    agree(ChatTemplate.load(llama2.folder), VllmBackend(llama2.url), prompts(texts, CONVERSATIONS))


def test_an_answer_begins_from_the_ids_that_were_asked_for(llama3: Served) -> None:
    """`/tokenize` and `/v1/chat/completions` render by the same code: what the one gives the other begins from."""
    template = ChatTemplate.load(llama3.folder)
    for prompt in [*prompts(list(TEXTS), 20)[::4], *tool_prompts(list(TEXTS), 8)]:
        body: dict[str, Any] = {"model": "tiny", "messages": openai_messages(prompt.messages), "max_tokens": 1}
        if prompt.tools:
            body |= {"tools": to_template_tools(prompt.tools), "tool_choice": "none"}
        answer = httpx.post(f"{llama3.url}/v1/chat/completions", json={**body, "return_token_ids": True}, timeout=300)
        ours = template.render(prompt.messages, prompt.tools, prompt=True).ids
        assert answer.json()["prompt_token_ids"] == ours, answer.text


def test_every_stop_id_of_the_folder_ends_an_answer_and_no_other_special_token_does(llama3: Served) -> None:
    """The model is random, so each id is forced by a bias; the stops come from `generation_config.json`."""
    template = ChatTemplate.load(llama3.folder)
    ask = openai.OpenAI(base_url=f"{llama3.url}/v1", api_key="none", max_retries=0, timeout=300).chat.completions
    other = template.tokenizer.token_id("<|start_header_id|>")
    assert len(template.stop_ids) > 1 and other is not None
    for number in (*template.stop_ids, other):
        answer = ask.create(
            model="tiny",
            messages=[{"role": "user", "content": "你好"}],
            max_tokens=3,
            temperature=0,
            logit_bias={str(number): 100},
        )
        stopped = number in template.stop_ids
        assert (answer.choices[0].finish_reason == "stop") is stopped
        assert answer.usage and answer.usage.completion_tokens == (1 if stopped else 3)


def test_a_tool_in_another_form_than_openais_is_recast_by_vllm_and_the_difference_is_seen(llama3: Served) -> None:
    """VLLM gives its template `name`, `description` and `parameters` in this order, as Hanlin does, and leaves other
    fields out.
    """
    template, backend = ChatTemplate.load(llama3.folder), VllmBackend(llama3.url)
    full = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    asked = (Message("user", "?"),)
    for tool, same in [
        (full, True),
        (dict(reversed(full.items())), True),
        ({"name": "f", "parameters": full["parameters"]}, True),
        ({**full, "returns": "text"}, False),
    ]:
        prompt = ChatPrompt(asked, (tool,))
        ours = template.render(prompt.messages, prompt.tools, prompt=True).ids
        assert (backend.render_prompts([prompt]) == [ours]) is same


def test_a_template_that_refuses_is_told_with_its_own_words(llama3: Served) -> None:
    backend = VllmBackend(llama3.url, chat_template="{{ raise_exception('no such turns') }}")
    (answer,) = backend.render_prompts([ChatPrompt((Message("user", "?"),))])
    assert isinstance(answer, str) and "no such turns" in answer


def test_a_model_that_is_not_served_is_told(llama3: Served) -> None:
    with pytest.raises(UserError, match="does not serve 'tinny'"):
        VllmBackend(llama3.url, model="tinny")


def test_a_taught_folder_answers_in_a_stream_and_stops_where_it_was_taught_to(
    tiny_tokenizer: Path, tmp_path: Path
) -> None:
    vllm_program()
    folder = taught_model(born(tiny_tokenizer, tmp_path / "untaught", layers=2))
    stops = ChatTemplate.load(folder).stop_ids
    with live_vllm(folder, tmp_path / "vllm.log", "--api-key", "secret") as url:
        with pytest.raises(UserError, match="refuses the key"):
            VllmBackend(url, "wrong")
        assert VllmBackend(url, "secret").model == "tiny"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0, timeout=300)
        for asked, answer in LESSONS:
            pieces: list[str] = []
            ids: list[int] = []
            end: str | None = None
            for event in client.chat.completions.create(
                model="tiny",
                messages=[{"role": "user", "content": asked}],
                stream=True,
                temperature=0,
                max_tokens=100,
                extra_body={"return_token_ids": True},
            ):
                for choice in event.choices:
                    pieces.append(choice.delta.content or "")
                    ids += getattr(choice, "token_ids", None) or []
                    end = choice.finish_reason or end
            assert ("".join(pieces), end) == (answer, "stop")
            assert ids[-1] in stops and not any(number in stops for number in ids[:-1])
            assert len([piece for piece in pieces if piece]) > 1 or len(answer) == 1
