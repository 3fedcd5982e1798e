"""Verifying a GGUF file: loaded by llama.cpp, it has the ids, the stop tokens and the probabilities of its source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.export.gguf.vocab import GgufVocabulary
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.inference.decoder import BatchItem
from hanlin.inference.sampler import log_softmax
from hanlin.models.folder.layout import ModelFiles
from hanlin.tokenizer.tokenizer import Tokenizer

TEXTS = (
    "翰林院里灯火未熄，学士们还在校勘典籍。",
    "他说：“明天（星期三）上午九点，我们在图书馆门口见面，好吗？”",
    "我在北京住了３年，花了12345.67元，其中30%是房租；2024年8月31日退租。",
    "臺灣的繁體字、香港的粵語「佢哋喺邊度呀」，以及生僻字：龘、㐀、𠮷、𪚥。",
    "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。\n\n——李白",
    "今天天气真好！！！哈哈哈哈……呃，等等？！～～",
    "The quick brown fox doesn't jump; it's JUST what they'LL say, I'D think.",
    "In 1492 Columbus sailed the ocean blue. Pi is 3.14159265358979, e is 2.71828.",
    "naïve café, Zürich, São Paulo, Ελληνικά, русский язык, עברית, العربية, हिन्दी, ไทย, 日本語のテスト、한국어",
    'def add(a: int, b: int = 0) -> int:\n    """Sum."""\n\treturn a + b  # 求和\n\n\nprint(add(1, 2))\n',
    "for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; }\r\n// 结束\r\n",
    '{"name": "小翰", "tags": ["a", "b"], "value": -1.5e-7, "ok": true, "none": null}',
    "SELECT * FROM users WHERE id = 42 AND name LIKE '%张%';",
    '<div class="box">Hello&nbsp;<b>世界</b></div><!-- 注释 -->',
    "https://example.com/path?q=中文&x=1#frag  user@example.org  C:\\Users\\翰林\\文件.txt",
    "# 标题\n\n- 第一项\n- 第二项\n  1. 子项\n\n| 列 | 值 |\n|---|---|\n| a | 1 |\n",
    "$E = mc^2$，∑_{i=1}^{n} i = n(n+1)/2，√2 ≈ 1.414，α≤β，∀x∈ℝ。",
    "😀😂🤣 👨‍👩‍👧‍👦 🇨🇳 👍🏽 ❤️ 🀄️",
    " leading space",
    "trailing space ",
    "  two  spaces   three    four     ",
    "\t\ttabs\tand spaces \t mixed\n",
    "\n",
    "\n\n\n",
    " ",
    "        ",
    "a\n\n\n\nb \n c\r\n\r\nd",
    "中 文 与 空 格　全角空格　　两个",
    "零宽\u200b字符\u200d和\ufeffBOM，软\u00ad连字符，不换行\u00a0空格",
    "0 00 000 0000 00000 1234567890 ①②③ Ⅳ ½ ١٢٣",
    "......------======______******//////\\\\\\\\",
    "''''''\"\"\"\"\"\"``````（（））【】《》「」『』",
    "<|eot_id|> <|begin_of_text|> <|im_start|>user [INST] </s> <s> <unk> <0x0A>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵呵",
    "ThisIsCamelCase and_this_is_snake_case and THIS_IS_LOUD and this-is-kebab",
    "请把下面这句话翻译成英文：学而时习之，不亦说乎？",
    "What is the capital of France?\n答：巴黎（Paris）。",
    "我想在apple工作1314151天～",
    "ＦＵＬＬ－ｗｉｄｔｈ ｌｅｔｔｅｒｓ，ﾊﾝｶｸ，㍿，ﬁ",
)
"""Text of every kind that tokenizers disagree on: punctuation, digits, white space, code, rare characters, typed
special tokens."""

COMPARED_TEXTS = 8
COMPARED_TOKENS = 32
MAX_KL = {"F32": 1e-6, "F16": 2e-3, "BF16": 2e-2, "Q8_0": 5e-2}
"""Mean Kullback-Leibler divergence in nats above which a file of a nearly lossless type is a fault of the export."""


class TokenizerCheck:
    """Compares token ids, computed once for all files of an export, with those of llama.cpp.

    The first file is compared on every text, each entry of the vocabulary among them; the others, whose tokenizer is
    written from the same data, on `TEXTS`.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: GgufVocabulary, stop_ids: Sequence[int]) -> None:
        self._vocabulary = vocabulary
        self._stop_ids = frozenset(stop_ids)
        self._texts = [*TEXTS, *vocabulary_as_text(tokenizer)]
        self._ids = tokenizer.encode_batch(self._texts)
        self.metrics: dict[str, int] = {}

    def check(self, file: Path) -> None:
        """Raise RuntimeError, which is a fault of the export, if a text gives other ids, or llama.cpp would not stop
        at an id that ends an answer. A text that llama.cpp reads by an entry that the tokenizer cannot build
        (`GgufVocabulary.unreachable_ids`) is counted instead.
        """
        model = LlamaCppModel(file, vocabulary_only=True)
        try:
            rows = len(self._vocabulary.tokens)
            if model.vocabulary_size != rows:
                raise RuntimeError(f"{file.name}: {model.vocabulary_size} entries instead of {rows}")
            missing = sorted(self._stop_ids - model.end_ids)
            if missing:
                raise RuntimeError(f"{file.name}: llama.cpp does not end an answer at {missing}")
            count = len(TEXTS) if self.metrics else len(self._texts)
            pairs = zip(self._texts[:count], self._ids[:count], strict=True)
            num_differing = sum(self._differs(model, text, ids) for text, ids in pairs)
        finally:
            model.close()
        if not self.metrics:
            self.metrics = {
                "texts": count,
                "ids": sum(map(len, self._ids)),
                "texts_tokenized_differently": num_differing,
                "stop_ids": len(self._stop_ids),
                "vocabulary": rows,
            }

    def _differs(self, model: LlamaCppModel, text: str, ids: list[int]) -> bool:
        actual_ids = model.tokenize(text)
        if actual_ids != ids and self._vocabulary.unreachable_ids.isdisjoint(actual_ids):
            raise RuntimeError(f"{model.path.name}: llama.cpp reads {text!r} as {actual_ids}, the tokenizer as {ids}")
        return actual_ids != ids


def vocabulary_as_text(tokenizer: Tokenizer) -> list[str]:
    """Every entry of the vocabulary that is whole text, some in a row: entries that were added must be found again."""
    texts = []
    for token_id in range(len(tokenizer)):
        if token_id not in tokenizer.special_ids:
            try:
                texts.append(tokenizer.token_bytes(token_id).decode("utf-8"))
            except UnicodeDecodeError:
                continue
    return ["".join(texts[start : start + 8]) for start in range(0, len(texts), 8)]


@dataclass(frozen=True, slots=True)
class SourceLogprobs:
    """Texts as ids and the source model's next-token log probabilities [ids, vocabulary] of each."""

    texts: tuple[tuple[int, ...], ...]
    logprobs: tuple[NDArray[np.float32], ...]


def compute_source_logprobs(files: ModelFiles, tokenizer: Tokenizer) -> SourceLogprobs:
    """Compute the source model's log-probabilities, in float32 if the model is small enough."""
    import torch

    from hanlin.models.dtypes import exact_dtype
    from hanlin.models.load import load_model

    model = load_model(files.folder, dtype=exact_dtype(files))
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    limit = min(COMPARED_TOKENS, int(files.config["max_position_embeddings"]))
    texts = tuple(tuple([*begin, *tokenizer.encode(text)][:limit]) for text in TEXTS[:COMPARED_TEXTS])
    with torch.inference_mode():
        logprobs = tuple(
            torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), dim=-1).numpy() for ids in texts
        )
    return SourceLogprobs(texts, logprobs)


def compare_logprobs(file: Path, file_type: str, reference: SourceLogprobs) -> dict[str, Any]:
    """Compare a file's next-token probabilities with its source's.

    Returns:
        `kl`, the mean divergence KL(source ‖ file) in nats; `same_top_token`, how often both have the same most likely
        token; and the number of `positions`.

    Raises:
        RuntimeError: A nearly lossless type differs by more than its rounding can.
    """
    model = LlamaCppModel(file)
    try:
        max_length = max(map(len, reference.texts))
        kv_cache = model.new_kv_cache(sequences=1, length=max_length, cache_type="f32")
        try:
            divergences, same, count = [], 0, 0
            for ids, expected in zip(reference.texts, reference.logprobs, strict=True):
                kv_cache.truncate(0, 0)
                (logits,) = kv_cache.decode([BatchItem(0, 0, ids, range(len(ids)))])
                logprobs = log_softmax(logits)
                divergences.append((np.exp(expected) * (expected - logprobs)).sum(axis=-1))
                same += int((expected.argmax(axis=-1) == logprobs.argmax(axis=-1)).sum())
                count += len(ids)
        finally:
            kv_cache.close()
    finally:
        model.close()
    mean = float(np.concatenate(divergences).mean())
    limit = MAX_KL.get(file_type)
    if not np.isfinite(mean) or (limit is not None and mean > limit):
        raise RuntimeError(f"{file.name}: its probabilities differ from the model's by {mean:.3g} nats (limit {limit})")
    return {"kl": max(0.0, mean), "same_top_token": same / count, "positions": count}
