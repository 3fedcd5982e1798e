"""The stage `extend_vocabulary`: add Chinese tokens to a tokenizer and rows for them to the model.

The new tokens are learned in `hanlin.tokenizer.extend`, their rows are made in `hanlin.models.new_rows`. This file
verifies that nothing else changed: text without Chinese characters keeps its ids, old weights keep their bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.model import ExtendVocabulary
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import read_texts, read_word_list, refuse_repeated
from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_sorted_json
from hanlin.core.hardware.devices import best_device
from hanlin.core.i18n import tr
from hanlin.models.embedding_rows import RESIZED_TENSORS, resize_embeddings
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.new_rows.initialize import init_new_rows
from hanlin.models.new_rows.sample import sample_texts
from hanlin.models.save import check_finite, read_tensor, restore_dtypes, save_model
from hanlin.models.sentencepiece_file import write_extended_model
from hanlin.tokenizer.compression import characters_per_token
from hanlin.tokenizer.extend import IDEOGRAPHS, Extension, extend_tokenizer, verify_ids
from hanlin.tokenizer.file_names import GENERATION_FILE, SENTENCEPIECE_FILE
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.tokenizer import Tokenizer

MEASURED_DOCUMENTS = 2000
CHINESE_SHARE = 0.3
SAMPLE_TEXTS = (
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 3.14159265 metres away (e.g. on 2024-02-29)!",
    "def f(x: float) -> float:\n    return x ** 2 + 1e-9  # naïve café, Москва, Ελλάδα, にほん, 한국\n\n\t\r\n",
    " ".join(str(number) for number in range(1000)),
)
_CHINESE = re.compile(f"[{IDEOGRAPHS}]")
_LETTER = re.compile(r"[^\W\d_]")


def run(settings: ExtendVocabulary, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model with the extended vocabulary into `out`, in the dtype of the old model; return the metrics.

    Raises:
        UserError: The text gives no new token, a tokenizer of this kind cannot be extended, or a weight is not finite.
        RuntimeError: Text without Chinese characters would get other ids (nothing is saved then), or a weight changed
            that must not.
    """
    base = check_model_folder(inputs.path("model"))
    check_finite(base)
    tokenizer = Tokenizer.load(base.folder)
    _check_end_ids(base.folder, len(tokenizer))
    documents = inputs.paths("text")
    refuse_repeated(documents, tr("name it once; `weights` says how much it counts"))
    words = _given_words(settings, inputs)
    learned_texts = _report_progress(_weighted_texts(documents, settings.weights), context)
    extension = extend_tokenizer(tokenizer, learned_texts, settings.new_entries, words=words)
    if not extension.pieces:
        raise UserError(
            tr("the text gives no new entry")
            if extension.has_chinese
            else tr("there is no Chinese character in the text: no entry can be learned from it"),
            ", ".join(map(str, documents)),
            tr("new entries come from Chinese words that occur repeatedly; give more text"),
        )
    if len(extension.pieces) < settings.new_entries:
        context.progress.log(
            tr(
                "the text gives {count:,} new entries, not the {new_entries:,} that `new_entries` allows: no other "
                "would save 5 tokens of it",
                count=len(extension.pieces),
                new_entries=settings.new_entries,
            )
        )
    validation = list(read_texts(documents, validation=True))
    measured_texts = validation or list(islice(read_texts(documents), MEASURED_DOCUMENTS))
    verify_ids(tokenizer, extension, measured_texts)
    num_segments = verify_text_unchanged(tokenizer, extension.tokenizer, [*SAMPLE_TEXTS, *measured_texts])

    model = cast(LlamaForCausalLM, load_model(base.folder, dtype="auto"))
    resize_embeddings(model, extension.first_id, extension.old_ids)
    figures = _init_rows(settings, model, extension, documents, context)
    template = find_template(extension.tokenizer)
    state = restore_dtypes(model, base, partial(_grow_stored, model, extension.first_id))
    extended = save_model(
        model,
        out,
        tokenizer=extension.tokenizer,
        template=template,
        dtype=base.dtype,
        state=state,
        carry_tokenizer_model=False,
        keeps_dtypes=state is not None,
    )
    _drop_padding(out / GENERATION_FILE, extension.first_id)
    num_lines = write_extended_model(base.folder, extension, out, [*SAMPLE_TEXTS, *measured_texts])
    if not num_lines and (base.folder / SENTENCEPIECE_FILE).is_file():
        context.progress.log(
            tr("no tokenizer.model is written: it gives other ids, or the package sentencepiece is not installed")
        )
    num_tensors = verify_weights_unchanged(base, extended, extension)
    return {
        "entries": {"before": len(tokenizer), "after": len(extension.tokenizer)},
        "words": {"given": len(words), "entries_before": _num_single_tokens(tokenizer, words)},
        "vocabulary_rows": {"before": base.vocabulary_rows, "after": extended.vocabulary_rows},
        "characters_per_token": {
            "before": measure_by_language(tokenizer, measured_texts),
            "after": measure_by_language(extension.tokenizer, measured_texts),
        },
        "measured_on": "validation" if validation else "train",
        "measured_documents": len(measured_texts),
        "non_chinese_segments_verified": num_segments,
        "sentencepiece_lines_verified": num_lines,
        "tensors_verified": num_tensors,
        **figures,
    }


def _check_end_ids(folder: Path, size: int) -> None:
    """Raise UserError for an end of answers without an entry: the first new entries get such ids."""
    for token_id in read_eos_token_ids(folder):
        if token_id >= size:
            what = tr("token id {token_id} is named, but the tokenizer has no such entry", token_id=token_id)
            raise UserError(what, folder / GENERATION_FILE, tr("correct it in a copy of the model"))


def _drop_padding(file: Path, first_id: int) -> None:
    """Leave out a padding id that had no entry (32,000 of some Llama 2 folders) and that a new entry has now."""
    settings = read_json(file)
    token_id = settings.get("pad_token_id")
    if type(token_id) is int and token_id >= first_id:
        write_sorted_json(file, {name: value for name, value in settings.items() if name != "pad_token_id"})


def _grow_stored(model: LlamaForCausalLM, first_id: int, name: str, stored: torch.Tensor) -> torch.Tensor:
    """A stored matrix up to the first new id, and the new rows of the model in its dtype."""
    new_rows = model.get_parameter(name).detach()[first_id:]
    return torch.cat([stored[:first_id], new_rows.to(stored.dtype)])


def _init_rows(
    settings: ExtendVocabulary,
    model: LlamaForCausalLM,
    extension: Extension,
    documents: Sequence[Path],
    context: StageContext,
) -> dict[str, float]:
    """Set the new rows, which are the means of their pieces so far, as the settings say; return figures of a fit."""
    if settings.init == "mean":
        return {}
    context.progress.close()
    device = best_device()
    model.to(device)  # type: ignore[arg-type]
    texts = sample_texts(read_texts(documents), context.seed)
    figures = init_new_rows(
        model,
        settings.init,
        extension.first_id,
        extension.old_ids,
        extension.tokenizer,
        texts,
        distill_tokens=settings.distill_tokens,
        seed=context.seed,
        progress=context.progress,
    )
    model.to("cpu")  # type: ignore[arg-type]
    return figures


def measure_by_language(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, float]:
    """Measure characters per token over all texts, and over Chinese (see `is_chinese`) and other ones."""
    parts = {"all": texts, "zh": [text for text in texts if is_chinese(text)]}
    parts["en"] = [text for text in texts if not is_chinese(text)]
    return {name: round(characters_per_token(tokenizer, part), 4) for name, part in parts.items() if part}


def is_chinese(text: str) -> bool:
    """Whether at least 30 % of the letters of a text are Chinese characters."""
    return len(_CHINESE.findall(text)) >= CHINESE_SHARE * max(1, len(_LETTER.findall(text)))


def verify_text_unchanged(before: Tokenizer, after: Tokenizer, texts: Iterable[str]) -> int:
    """Verify that every segment without Chinese characters keeps its ids, and that texts still decode to themselves.

    A text that the old tokenizer did not decode to itself need not with the new one.

    Returns:
        The number of different segments.

    Raises:
        RuntimeError: Names the first segment that changed.
    """
    segments: set[str] = set()
    for text in texts:
        segments.update(filter(None, re.split(f"{_CHINESE.pattern}+", text)))
        ids = after.encode(text)
        if after.decode(ids) != text and before.decode(before.encode(text)) == text:
            raise RuntimeError(f"the extended tokenizer does not decode its own ids of {text[:80]!r}")
    ordered = sorted(segments)
    for segment, old, new in zip(ordered, before.encode_batch(ordered), after.encode_batch(ordered), strict=True):
        if old != new:
            raise RuntimeError(
                f"the extended tokenizer splits {segment[:80]!r} differently: {old[:20]} became {new[:20]}"
            )
    return len(ordered)


def verify_weights_unchanged(before: ModelFiles, after: ModelFiles, extension: Extension) -> int:
    """Verify the saved files: every tensor has its old bits, resized ones in their old rows; new rows are not empty.

    Returns:
        The number of tensors.

    Raises:
        RuntimeError: A tensor changed, or a new row is zero or not finite.
    """
    first = extension.first_id
    for name in after.tensors:
        old, new = read_tensor(before, name), read_tensor(after, name)
        if name in RESIZED_TENSORS:
            rows = new[first : first + len(extension.old_ids)].float()
            if not torch.isfinite(rows).all() or not rows.any(dim=1).all():
                raise RuntimeError(f"a new row of {name} is empty")
            old, new = old[:first], new[:first]
        if old.dtype != new.dtype or not torch.equal(old, new):
            raise RuntimeError(f"{name} changed while the vocabulary was extended")
    return len(after.tensors)


def _given_words(settings: ExtendVocabulary, inputs: Inputs) -> list[str]:
    """The user's own words: those of the settings, then those of the file, each once."""
    file = inputs.optional_path("words_file")
    in_file = [] if file is None else read_word_list(file)
    if file is not None and not in_file:
        raise UserError(tr("the file has no words"), file, tr("write one on each line, or leave `words_file` out"))
    return list(dict.fromkeys([*settings.words, *in_file]))


def _num_single_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> int:
    return sum(len(ids) == 1 for ids in tokenizer.encode_batch(words, continuation=True))


def _weighted_texts(documents: Sequence[Path], weights: Sequence[float]) -> Iterator[str | tuple[str, float]]:
    if not weights:
        yield from read_texts(documents)
        return
    for path, weight in zip(documents, weights, strict=True):
        yield from ((text, weight) for text in read_texts([path]))


def _report_progress(
    texts: Iterable[str | tuple[str, float]], context: StageContext
) -> Iterator[str | tuple[str, float]]:
    count = 0
    for count, text in enumerate(texts, start=1):
        context.progress.update(count, count, tr("documents"))
        yield text
    context.progress.update(count, count, tr("documents"), force=True)
