"""Any conversation at all: transformers and llama.cpp read it as Hanlin does, on the real tokenizers.

`make test-parity` draws 10,000 for each template and prints its seeds; HANLIN_SEED draws the same again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import closing

import pytest
from hypothesis import HealthCheck, given, seed, settings

from conversations import any_conversations
from hanlin.chat.template import ChatTemplate
from hanlin.parity.backends.llama_cpp import LlamaCppBackend
from hanlin.parity.backends.transformers import TransformersBackend
from hanlin.parity.cases import Case
from hanlin.parity.check import compare, compute_expected
from tiny_gguf import FOLDERS, Exported

COUNT = int(os.environ.get("HANLIN_CONVERSATIONS", "25"))
SEED = int(os.environ.get("HANLIN_SEED", str(random.SystemRandom().randrange(2**32))))
WITH_TOOLS = ("llama3.1", "llama3.2", "hermes", "qwen3")
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


@pytest.mark.parametrize(("tokenizer", "name"), FOLDERS)
def test_any_conversation_is_read_alike_by_transformers_and_llama_cpp(
    tokenizer: str, name: str, exported: Callable[[str, str], Exported]
) -> None:
    folder, file, _ = exported(tokenizer, name)
    template = ChatTemplate.load(folder)
    counts = {"conversations": 0, "refused": 0, "typed": 0, "with reasoning": 0, "with calls": 0, "in several": 0}

    with closing(LlamaCppBackend(file)) as llama_cpp:
        backends = (TransformersBackend(folder), llama_cpp)

        @seed(SEED)
        @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=QUIET)
        @given(any_conversations(name in WITH_TOOLS))
        def draw(case: Case) -> None:
            expected = compute_expected(template, [case])
            counts["conversations"] += 1
            counts["refused"] += not expected
            counts["with reasoning"] += any(message.reasoning for message in case.messages)
            counts["with calls"] += any(message.tool_calls for message in case.messages)
            counts["in several"] += any(not one.answers_alike for one in expected)
            for backend in backends if expected else ():
                result = compare(template, backend, expected)
                counts["typed"] += result.typed_tokens_parsed
                assert not result.mismatches, f"{backend.name}: {result.first}"

        draw()
    print(f"{tokenizer} {name}: {counts['conversations']:,} conversations, 0 mismatches ({counts}, seed {SEED})")
    assert counts["conversations"] >= COUNT and counts["refused"] <= counts["conversations"] // 20
