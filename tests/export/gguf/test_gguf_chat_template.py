"""The chat template in a GGUF file writes what the folder's own writes, in the Jinja that every program knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import jinja2
import pytest

from hanlin.chat.packaged import without_generation_blocks

Export = Callable[..., tuple[Path, dict[str, Any]]]
CHAT = [
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "您好！"},
    {"role": "user", "content": "?"},
]


def test_the_template_has_no_generation_block_and_writes_the_same(plain_model: Path, export: Export) -> None:
    transformers = pytest.importorskip("transformers")
    out, _ = export(plain_model, "F16", compare=False)
    written = gguf.GGUFReader(out / "model-F16.gguf").fields["tokenizer.chat_template"].contents()
    assert "generation %}" not in written.replace("add_generation", "")
    tokenizer = transformers.AutoTokenizer.from_pretrained(plain_model)
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = lambda text: text
    variables = {"messages": CHAT, "add_generation_prompt": True, "bos_token": "<|begin_of_text|>"}
    assert environment.from_string(written).render(**variables) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\n  {%- generation -%}\n b {%- endgeneration %}\n", "a\n  {%- if true -%}\n b {%- endif %}\n"),
        ("{% generation %}x{% endgeneration %}", "{% if true %}x{% endif %}"),
        ("{% if add_generation_prompt %}y{% endif %}", "{% if add_generation_prompt %}y{% endif %}"),
    ],
)
def test_trimming_of_white_space_is_kept(before: str, after: str) -> None:
    assert without_generation_blocks(before) == after
