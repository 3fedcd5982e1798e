"""Model folders over the real Llama tokenizers, with every chat template, and the GGUF files that Hanlin writes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hanlin.export.gguf import run
from hanlin.job import Inputs, Job
from hanlin.settings.export import Gguf
from hanlin.tokens.chat_template import ChatTemplate
from hanlin.tokens.tokenizer import Tokenizer

OTHER_FAMILIES = ("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")
TEMPLATES_OF = {
    "llama3": ("llama3", "llama3.1", "shareai_v1", "shareai_instruct", "plain", "chatml", "gemma2"),
    "llama2": ("llama2", "alpaca2", "atom", "plain"),
}
FOLDERS = [(tokenizer, template) for tokenizer, names in TEMPLATES_OF.items() for template in names]

Exported = tuple[Path, Path]


def tiny_gguf(template: ChatTemplate, folder: Path) -> Exported:
    """A saved model of one layer with this template, and its GGUF file, not yet checked."""
    tokenizer = template.tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_id,
        eos_token_id=list(template.stop_ids),
    )
    LlamaForCausalLM(config).to(torch.float16).save_pretrained(folder)
    template.save(folder)
    out = folder / "gguf"
    out.mkdir()
    run(Gguf(model="./m", types=("F16",), compare=False), Inputs({"model": (folder,)}), out, Job())
    return folder, out / "model-F16.gguf"


@pytest.fixture(scope="session")
def real_tokenizers(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Llama 2's and Llama 3's; of the latter some reserved tokens have the names that ChatML and Gemma write."""
    source = shared_data / "tokenizer" / "llama3"
    folder = tmp_path_factory.mktemp("llama3")
    texts = {
        "tokenizer.json": gzip.decompress((source / "tokenizer.json.gz").read_bytes()).decode("utf-8"),
        "tokenizer_config.json": (source / "instruct" / "tokenizer_config.json").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        for place, token in enumerate(OTHER_FAMILIES):
            text = text.replace(f"<|reserved_special_token_{place}|>", token)
        (folder / name).write_text(text, encoding="utf-8")
    return {"llama3": folder, "llama2": shared_data / "tokenizer" / "llama2"}


@pytest.fixture(scope="session")
def exported(
    real_tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Exported]:
    """Model folder and GGUF file of a real tokenizer with a packaged template, made once."""
    made: dict[tuple[str, str], Exported] = {}

    def of(tokenizer: str, template: str) -> Exported:
        if (tokenizer, template) not in made:
            chosen = ChatTemplate.named(template, Tokenizer.load(real_tokenizers[tokenizer]))
            made[tokenizer, template] = tiny_gguf(chosen, tmp_path_factory.mktemp(template))
        return made[tokenizer, template]

    return of
