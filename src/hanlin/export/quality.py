"""The quality report of a quantized model: how much it differs from its source model on validation data.

Perplexity and KL divergence are measured as by llama.cpp (`tools/perplexity`): the text is cut into windows of equal
length, and the second half of each is scored. The report's table and chart are in `quality_page`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Condition, QualityReport
from hanlin.core.context import StageContext
from hanlin.core.discover import record_class, validation_file
from hanlin.core.errors import UserError
from hanlin.core.files import check_free_space, open_atomic, parse_json, write_sorted_json
from hanlin.core.hardware.devices import best_device
from hanlin.core.i18n import tr
from hanlin.core.records import Conversation, Document, read_jsonl
from hanlin.core.text import answer_language
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.inference.decoder import BatchItem
from hanlin.inference.protocol import Completion, GenerationRequest, SamplingParams
from hanlin.inference.registry import create_engine
from hanlin.inference.sampler import log_softmax
from hanlin.models.folder.layout import ModelFiles
from hanlin.tokenizer.tokenizer import Tokenizer

LANGUAGES = ("zh", "en")
_MIN_WINDOW = 32  # tokens
_CHUNK_POSITIONS = 64  # positions whose logits are compared at once
_CHARACTERS_PER_TOKEN = 8  # more than a tokenizer has on average, so that enough text is read

Row = dict[str, Any]
"""Metrics of a file by name, and nested those of a language."""


@dataclass(frozen=True, slots=True)
class QualityReference:
    """Results of the source model on the validation data.

    Attributes:
        windows: Token ids of the windows, by language.
        folder: Holds the log-probabilities of their second halves.
        requests: The prompts of the validation conversations.
        completions: Its greedy answers to them.
    """

    windows: dict[str, list[tuple[int, ...]]]
    folder: Path
    requests: tuple[GenerationRequest, ...]
    completions: tuple[Completion, ...]

    def logprobs(self, language: str, index: int) -> NDArray[np.float32]:
        """Map the log-probabilities of a window from disk, float32 [scored positions, vocab_size]."""
        return np.load(self.folder / f"{language}-{index}.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def prepare_reference(
    settings: QualityReport,
    data: Sequence[Path],
    files: ModelFiles,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    scratch: Path,
    context: StageContext,
) -> QualityReference:
    """Run the source model once, for all quantized files; results of an interrupted run in `scratch` are reused.

    Args:
        settings: Window length, number of tokens and of prompts.
        data: Data artifacts with a validation split.
        files: The source model.
        tokenizer: Its tokenizer.
        template: Its chat template, if it has one.
        scratch: A folder for its results.
        context: Reports progress.

    Returns:
        The results that each file is compared with.

    Raises:
        UserError: The validation splits hold too little Chinese and English for one window, or the log-probabilities,
            4 bytes for each scored position and vocabulary entry, do not fit the disk.
    """
    window_length = min(settings.window, int(files.config["max_position_embeddings"]))
    records = [record for path in data for record in _read_records(validation_file(path))]
    windows = {
        language: language_windows
        for language in LANGUAGES
        if (
            language_windows := list(
                _cut_windows(records, language, tokenizer, template, window_length, settings.tokens)
            )
        )
    }
    if not windows:
        what = tr(
            "the validation split has fewer than {min_window} tokens of Chinese or English", min_window=_MIN_WINDOW
        )
        raise UserError(what, data[0], tr("increase validation_fraction"))
    requests = tuple(_build_requests(records, template, settings, window_length)) if template is not None else ()
    folder = scratch / "quality_report"
    folder.mkdir(exist_ok=True)
    _write_logprobs(files, windows, folder, context)
    return QualityReference(windows, folder, requests, _generate_completions(files, requests, folder))


def measure_quality(path: Path, reference: QualityReference, context: StageContext) -> Row:
    """Measure one GGUF file or quantized model folder.

    Args:
        path: The file or folder.
        reference: The results of the source model.
        context: Reports progress.

    Returns:
        The metrics of the worse language, and nested those of each language: `kl`, the mean of KL(source ‖ file) in
        nats per token; `perplexity_ratio`, the file's perplexity divided by the source's; `same_top_token`, the
        fraction of positions with the same most likely token. If there are prompts also `same_answers`, the fraction of
        greedy answers whose token ids equal the source's, `stop_rate`, the fraction that ended with a stop token, and
        `tokens_per_second` with one answer at a time on this machine.
    """
    by_language = _measure_languages(path, reference, context)
    languages = by_language.values()
    row: Row = {
        "kl": max(metrics["kl"] for metrics in languages),
        "perplexity_ratio": max(metrics["perplexity"] / metrics["source_perplexity"] for metrics in languages),
        "same_top_token": min(metrics["same_top_token"] for metrics in languages),
        **by_language,
    }
    if reference.requests:
        row |= _compare_answers(path, reference)
    return row


def find_unmet(row: Row, conditions: Sequence[Condition]) -> list[Condition]:
    """Find the conditions that a file does not meet.

    Args:
        row: The result of `measure_quality`.
        conditions: The conditions of the setting `pick`.

    Raises:
        UserError: A condition names a metric that was not measured.
    """
    for condition in conditions:
        if condition.figure not in row:
            what = tr(
                "'{figure}' was not measured: the validation split holds no conversations", figure=condition.figure
            )
            raise UserError(
                what,
                "pick",
                tr("add conversations to quality_report.held_out"),
            )
    return [condition for condition in conditions if not condition.holds(row[condition.figure])]


LogitsFunction = Callable[[Sequence[int], range], NDArray[np.float32]]
"""Returns the logits, float32 [positions, vocab_size], of a range of positions of the token ids of a window."""


@contextmanager
def _open_model(path: Path, max_length: int) -> Iterator[LogitsFunction]:
    """Load a GGUF file in llama.cpp, or a model folder in transformers, for windows of at most `max_length` tokens."""
    if path.is_dir():
        import torch

        from hanlin.models.load import load_model

        hf_model: Any = load_model(path)

        def compute_hf_logits(ids: Sequence[int], positions: range) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits = hf_model(torch.tensor([list(ids)], device=hf_model.device), use_cache=False).logits[0]
            return logits[positions.start : positions.stop].float().cpu().numpy()  # type: ignore[no-any-return]

        yield compute_hf_logits
        return
    model = LlamaCppModel(path)
    try:
        kv_cache = model.new_kv_cache(sequences=1, length=max_length, batch=max_length, cache_type="f32")
        try:

            def compute_gguf_logits(ids: Sequence[int], positions: range) -> NDArray[np.float32]:
                kv_cache.truncate(0, 0)
                (logits,) = kv_cache.decode([BatchItem(0, 0, ids, positions)])
                return logits

            yield compute_gguf_logits
        finally:
            kv_cache.close()
    finally:
        model.close()


def _measure_languages(path: Path, reference: QualityReference, context: StageContext) -> dict[str, Row]:
    total, done = sum(map(len, reference.windows.values())), 0
    max_length = max(len(ids) for windows in reference.windows.values() for ids in windows)
    metrics: dict[str, Row] = {}
    with _open_model(path, max_length) as compute_logits:
        for language, windows in reference.windows.items():
            sums = _MetricSums()
            for index, ids in enumerate(windows):
                sums.add(compute_logits(ids, scored_positions(len(ids))), ids, reference.logprobs(language, index))
                done += 1
                context.progress.update(done, total, tr("windows"))
            metrics[language] = sums.means()
    return metrics


@dataclass(slots=True)
class _MetricSums:
    """Sums over scored positions: negative log-likelihood of file and source, KL divergence, equal top tokens."""

    nll: float = 0.0
    source_nll: float = 0.0
    kl: float = 0.0
    same_top_token: int = 0
    positions: int = 0

    def add(self, logits: NDArray[np.float32], ids: Sequence[int], source_logprobs: NDArray[np.float32]) -> None:
        """Add a window of token ids: the file's logits and the source's log-probabilities, [positions, vocab_size]."""
        positions = scored_positions(len(ids))
        targets = np.array(ids)[positions.start + 1 : positions.stop + 1]
        for start in range(0, len(targets), _CHUNK_POSITIONS):
            source = np.asarray(source_logprobs[start : start + _CHUNK_POSITIONS])
            logprobs = log_softmax(logits[start : start + _CHUNK_POSITIONS])
            rows, chunk_targets = np.arange(len(source)), targets[start : start + _CHUNK_POSITIONS]
            self.nll -= float(logprobs[rows, chunk_targets].sum(dtype=np.float64))
            self.source_nll -= float(source[rows, chunk_targets].sum(dtype=np.float64))
            self.kl += float((np.exp(source) * (source - logprobs)).sum(dtype=np.float64))
            self.same_top_token += int((source.argmax(-1) == logprobs.argmax(-1)).sum())
        self.positions += len(targets)

    def means(self) -> Row:
        """Return the metrics of a language."""
        return {
            "tokens": self.positions,
            "perplexity": math.exp(self.nll / self.positions),
            "source_perplexity": math.exp(self.source_nll / self.positions),
            "kl": max(0.0, self.kl / self.positions),
            "same_top_token": self.same_top_token / self.positions,
        }


def scored_positions(length: int) -> range:
    """The positions of a window whose next token is scored: the second half, without the last position.

    For example 32 to 62 of a window of 64 tokens.
    """
    return range(length // 2, length - 1)


def _compare_answers(path: Path, reference: QualityReference) -> Row:
    engine = (
        create_engine("transformers", path, batch=1) if path.is_dir() else create_engine("llama_cpp", path, parallel=1)
    )
    try:
        start_time = time.perf_counter()
        completions = engine.generate(reference.requests)
        seconds = time.perf_counter() - start_time
    finally:
        engine.close()
    pairs = list(zip(completions, reference.completions, strict=True))
    return {
        "answers": len(pairs),
        "same_answers": sum(completion == source for completion, source in pairs) / len(pairs),
        "stop_rate": sum(completion.finish_reason == "stop" for completion in completions) / len(pairs),
        "source_stop_rate": sum(completion.finish_reason == "stop" for completion in reference.completions)
        / len(pairs),
        "tokens_per_second": round(count_steps(completions) / seconds, 1),
    }


def count_steps(completions: Sequence[Completion]) -> int:
    """How many tokens were generated: those of the answers, and the stop token of each that ended with one."""
    return sum(len(completion.ids) + (completion.finish_reason == "stop") for completion in completions)


def _write_logprobs(
    files: ModelFiles, windows: dict[str, list[tuple[int, ...]]], folder: Path, context: StageContext
) -> None:
    import torch

    from hanlin.models.dtypes import exact_dtype
    from hanlin.models.load import load_model

    missing = [
        (ids, path)
        for language, language_windows in windows.items()
        for index, ids in enumerate(language_windows)
        if not (path := folder / f"{language}-{index}.npy").is_file()
    ]
    if not missing:
        return
    check_free_space(folder, sum(4 * len(scored_positions(len(ids))) * files.vocabulary_rows for ids, _ in missing))
    model: Any = load_model(files.folder, dtype=exact_dtype(files))
    model.to(best_device())
    for index, (ids, path) in enumerate(missing):
        positions = scored_positions(len(ids))
        with torch.inference_mode():
            hidden = model.get_decoder()(torch.tensor([ids], device=model.device), use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[0, positions.start : positions.stop])
            logprobs = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        with open_atomic(path, "wb") as file:
            np.save(file, logprobs, allow_pickle=False)
        context.progress.update(index + 1, len(missing), tr("windows of the source"))
    context.progress.close()


def _generate_completions(
    files: ModelFiles, requests: Sequence[GenerationRequest], folder: Path
) -> tuple[Completion, ...]:
    """Generate the greedy answers of the source model, or read those of an interrupted run."""
    from hanlin.models.dtypes import exact_dtype

    if not requests:
        return ()
    file = folder / "replies.json"
    if not file.is_file():
        engine = create_engine("transformers", files.folder, dtype=exact_dtype(files))
        try:
            completions = engine.generate(requests)
        finally:
            engine.close()
        write_sorted_json(
            file, {"replies": [[list(completion.ids), completion.finish_reason] for completion in completions]}
        )
    rows = parse_json(file.read_text(encoding="utf-8"))["replies"]
    return tuple(Completion(tuple(ids), finish_reason) for ids, finish_reason in rows)


def _build_requests(
    records: Sequence[Conversation | Document], template: ChatTemplate, settings: QualityReport, max_length: int
) -> Iterator[GenerationRequest]:
    """Yield the prompt for the last answer of each conversation; prompts of `max_length` or more tokens are skipped."""
    remaining = settings.prompts
    sampling = SamplingParams(max_new_tokens=settings.max_new_tokens)
    for record in records:
        if remaining == 0:
            return
        if not isinstance(record, Conversation):
            continue
        answers = [index for index, turn in enumerate(record.messages) if turn.role == "assistant"]
        if not answers:
            continue
        last_answer = answers[-1]
        ids = template.render(record.messages[:last_answer], record.tools, prompt=True, where=record.id).ids
        if len(ids) < max_length:
            yield GenerationRequest(tuple(ids), template.stop_ids, sampling)
            remaining -= 1


def _cut_windows(
    records: Sequence[Conversation | Document],
    language: str,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    window_length: int,
    max_tokens: int,
) -> Iterator[tuple[int, ...]]:
    """Cut the text of one language into windows of token ids.

    The text is documents joined by line breaks, then rendered conversations; if there is enough of both, each has half
    of `max_tokens`. Every window starts with the begin token, if the tokenizer adds one.
    """
    texts, remaining = [], max_tokens * _CHARACTERS_PER_TOKEN
    rendered: list[int] = []
    for record in records:
        if isinstance(record, Document) and remaining > 0 and answer_language(record.text) == language:
            texts.append(record.text)
            remaining -= len(record.text)
        elif isinstance(record, Conversation) and len(rendered) < max_tokens:
            answers = "".join(turn.text for turn in record.messages if turn.role == "assistant")
            if template is not None and answer_language(answers) == language:
                rendered += [token_id for one in template.render_conversation(record)[-1:] for token_id in one.ids]
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    ids = [*begin, *tokenizer.encode("\n".join(texts))] if texts else []
    ids = [*ids[: max_tokens - min(len(rendered), max_tokens // 2)], *rendered][:max_tokens]
    size = min(window_length, len(ids))
    if size < _MIN_WINDOW:
        return
    for start in range(0, len(ids) - size + 1, size):
        yield (*begin, *ids[start + len(begin) : start + size])


def _read_records(file: Path) -> Iterator[Conversation | Document]:
    yield from read_jsonl(file, record_class(file))  # type: ignore[type-var]
