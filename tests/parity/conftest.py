"""Model folders over the real Llama tokenizers, with every chat template, and the GGUF files that Hanlin writes."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from hanlin.chat.template import ChatTemplate
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.parity.cases import make_cases
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_gguf import Exported, tiny_gguf

OTHER_FAMILIES = (
    *("<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
)


@pytest.fixture(scope="session")
def real_tokenizers(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Llama 2's and Llama 3's; the latter has tokens of ChatML, Gemma and DeepSeek in the place of reserved ones."""
    source = shared_data / "tokenizer" / "llama3"
    folder = tmp_path_factory.mktemp("llama3")
    texts = {
        "tokenizer.json": gzip.decompress((source / "tokenizer.json.gz").read_bytes()).decode("utf-8"),
        "tokenizer_config.json": (source / "instruct" / "tokenizer_config.json").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        for index, token in enumerate(OTHER_FAMILIES):
            text = text.replace(f"<|reserved_special_token_{index}|>", token)
        (folder / name).write_text(text, encoding="utf-8")
    return {"llama3": folder, "llama2": shared_data / "tokenizer" / "llama2"}


@pytest.fixture(scope="session")
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Exported]:
    """Model folder and GGUF file of a real tokenizer, or of a `tiny` one, with a packaged template; made once."""
    made: dict[tuple[str, str], Exported] = {}

    def of(tokenizer: str, template: str) -> Exported:
        if (tokenizer, template) not in made:
            folder = tmp_path_factory.mktemp(template)
            if tokenizer == "tiny":
                texts = [message.text for case in make_cases()[::5] for message in case.messages]
                vocabulary = train_tokenizer(texts, vocab_size=700, template=template, out=folder / "tokenizer")
            else:
                vocabulary = Tokenizer.load(request.getfixturevalue("real_tokenizers")[tokenizer])
            made[tokenizer, template] = tiny_gguf(ChatTemplate.from_packaged(template, vocabulary), folder / "model")
        return made[tokenizer, template]

    return of
