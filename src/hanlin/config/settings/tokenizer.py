"""Settings of tokenizer training."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, ref, setting


class TrainTokenizer(Settings):
    """Train a byte-level BPE tokenizer that splits text into words as Llama 3 does."""

    text: tuple[str, ...] = ref(
        "documents",
        "files",
        en="text to learn the vocabulary from: documents, or files and folders of .txt and .jsonl",
        zh="用于学习词表的文本：documents 产物，或 .txt、.jsonl 文件与目录",
    )
    entries: int = setting(
        32_000, "size of the vocabulary, special tokens included", "词表大小（含特殊词元）", ge=300, le=1_000_000
    )
    template: str = setting(
        "llama3",
        "name of a packaged chat template; its special tokens are added to the vocabulary",
        "内置对话模板的名称，其特殊词元会加入词表",
        resource="template",
    )
