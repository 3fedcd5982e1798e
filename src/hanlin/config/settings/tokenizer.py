"""Settings of tokenizer training."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, ref, setting


class TrainTokenizer(Settings):
    """Train a byte-level BPE tokenizer that splits text into words as Llama 3 does."""

    text: tuple[str, ...] = ref(
        "documents",
        "files",
        description="text to learn the vocabulary from: documents, or files and folders of .txt and .jsonl",
        min_length=1,
    )
    entries: int = setting(32_000, "size of the vocabulary, special tokens included", ge=300, le=1_000_000)
    template: str = setting(
        "llama3",
        "name of a packaged chat template, or a Jinja file; its special tokens are added to the vocabulary",
        resource="template",
    )
