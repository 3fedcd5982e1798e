"""The stage `gguf`: writes a model folder as GGUF files, tensor by tensor straight from its safetensors, and verifies
each file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import save_tokenizer
from hanlin.config.settings.export import Gguf, parse_conditions
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, read_json, write_sorted_json
from hanlin.core.i18n import tr
from hanlin.export import quality
from hanlin.export.gguf import verify
from hanlin.export.gguf.source import GgufSource, check_imatrix, count_names, load_source
from hanlin.export.gguf.writer import count_fallback_tensors, gguf_path, write_files
from hanlin.export.quality_page import write_card
from hanlin.parity import check as parity


def run(settings: Gguf, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `model-<TYPE>.gguf` for each type, with the tokenizer's files beside them.

    A file gets its name only when it is complete, so that a killed run goes on with the types that are missing; equal
    input gives equal bytes. Peak memory is a few chunks of `quantize.CHUNK_BYTES`, whatever the model's size; the
    comparison of probabilities loads the model itself as well.

    Raises:
        UserError: The model cannot be written, no type reaches `pick`, or the disk is full.
    """
    source = load_source(inputs.path("model"), inputs.optional_path("importance"))
    for name in settings.types:
        check_imatrix(source, name)
    held_out = inputs.paths("quality_report.held_out")
    if settings.quality_report is None:
        write_files(settings.types, settings, source, out, context)
        return _verify_files(settings.types, settings, source, out, context)
    reference = quality.prepare_reference(
        settings.quality_report,
        held_out,
        source.files,
        source.tokenizer,
        source.template,
        context.scratch_folder(out),
        context,
    )
    quality_reports: dict[str, quality.Row] = {}
    kept_types: tuple[str, ...] = settings.types
    if settings.pick:
        kept_types = (_pick_smallest(settings, source, reference, quality_reports, out, context),)
    else:
        write_files(kept_types, settings, source, out, context)
    quality_reports |= {name: _measure_once(name, source, reference, out, context) for name in kept_types}
    metrics = _verify_files(kept_types, settings, source, out, context)
    for file_type in kept_types:
        metrics[file_type] |= quality_reports[file_type]
    rejected = {name: {**row, "kept": False} for name, row in quality_reports.items() if name not in kept_types}
    if settings.pick:
        metrics |= {"picked": kept_types[0], "rejected": rejected}
    rows = {**rejected, **{name: quality_reports[name] for name in kept_types}}
    write_card(out, settings.name, settings.license, rows, _note(settings, kept_types))
    return metrics


def _note(settings: Gguf, kept_types: Sequence[str]) -> str:
    if not settings.pick:
        return ""
    return f"{kept_types[0]} is the smallest that reaches `{settings.pick}`. {kept_types[0]} 是达到该条件的最小类型。"


def _pick_smallest(
    settings: Gguf,
    source: GgufSource,
    reference: quality.QualityReference,
    quality_reports: dict[str, quality.Row],
    out: Path,
    context: StageContext,
) -> str:
    """Make the types from the smallest up until one meets the conditions of `pick`; the others are measured and
    deleted, their reports stay. Raises UserError if none does.
    """
    conditions = parse_conditions(settings.pick)
    for name in sorted(settings.types, key=lambda name: sum(source.tensor_sizes(name))):
        if not _report_file(name, out, context).is_file():
            write_files((name,), settings, source, out, context)
        quality_reports[name] = _measure_once(name, source, reference, out, context)
        if not quality.find_unmet(quality_reports[name], conditions):
            write_files((name,), settings, source, out, context)
            return name
        gguf_path(out, name).unlink(missing_ok=True)
    shown = ", ".join(f"{name} kl {row['kl']:.3g}" for name, row in quality_reports.items())
    what = tr("no type meets {pick}: {shown}", pick=settings.pick, shown=shown)
    raise UserError(what, "pick", tr("relax the condition, or add larger types"))


def _report_file(name: str, out: Path, context: StageContext) -> Path:
    return context.scratch_folder(out) / f"quality_report-{name}.json"


def _measure_once(
    name: str, source: GgufSource, reference: quality.QualityReference, out: Path, context: StageContext
) -> quality.Row:
    """The quality report of a file; it is kept, so that a resumed run does not measure it again."""
    file = _report_file(name, out, context)
    if not file.is_file():
        row = {
            "bytes": gguf_path(out, name).stat().st_size,
            "bits_per_weight": source.bits_per_weight(name),
            **quality.measure_quality(gguf_path(out, name), reference, context),
        }
        write_sorted_json(file, row)
    return read_json(file)


def _verify_files(
    types: Sequence[str], settings: Gguf, source: GgufSource, out: Path, context: StageContext
) -> dict[str, Any]:
    with catch_full_disk(out):
        save_tokenizer(source.tokenizer, source.template, out)
    reference = verify.compute_source_logprobs(source.files, source.tokenizer) if settings.compare else None
    tokenizer_check = verify.TokenizerCheck(source.tokenizer, source.vocabulary, source.stop_ids)
    metrics: dict[str, Any] = {"weights": source.weights}
    for index, name in enumerate(types):
        context.progress.update(index, len(types), tr("files"))
        file = gguf_path(out, name)
        tokenizer_check.check(file)
        row: dict[str, Any] = {
            "bytes": file.stat().st_size,
            "bits_per_weight": source.bits_per_weight(name),
            "tensors": count_names(kind.name for kind in source.tensor_types(name)),
        }
        narrow = count_fallback_tensors(source, name)
        if narrow:
            row |= {"fallback_tensors": sum(narrow.values()), "fallback_types": narrow}
        if reference is not None:
            row |= verify.compare_logprobs(file, name, reference)
        metrics[name] = row
    context.progress.close()
    if source.template is not None:
        files = [gguf_path(out, name) for name in types]
        metrics["parity"] = parity.verify(ChatTemplate.load(out), out, files)
    return {**metrics, "tokenizer": tokenizer_check.metrics}
