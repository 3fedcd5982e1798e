"""What an error of a library means to a person."""

from __future__ import annotations

import pytest

from hanlin.core.errors import explain_memory_error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
            "the memory is",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "of the GPU"),
        (MemoryError(), "the memory is"),
    ],
)
def test_used_up_memory_is_told_in_a_sentence_with_a_way_out(error: BaseException, words: str) -> None:
    explained = explain_memory_error(error, "sft")
    assert explained is not None and words in explained.what and explained.where == "sft"
    assert "Allocator" not in str(explained) and "micro_batch_tokens" in str(explained.hint)


def test_other_errors_stay_as_they_are() -> None:
    assert explain_memory_error(RuntimeError("shapes differ"), "sft") is None
    assert explain_memory_error(ValueError("out of memory"), "sft") is None
