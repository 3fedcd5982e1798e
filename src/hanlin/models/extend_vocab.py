"""A model learns new Chinese entries: tokenizer and embeddings grow together. Work of the stage `ExtendVocabulary`.

Owns the proof that nothing else changed. Does not own learning the entries (`tokens/vocabulary_extension`) or their
rows (`embeddings`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.tokenizer_files import template_of
from hanlin.config.settings.model import ExtendVocabulary
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.models.embedding_rows import grow
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.extend import IDEOGRAPHS, Extension, extend
from hanlin.tokenizer.tokenizer import Tokenizer

GROWN = ("model.embed_tokens.weight", "lm_head.weight")
MEASURED_DOCUMENTS = 2000
CHINESE_SHARE = 0.3
PROBES = (
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 3.14159265 metres away (e.g. on 2024-02-29)!",
    "def f(x: float) -> float:\n    return x ** 2 + 1e-9  # naïve café, Москва, Ελλάδα, にほん, 한국\n\n\t\r\n",
    " ".join(str(number) for number in range(1000)),
)
_CHINESE = re.compile(f"[{IDEOGRAPHS}]")
_LETTER = re.compile(r"[^\W\d_]")


def run(settings: ExtendVocabulary, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Make the grown model in `out`, in the number format of the old one.

    Raises UserError when the text has nothing to add, or the tokenizer is of a kind that cannot be extended; and
    RuntimeError, before anything is saved, when text without Chinese characters would get other ids, and, after it,
    when a weight that had to stay did not.
    """
    base = check_model_folder(inputs.path("model"))
    tokenizer = Tokenizer.load(base.folder)
    documents = inputs.paths("text")
    extension = extend(tokenizer, _told(read_texts(documents), context), settings.new_entries)
    if not extension.pieces:
        raise UserError(
            say("the text gives no new entry", "文本中学不到新词条"),
            ", ".join(map(str, documents)),
            say("it needs Chinese text that repeats itself; give more of it", "需要足够多、有重复的中文文本"),
        )
    validation = list(read_texts(documents, validation=True))
    measured = validation or list(islice(read_texts(documents), MEASURED_DOCUMENTS))
    checked = prove_text_unchanged(tokenizer, extension.tokenizer, [*PROBES, *measured])

    model = cast(LlamaForCausalLM, load_model(base.folder, dtype="auto"))
    grow(model, extension.first_id, extension.old_ids)
    template = template_of(extension.tokenizer)
    grown = save_model(model, out, tokenizer=extension.tokenizer, template=template)
    kept = prove_weights_unchanged(base, grown, extension)
    return {
        "entries": {"before": len(tokenizer), "after": len(extension.tokenizer)},
        "vocabulary_rows": {"before": base.vocabulary_rows, "after": grown.vocabulary_rows},
        "characters_per_token": {
            "before": by_language(tokenizer, measured),
            "after": by_language(extension.tokenizer, measured),
        },
        "measured_on": "validation" if validation else "train",
        "measured_documents": len(measured),
        "stretches_without_chinese_unchanged": checked,
        "tensors_unchanged": kept,
    }


def by_language(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, float]:
    """Characters per token over all texts and over those of each language (`zh`: 30 % of the letters are Chinese)."""
    parts = {"all": texts, "zh": [text for text in texts if chinese(text)]}
    parts["en"] = [text for text in texts if not chinese(text)]
    return {name: round(characters_per_token(tokenizer, part), 4) for name, part in parts.items() if part}


def chinese(text: str) -> bool:
    return len(_CHINESE.findall(text)) >= CHINESE_SHARE * max(1, len(_LETTER.findall(text)))


def prove_text_unchanged(before: Tokenizer, after: Tokenizer, texts: Iterable[str]) -> int:
    """Check that every stretch of the texts without Chinese characters keeps its ids, and that whole texts still
    decode to themselves wherever they did; return how many stretches there were.

    Raises RuntimeError with the first stretch that changed.
    """
    stretches: set[str] = set()
    for text in texts:
        stretches.update(filter(None, re.split(f"{_CHINESE.pattern}+", text)))
        ids = after.encode(text)
        if after.decode(ids) != text and before.decode(before.encode(text)) == text:
            raise RuntimeError(f"the grown tokenizer does not decode its own ids of {text[:80]!r}")
    ordered = sorted(stretches)
    for stretch, old, new in zip(ordered, before.encode_many(ordered), after.encode_many(ordered), strict=True):
        if old != new:
            raise RuntimeError(f"the grown tokenizer splits {stretch[:80]!r} otherwise: {old[:20]} became {new[:20]}")
    return len(ordered)


def prove_weights_unchanged(before: ModelFiles, after: ModelFiles, extension: Extension) -> int:
    """Check what was written: every tensor equals the old one bit for bit, the grown ones in their old rows, and
    every new row is finite and not zero; return how many tensors there were. Raises RuntimeError.
    """
    first = extension.first_id
    for name in after.tensors:
        old, new = _tensor(before, name), _tensor(after, name)
        if name in GROWN:
            rows = new[first : first + len(extension.old_ids)].float()
            if not torch.isfinite(rows).all() or not rows.any(dim=1).all():
                raise RuntimeError(f"a new row of {name} is empty")
            old, new = old[:first], new[:first]
        if old.dtype != new.dtype or not torch.equal(old, new):
            raise RuntimeError(f"{name} changed while the vocabulary grew")
    return len(after.tensors)


def _tensor(files: ModelFiles, name: str) -> torch.Tensor:
    with safe_open(str(files.tensors[name].file), framework="pt") as file:
        return cast(torch.Tensor, file.get_tensor(name))


def _told(texts: Iterable[str], context: StageContext) -> Iterator[str]:
    count = 0
    for count, text in enumerate(texts, start=1):
        context.progress.update(count, count, say("documents", "篇"))
        yield text
