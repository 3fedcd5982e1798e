"""Any conversation at all: a real vLLM renders and encodes it as Hanlin does, with reasoning and with tools.

HANLIN_VLLM names the program of a vLLM on a CPU; without it the tests skip. HANLIN_CONVERSATIONS and HANLIN_SEED draw
as many for each template as `test_generated` does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from test_generated import COUNT, QUIET, SEED, WITH_TOOLS

from conversations import any_conversations
from hanlin.chat.template import ChatTemplate
from hanlin.parity.backends.vllm import VllmBackend
from hanlin.parity.cases import Case
from hanlin.parity.check import compare, compute_expected
from hanlin.tokenizer.tokenizer import Tokenizer
from live_vllm import live_vllm, vllm_program
from tiny_gguf import TEMPLATES_OF
from tiny_llama import tiny_llama

pytestmark = pytest.mark.vllm

PAIRS = [(tokenizer, template) for tokenizer, names in TEMPLATES_OF.items() for template in names]
OWN = {"llama3": "llama3.1", "llama2": "llama2"}
"""The template that is saved in the served folder; the others are sent with each request."""
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "max_position_embeddings": 16_384,
}
HEADS: dict[str, Any] = {"num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}
"""One head of 32 numbers: the smallest that vLLM computes on a CPU."""


@pytest.fixture(scope="module")
def served(
    real_tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], tuple[str, Path]]]:
    """Address and folder of a vLLM that serves a tiny model over a real tokenizer. One runs at a time."""
    vllm_program()
    running: dict[str, tuple[str, Path]] = {}
    with ExitStack() as stack:

        def of(tokenizer: str) -> tuple[str, Path]:
            if tokenizer not in running:
                stack.close()
                running.clear()
                folder = tmp_path_factory.mktemp(tokenizer)
                template = ChatTemplate.from_packaged(OWN[tokenizer], Tokenizer.load(real_tokenizers[tokenizer]))
                stops = list(template.stop_ids)
                model = tiny_llama(folder / "m", template.tokenizer, seed=0, eos_token_id=stops, **SMALL, **HEADS)
                template.save(model)
                address = stack.enter_context(
                    live_vllm(model, folder / "vllm.log", "--trust-request-chat-template", "--max-num-seqs", "2")
                )
                running[tokenizer] = address, model
            return running[tokenizer]

        yield of


@pytest.mark.parametrize(("tokenizer", "name"), PAIRS)
def test_any_conversation_is_read_alike_by_vllm(
    tokenizer: str, name: str, served: Callable[[str], tuple[str, Path]]
) -> None:
    address, folder = served(tokenizer)
    template = ChatTemplate.from_packaged(name, Tokenizer.load(folder))
    cases: list[Case] = []

    @seed(SEED)
    @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=QUIET)
    @given(any_conversations(name in WITH_TOOLS))
    def draw(case: Case) -> None:
        cases.append(case)

    draw()
    expected = compute_expected(template, cases)
    counts = Counter(
        {
            "conversations": len(cases),
            "refused": len(cases) - len(expected),
            "with reasoning": sum(any(turn.reasoning for turn in item.case.messages) for item in expected),
            "with tools": sum(bool(item.case.tools) for item in expected),
            "with calls": sum(any(turn.tool_calls for turn in item.case.messages) for item in expected),
        }
    )
    source = "" if name == OWN[tokenizer] else template.source  # its own is read from the folder
    begun = time.monotonic()
    result = compare(template, VllmBackend(address, chat_template=source), expected)
    seconds = time.monotonic() - begun
    counts["typed"] = result.typed_tokens_parsed
    print(
        f"{tokenizer} {name}: {len(expected):,} compared, {result.mismatches} mismatches"
        f" ({dict(counts)}, seed {SEED}, {seconds:.1f} s in vLLM)"
    )
    assert not result.mismatches, result.first
    assert len(cases) >= COUNT and counts["refused"] <= len(cases) // 20
