"""What may be set when a vocabulary is trained.

Owns names, ranges and words of the settings. Does not own the training (`tokens/vocabulary`).
"""

from __future__ import annotations

from hanlin.config.settings.base import Settings, ref, setting


class TrainTokenizer(Settings):
    """A new byte-level BPE vocabulary with Llama 3's way of splitting text."""

    text: tuple[str, ...] = ref(
        "documents",
        "files",
        en="text to learn the vocabulary from: documents, or files and folders of .txt and .jsonl",
        zh="用于学习词表的文本：documents 产物，或 .txt、.jsonl 文件与目录",
    )
    entries: int = setting(
        32_000, "entries of the vocabulary, special tokens included", "词表大小，含特殊符号", ge=300, le=1_000_000
    )
    template: str = setting(
        "llama3",
        "packaged chat template; its special tokens join the vocabulary",
        "内置对话模板，其特殊符号会加入词表",
        resource="template",
    )
