"""The quality report of a quantized model: how far it is from the model it was made from, on held-out text.

Perplexity and KL divergence are measured as llama.cpp does (`tools/perplexity`): windows of equal length follow one
another, and the second half of each counts. The report's table and chart are in `quality_page`.
"""

from __future__ import annotations

import json
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
from hanlin.core.disk import check_free_space
from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, write_sorted_json
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
_MIN_WINDOW = 32
_ROWS_AT_ONCE = 64  # of logits at once
_CHARACTERS_PER_TOKEN = 8  # more than a tokenizer has on average, so that enough text is read

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class QualityReference:
    """What the source model gives on the held-out data.

    Attributes:
        windows: Windows of token ids by language.
        folder: Where its log-probabilities of their second halves are.
        requests: The held-out questions.
        replies: Its greedy answers to them.
    """

    windows: dict[str, list[tuple[int, ...]]]
    folder: Path
    requests: tuple[GenerationRequest, ...]
    replies: tuple[Completion, ...]

    def logprobs(self, language: str, place: int) -> NDArray[np.float32]:
        """Those of one window, float32 [scored positions, vocab_size]."""
        return np.load(self.folder / f"{language}-{place}.npy", mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def prepare_reference(
    settings: QualityReport,
    held_out: Sequence[Path],
    files: ModelFiles,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    scratch: Path,
    job: StageContext,
) -> QualityReference:
    """Run the source model once, for all files; what an earlier try left in `scratch` is not computed again.

    Args:
        settings: Window length, tokens and prompts.
        held_out: Data artifacts with a validation split.
        files: The source model.
        tokenizer: Its tokenizer.
        template: Its chat template, if it has one.
        scratch: Where results are kept.
        job: Reports progress.

    Raises:
        UserError: The validation splits hold too little Chinese or English for one window, or the log-probabilities,
            one for each measured token and vocabulary entry, do not fit the disk.
    """
    window = min(settings.window, int(files.config["max_position_embeddings"]))
    records = [record for path in held_out for record in _records(validation_file(path))]
    windows = {
        language: found
        for language in LANGUAGES
        if (found := list(_windows(records, language, tokenizer, template, window, settings.tokens)))
    }
    if not windows:
        what = tr(
            "the validation split has fewer than {min_window} tokens of Chinese or English", min_window=_MIN_WINDOW
        )
        raise UserError(what, held_out[0], tr("increase validation_fraction"))
    requests = tuple(_requests(records, template, settings, window)) if template is not None else ()
    folder = scratch / "quality_report"
    folder.mkdir(exist_ok=True)
    _write_logprobs(files, windows, folder, job)
    return QualityReference(windows, folder, requests, _replies(files, requests, folder))


def measure_quality(file: Path, reference: QualityReference, job: StageContext) -> Row:
    """Measure one GGUF file or quantized model folder.

    Returns:
        Figures, the worse of both languages, and those of each language: `kl`, the mean divergence KL(source ‖ file) in
        nats; `perplexity_ratio`, the file's perplexity divided by the source's; `same_top_token`, how often both have
        the same most likely token. If there are held-out questions also `same_answers`, the fraction of greedy answers
        that equal the source's id by id, `stop_rate`, and `tokens_per_second` of one answer at a time on this machine.
    """
    by_language = _by_language(file, reference, job)
    rows = by_language.values()
    row: Row = {
        "kl": max(figures["kl"] for figures in rows),
        "perplexity_ratio": max(figures["perplexity"] / figures["source_perplexity"] for figures in rows),
        "same_top_token": min(figures["same_top_token"] for figures in rows),
        **by_language,
    }
    if reference.requests:
        row |= _answers(file, reference)
    return row


def find_unmet(row: Row, conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions that a file does not meet. Raises UserError for a figure that was not measured."""
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
"""Gives the logits [positions, vocabulary] of some positions of a window of ids."""


@contextmanager
def _open_logits(path: Path, longest: int) -> Iterator[LogitsFunction]:
    """A GGUF file as llama.cpp runs it, or a model folder as transformers does."""
    if path.is_dir():
        import torch

        from hanlin.models.load import load_model

        network: Any = load_model(path)

        def logits_of_network(ids: Sequence[int], positions: range) -> NDArray[np.float32]:
            with torch.inference_mode():
                logits = network(torch.tensor([list(ids)], device=network.device), use_cache=False).logits[0]
            return logits[positions.start : positions.stop].float().cpu().numpy()  # type: ignore[no-any-return]

        yield logits_of_network
        return
    model = LlamaCppModel(path)
    try:
        kv_cache = model.new_kv_cache(sequences=1, length=longest, batch=longest, cache_type="f32")
        try:

            def logits_of_file(ids: Sequence[int], positions: range) -> NDArray[np.float32]:
                kv_cache.truncate(0, 0)
                (logits,) = kv_cache.decode([BatchItem(0, 0, ids, positions)])
                return logits

            yield logits_of_file
        finally:
            kv_cache.close()
    finally:
        model.close()


def _by_language(path: Path, reference: QualityReference, job: StageContext) -> dict[str, Row]:
    total, done = sum(map(len, reference.windows.values())), 0
    longest = max(len(ids) for windows in reference.windows.values() for ids in windows)
    found: dict[str, Row] = {}
    with _open_logits(path, longest) as ask:
        for language, windows in reference.windows.items():
            sums = _Sums()
            for place, ids in enumerate(windows):
                sums.add(ask(ids, scored_positions(len(ids))), ids, reference.logprobs(language, place))
                done += 1
                job.progress.update(done, total, tr("windows"))
            found[language] = sums.figures()
    return found


@dataclass(slots=True)
class _Sums:
    nats: float = 0.0
    source_nats: float = 0.0
    divergence: float = 0.0
    same: int = 0
    count: int = 0

    def add(self, logits: NDArray[np.float32], ids: Sequence[int], expected: NDArray[np.float32]) -> None:
        positions = scored_positions(len(ids))
        targets = np.array(ids)[positions.start + 1 : positions.stop + 1]
        for start in range(0, len(targets), _ROWS_AT_ONCE):
            source = np.asarray(expected[start : start + _ROWS_AT_ONCE])
            found = log_softmax(logits[start : start + _ROWS_AT_ONCE])
            rows, wanted = np.arange(len(source)), targets[start : start + _ROWS_AT_ONCE]
            self.nats -= float(found[rows, wanted].sum(dtype=np.float64))
            self.source_nats -= float(source[rows, wanted].sum(dtype=np.float64))
            self.divergence += float((np.exp(source) * (source - found)).sum(dtype=np.float64))
            self.same += int((source.argmax(-1) == found.argmax(-1)).sum())
        self.count += len(targets)

    def figures(self) -> Row:
        return {
            "tokens": self.count,
            "perplexity": math.exp(self.nats / self.count),
            "source_perplexity": math.exp(self.source_nats / self.count),
            "kl": max(0.0, self.divergence / self.count),
            "same_top_token": self.same / self.count,
        }


def scored_positions(length: int) -> range:
    """The positions of a window whose next token is scored: those of the second half, but for the last."""
    return range(length // 2, length - 1)


def _answers(path: Path, reference: QualityReference) -> Row:
    engine = (
        create_engine("transformers", path, batch=1) if path.is_dir() else create_engine("llama_cpp", path, parallel=1)
    )
    try:
        began = time.perf_counter()
        replies = engine.generate(reference.requests)
        seconds = time.perf_counter() - began
    finally:
        engine.close()
    pairs = list(zip(replies, reference.replies, strict=True))
    return {
        "answers": len(pairs),
        "same_answers": sum(one == other for one, other in pairs) / len(pairs),
        "stop_rate": sum(reply.finish_reason == "stop" for reply in replies) / len(pairs),
        "source_stop_rate": sum(reply.finish_reason == "stop" for reply in reference.replies) / len(pairs),
        "tokens_per_second": round(sum(len(reply.ids) + 1 for reply in replies) / seconds, 1),
    }


def _write_logprobs(
    files: ModelFiles, windows: dict[str, list[tuple[int, ...]]], folder: Path, job: StageContext
) -> None:
    import torch

    from hanlin.models.dtypes import exact_dtype
    from hanlin.models.load import load_model

    left = [
        (ids, target)
        for language, rows in windows.items()
        for place, ids in enumerate(rows)
        if not (target := folder / f"{language}-{place}.npy").is_file()
    ]
    if not left:
        return
    check_free_space(folder, sum(4 * len(scored_positions(len(ids))) * files.vocabulary_rows for ids, _ in left))
    model: Any = load_model(files.folder, dtype=exact_dtype(files))
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    for done, (ids, target) in enumerate(left):
        positions = scored_positions(len(ids))
        with torch.inference_mode():
            hidden = model.get_decoder()(torch.tensor([ids], device=model.device), use_cache=False).last_hidden_state
            logits = model.get_output_embeddings()(hidden[0, positions.start : positions.stop])
            logprobs = torch.log_softmax(logits.float(), dim=-1).cpu().numpy()
        with open_atomic(target, "wb") as file:
            np.save(file, logprobs, allow_pickle=False)
        job.progress.update(done + 1, len(left), tr("windows of the source"))
    job.progress.close()


def _replies(files: ModelFiles, requests: Sequence[GenerationRequest], folder: Path) -> tuple[Completion, ...]:
    from hanlin.models.dtypes import exact_dtype

    if not requests:
        return ()
    file = folder / "replies.json"
    if not file.is_file():
        engine = create_engine("transformers", files.folder, dtype=exact_dtype(files))
        try:
            replies = engine.generate(requests)
        finally:
            engine.close()
        write_sorted_json(file, {"replies": [[list(reply.ids), reply.finish_reason] for reply in replies]})
    rows = json.loads(file.read_text(encoding="utf-8"))["replies"]
    return tuple(Completion(tuple(ids), finish) for ids, finish in rows)


def _requests(
    records: Sequence[Conversation | Document], template: ChatTemplate, settings: QualityReport, context: int
) -> Iterator[GenerationRequest]:
    """The questions of held-out conversations up to their last answer, as far as they fit the context."""
    left = settings.prompts
    sampling = SamplingParams(max_new_tokens=settings.max_new_tokens)
    for record in records:
        if left == 0:
            return
        if not isinstance(record, Conversation):
            continue
        last = max(place for place, turn in enumerate(record.messages) if turn.role == "assistant")
        ids = template.render(record.messages[:last], record.tools, prompt=True, where=record.id).ids
        if len(ids) < context:
            yield GenerationRequest(tuple(ids), template.stop_ids, sampling)
            left -= 1


def _windows(
    records: Sequence[Conversation | Document],
    language: str,
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    window: int,
    tokens: int,
) -> Iterator[tuple[int, ...]]:
    """Documents joined by line breaks, then rendered conversations, cut into windows; each begins as a text does.

    Where there is enough of both, each gets half of `tokens`.
    """
    texts, left = [], tokens * _CHARACTERS_PER_TOKEN
    rendered: list[int] = []
    for record in records:
        if isinstance(record, Document) and left > 0 and answer_language(record.text) == language:
            texts.append(record.text)
            left -= len(record.text)
        elif isinstance(record, Conversation) and len(rendered) < tokens:
            said = "".join(turn.text for turn in record.messages if turn.role == "assistant")
            if template is not None and answer_language(said) == language:
                rendered += template.render_conversation(record).ids
    begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
    ids = [*begin, *tokenizer.encode("\n".join(texts))] if texts else []
    ids = [*ids[: tokens - min(len(rendered), tokens // 2)], *rendered][:tokens]
    size = min(window, len(ids))
    if size < _MIN_WINDOW:
        return
    for start in range(0, len(ids) - size + 1, size):
        yield (*begin, *ids[start + len(begin) : start + size])


def _records(file: Path) -> Iterator[Conversation | Document]:
    yield from read_jsonl(file, record_class(file))  # type: ignore[type-var]
