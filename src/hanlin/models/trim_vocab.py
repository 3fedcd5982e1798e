"""The stage `trim_vocabulary`: keep only the vocabulary entries that some texts need, and the rows of these.

Which entries stay is decided in `hanlin.tokenizer.trim.vocabulary`. This file counts what the texts use, cuts the rows,
and verifies what it wrote: same text, same tokens; same weights; same logits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.examples import CHAT_RECORDS, ChatRecord, training_turns
from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.model import TrimVocabulary
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import VALIDATION_FILE, read_texts, record_files, record_kind, refuse_repeated
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Message, ToolCall, read_jsonl
from hanlin.models.dtypes import torch_dtype
from hanlin.models.embedding_rows import RESIZED_TENSORS
from hanlin.models.extend_vocab import MEASURED_DOCUMENTS, SAMPLE_TEXTS, measure_by_language
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.merge import compare_logits, compute_logits, render_prompts
from hanlin.models.save import check_finite, read_tensor, remove_files_on_failure, restore_dtypes, save_model
from hanlin.models.sentencepiece_file import write_trimmed_model
from hanlin.tokenizer.compression import batches
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.trim.generation_ids import named_token_ids
from hanlin.tokenizer.trim.verify import verify_entries, verify_texts
from hanlin.tokenizer.trim.vocabulary import KeptEntries, TrimmableVocabulary, save_trimmed

BATCH_TEXTS = 1000
MIN_TEXTS_FOR_WARM_UP = 10_000
"""From this many texts on, preparing the tokenizer to encode faster takes less time than it saves."""
SAMPLE_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SAMPLE_TURNS = (
    Message("system", "You are a helpful assistant."),
    Message("user", "What is the weather in Paris?"),
    Message("assistant", "", tool_calls=(ToolCall("get_weather", {"city": "Paris"}),)),
    Message("tool", '{"temperature": 25}', name="get_weather"),
    Message("assistant", "It is 25 degrees in Paris.", reasoning="The tool says 25."),
)
"""A chat with a tool: what the template writes around the turns keeps its tokens, whatever the texts are."""


@dataclass
class UsedEntries:
    """How often texts use each entry: all texts, and the validation splits alone, in tokens.

    Attributes:
        counts: Tokens of each id.
        validation_counts: The same of the validation splits.
        texts: Number of texts and chats.
        unrendered: Chats for which the template has no form: their turns are counted as text.
        measured: The first texts, and validation texts, which are measured and verified.
    """

    counts: Counter[int] = field(default_factory=Counter)
    validation_counts: Counter[int] = field(default_factory=Counter)
    texts: int = 0
    unrendered: int = 0
    measured: dict[str, list[str]] = field(default_factory=lambda: {"train": [], "validation": []})


def run(settings: TrimVocabulary, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model with the trimmed vocabulary into `out`, in the dtype of the old model; return the metrics.

    Raises:
        UserError: The texts are empty or need every entry, `model` is an adapter, or a tokenizer of this kind cannot
            be trimmed, or a weight is not finite.
        RuntimeError: A check failed; the files are removed.
    """
    folder = inputs.path("model")
    refuse_adapter(folder)
    refuse_repeated(inputs.paths("text"), tr("name it once"))
    base = check_model_folder(folder)
    check_finite(base)
    tokenizer = Tokenizer.load(base.folder)
    vocabulary = TrimmableVocabulary(tokenizer)
    template = find_template(tokenizer)
    used = count_entries(inputs.paths("text"), tokenizer, template, context)
    if not used.counts:
        where = ", ".join(map(str, inputs.paths("text")))
        raise UserError(tr("there is no text here"), where, tr("give the texts that the model is to read and write"))
    ids = {token_id for token_id, count in used.counts.items() if count >= settings.min_count}
    kept = vocabulary.choose(ids | sample_ids(tokenizer, template), named_token_ids(base.folder))
    if len(kept.ids) == base.vocabulary_rows:
        what = tr("nothing to trim: the texts need all {count:,} entries", count=len(kept.ids))
        raise UserError(what, base.folder, tr("raise min_count, or leave the vocabulary as it is"))
    with remove_files_on_failure(out):
        return _trim(base, vocabulary, kept, used, out, context)


def count_entries(
    paths: Sequence[Path], tokenizer: Tokenizer, template: ChatTemplate | None, context: StageContext
) -> UsedEntries:
    """Count how often each entry occurs in texts, as training reads them.

    Chats are rendered by the template; turns for which there is none, or which it refuses, are counted as text.
    """
    used = UsedEntries()
    for path in paths:
        kind = record_kind(path) if path.is_dir() else None
        for split in ("train", "validation"):
            if kind in CHAT_RECORDS:
                _count_chats(path, kind, split, tokenizer, template, used, context)
            else:
                _count_texts(read_texts([path], validation=split == "validation"), split, tokenizer, used, context)
    return used


def sample_ids(tokenizer: Tokenizer, template: ChatTemplate | None) -> set[int]:
    """The ids of sample texts (numbers from 0 to 999, some English, some code), and of what the template writes."""
    ids = {token_id for row in tokenizer.encode_batch(SAMPLE_TEXTS) for token_id in row}
    ids.update(token_id for prompt in render_prompts(tokenizer, template) for token_id in prompt)
    if template is not None:
        for turns in (SAMPLE_TURNS, SAMPLE_TURNS[1:], SAMPLE_TURNS[:2] + SAMPLE_TURNS[-1:]):
            for tools in ((), (SAMPLE_TOOL,)):
                ids.update(_rendered_ids(template, turns, tools) or ())
    return ids


def _trim(
    base: ModelFiles,
    vocabulary: TrimmableVocabulary,
    kept: KeptEntries,
    used: UsedEntries,
    out: Path,
    context: StageContext,
) -> dict[str, Any]:
    before = vocabulary.tokenizer
    after = save_trimmed(vocabulary, kept, out)
    num_entries = verify_entries(before, after, kept)
    measured_on = "validation" if used.measured["validation"] else "train"
    texts = used.measured["train"] + used.measured["validation"]
    unchanged = verify_texts(before, after, kept, [*SAMPLE_TEXTS, *texts])

    model = cast(LlamaForCausalLM, load_model(base.folder, dtype="auto"))
    prompts = render_prompts(before, find_template(before))
    expected = [logits[:, list(kept.ids)] for logits in compute_logits(model, prompts)]
    cut_rows(model, kept.ids)
    rows = torch.tensor(kept.ids)
    state = restore_dtypes(model, base, lambda _, stored: stored[rows])
    trimmed = save_model(
        model,
        out,
        tokenizer=after,
        template=find_template(after),
        dtype=base.dtype,
        state=state,
        keeps_dtypes=state is not None,
    )
    num_lines = write_trimmed_model(base.folder, kept.ids, after, out, [*SAMPLE_TEXTS, *texts])
    if not num_lines and (base.folder / SENTENCEPIECE_FILE).is_file():
        context.progress.log(
            tr("no tokenizer.model is written: it gives other ids, or the package sentencepiece is not installed")
        )
    num_tensors = verify_weights(base, trimmed, kept.ids)
    del model  # frees the memory before the saved model is loaded
    new_ids = kept.new_ids
    renumbered = [[new_ids[token_id] for token_id in prompt] for prompt in prompts]
    if render_prompts(after, find_template(after)) != renumbered:
        raise RuntimeError("the trimmed model renders its prompts to other tokens")
    agreement = compare_logits(expected, compute_logits(load_model(out, dtype="auto"), renumbered))
    # the sums are the same; a library may take them in another order for a narrower matrix
    if not agreement.max_abs_difference <= 4 * torch.finfo(torch_dtype(trimmed.dtype)).eps * agreement.largest_logit:
        raise RuntimeError(f"the trimmed model gives other logits: {agreement}")

    sizes = {"before": _weight_bytes(base), "after": _weight_bytes(trimmed)}
    tokens, validation_tokens = used.counts.total(), used.validation_counts.total()
    lost = sum(count for token_id, count in used.counts.items() if token_id not in new_ids)
    unseen = sum(
        count for token_id, count in used.validation_counts.items() if used.counts[token_id] == count
    )  # only there
    return {
        "entries": {"before": len(before), "after": len(after)},
        "vocabulary_rows": {"before": base.vocabulary_rows, "after": trimmed.vocabulary_rows},
        "kept": {"used": kept.used, "merge_parts": kept.merge_parts, "always": kept.always},
        "weight_bytes": sizes,
        "saved_bytes": sizes["before"] - sizes["after"],
        "saved_share": round(1 - sizes["after"] / sizes["before"], 4),
        "tokens_counted": tokens,
        "texts_counted": used.texts,
        "chats_counted_as_text": used.unrendered,
        "share_of_tokens_split_further": lost / tokens,
        "share_of_validation_tokens_only_there": unseen / validation_tokens if validation_tokens else None,
        "characters_per_token": {
            "before": measure_by_language(before, used.measured[measured_on]),
            "after": measure_by_language(after, used.measured[measured_on]),
        },
        "measured_on": measured_on,
        "texts_verified": len(texts) + len(SAMPLE_TEXTS),
        "texts_unchanged": unchanged,
        "entries_verified": num_entries,
        "sentencepiece_lines_verified": num_lines,
        "tensors_verified": num_tensors,
        "max_abs_difference": agreement.max_abs_difference,
        "greedy_agreement": agreement.greedy_agreement,
        "positions_compared": sum(map(len, prompts)),
    }


@torch.no_grad()
def cut_rows(model: LlamaForCausalLM, old_ids: Sequence[int]) -> None:
    """Keep the rows `old_ids` of the embeddings and the output head, in this order; a tied model stays tied."""
    embeddings, head = model.model.embed_tokens, model.lm_head
    tied = head.weight is embeddings.weight
    rows = torch.tensor(old_ids)
    embeddings.weight = nn.Parameter(embeddings.weight[rows], requires_grad=False)
    head.weight = embeddings.weight if tied else nn.Parameter(head.weight[rows], requires_grad=False)
    embeddings.num_embeddings = head.out_features = model.config.vocab_size = model.vocab_size = len(old_ids)


def verify_weights(before: ModelFiles, after: ModelFiles, old_ids: Sequence[int]) -> int:
    """Verify the saved files: every tensor has its old bits, the embeddings and the head those of the rows kept.

    Returns:
        The number of tensors.

    Raises:
        RuntimeError: A tensor changed.
    """
    if not after.tensors.keys() <= before.tensors.keys():  # a folder of the first Llamas holds computed ones too
        raise RuntimeError("the trimmed model has other tensors than before")
    for name in after.tensors:
        old, new = read_tensor(before, name), read_tensor(after, name)
        old = old[torch.tensor(old_ids)] if name in RESIZED_TENSORS else old
        if old.dtype != new.dtype or not torch.equal(old, new):
            raise RuntimeError(f"{name} changed while the vocabulary was trimmed")
    return len(after.tensors)


def _count_texts(
    texts: Iterable[str], split: str, tokenizer: Tokenizer, used: UsedEntries, context: StageContext
) -> None:
    for batch in batches(texts, BATCH_TEXTS):
        _keep_some(batch, split, used)
        for ids in tokenizer.encode_batch(batch):
            _add(ids, split, used)
        used.texts += len(batch)
        if used.texts >= MIN_TEXTS_FOR_WARM_UP:
            tokenizer.enable_fast_encoder()
        context.progress.update(used.texts, used.texts, tr("documents"))


def _count_chats(
    path: Path,
    kind: str,
    split: str,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    used: UsedEntries,
    context: StageContext,
) -> None:
    for record in _read_chats(path, kind, split):
        for _, turns in training_turns(record):
            texts = [text for turn in turns for text in (turn.text, turn.reasoning) if text]
            _keep_some(texts, split, used)
            ids = None if template is None else _rendered_ids(template, turns, record.tools)
            if ids is None:
                used.unrendered += 1
                ids = [token_id for row in tokenizer.encode_batch(texts) for token_id in row]
            _add(ids, split, used)
        used.texts += 1
        context.progress.update(used.texts, used.texts, tr("records"))


def _read_chats(path: Path, kind: str, split: str) -> Iterator[ChatRecord]:
    validation = path / VALIDATION_FILE
    files = record_files(path, kind) if split == "train" else [validation] if validation.is_file() else []
    for file in files:
        yield from cast(Iterator[ChatRecord], read_jsonl(file, cast(type[Conversation], CHAT_RECORDS[kind])))


def _rendered_ids(template: ChatTemplate, turns: Sequence[Message], tools: Sequence[Any]) -> list[int] | None:
    """The ids of all training examples of some turns; None if the template has no form for them."""
    try:
        return [token_id for example in template.render_examples(turns, tools) for token_id in example.ids]
    except UserError:
        return None


def _add(ids: Iterable[int], split: str, used: UsedEntries) -> None:
    used.counts.update(ids)
    if split == "validation":
        used.validation_counts.update(ids)


def _keep_some(texts: Iterable[str], split: str, used: UsedEntries) -> None:
    measured = used.measured[split]
    measured.extend(islice(texts, MEASURED_DOCUMENTS - len(measured)))


def _weight_bytes(files: ModelFiles) -> int:
    return sum(entry.end - entry.start for entry in files.tensors.values())
