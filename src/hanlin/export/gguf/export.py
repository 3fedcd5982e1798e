"""A model folder written as GGUF files, tensor by tensor, straight from its safetensors; each file is then proven.

Owns the order of the work, the files and their metadata. Does not own the tensors (`llama_tensors`), their types
(`mixtures`) and bytes (`quantize`), the tokenizer (`vocabulary`) or the proof (`proof`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import save_tokenizer
from hanlin.config.settings.export import Gguf, parse_conditions
from hanlin.core.context import Inputs, StageContext
from hanlin.core.disk import catch_full_disk
from hanlin.core.errors import UserError
from hanlin.core.files import read_json, write_sorted_json
from hanlin.core.i18n import say
from hanlin.export import quality
from hanlin.export.gguf import verify
from hanlin.export.gguf.source import Source, check_importance, key_settings, read_source
from hanlin.export.gguf.writer import _file, _narrow, write_files
from hanlin.export.quality_page import write_card
from hanlin.parity import check as parity


def run(settings: Gguf, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write `model-<TYPE>.gguf` for each type, with the tokenizer's files beside them.

    A file stands under its name only when it is whole, so that a killed run goes on with the types that lack; equal
    input gives equal bytes. Peak memory is a few slabs of `quantize.SLAB_BYTES`, whatever the model's size; the
    comparison of probabilities loads the model itself as well. Raises UserError for a model that cannot be written and
    for a full disk.
    """
    source = read_source(inputs.path("model"), inputs.optional_path("importance"))
    for name in settings.types:
        check_importance(source, name)
    held_out = inputs.paths("quality_report.held_out")
    if settings.quality_report is None:
        write_files(settings.types, settings, source, out, context)
        return _prove(settings.types, settings, source, out, context)
    reference = quality.prepare(
        settings.quality_report,
        held_out,
        source.files,
        source.tokenizer,
        source.template,
        context.scratch_folder(out),
        context,
    )
    quality_reports: dict[str, quality.Row] = {}
    kept: tuple[str, ...] = settings.types
    if settings.pick:
        kept = (_smallest(settings, source, reference, quality_reports, out, context),)
    else:
        write_files(kept, settings, source, out, context)
    quality_reports |= {name: _receipt(name, source, reference, out, context) for name in kept}
    metrics = _prove(kept, settings, source, out, context)
    for chosen in kept:
        metrics[chosen] |= quality_reports[chosen]
    passed_over = {name: {**row, "kept": False} for name, row in quality_reports.items() if name not in kept}
    if settings.pick:
        metrics |= {"picked": kept[0], "passed_over": passed_over}
    rows = {**passed_over, **{name: quality_reports[name] for name in kept}}
    write_card(out, settings.name, settings.license, rows, _note(settings, kept))
    return metrics


def _note(settings: Gguf, kept: Sequence[str]) -> str:
    if not settings.pick:
        return ""
    return f"{kept[0]} is the smallest that reaches `{settings.pick}`. {kept[0]} 是达到该条件的最小类型。"


def _smallest(
    settings: Gguf,
    source: Source,
    reference: quality.Reference,
    quality_reports: dict[str, quality.Row],
    out: Path,
    context: StageContext,
) -> str:
    """Make the types from the smallest up until one passes; the others are measured, remembered and deleted.

    Raises UserError when none does.
    """
    conditions = parse_conditions(settings.pick)
    for name in sorted(settings.types, key=lambda name: sum(source.sizes(name))):
        if not _receipt_file(name, out, context).is_file():
            write_files((name,), settings, source, out, context)
        quality_reports[name] = _receipt(name, source, reference, out, context)
        if not quality.failing(quality_reports[name], conditions):
            write_files((name,), settings, source, out, context)
            return name
        _file(out, name).unlink(missing_ok=True)
    shown = ", ".join(f"{name} kl {row['kl']:.3g}" for name, row in quality_reports.items())
    what = say(f"none of the types reaches {settings.pick}: {shown}", f"没有类型达到 {settings.pick}：{shown}")
    raise UserError(what, "pick", say("ask for less, or name larger types", "请放宽条件，或加入更大的类型"))


def _receipt_file(name: str, out: Path, context: StageContext) -> Path:
    return context.scratch_folder(out) / f"quality_report-{name}.json"


def _receipt(name: str, source: Source, reference: quality.Reference, out: Path, context: StageContext) -> quality.Row:
    """The quality_report of a file, measured once."""
    file = _receipt_file(name, out, context)
    if not file.is_file():
        row = {
            "bytes": _file(out, name).stat().st_size,
            "bits_per_weight": source.bits_per_weight(name),
            **quality.measure(_file(out, name), reference, context),
        }
        write_sorted_json(file, row)
    return read_json(file)


def _prove(types: Sequence[str], settings: Gguf, source: Source, out: Path, context: StageContext) -> dict[str, Any]:
    with catch_full_disk(out):
        save_tokenizer(source.tokenizer, source.template, out)
    reference = verify.reference_of(source.files, source.tokenizer) if settings.compare else None
    tokenizer_proof = verify.TokenizerProof(source.tokenizer, source.vocabulary, source.stop_ids)
    metrics: dict[str, Any] = {"weights": source.weights}
    for place, name in enumerate(types):
        context.progress.update(place, len(types), "files")
        file = _file(out, name)
        tokenizer_proof.check(file)
        row: dict[str, Any] = {
            "bytes": file.stat().st_size,
            "bits_per_weight": source.bits_per_weight(name),
            "tensors": key_settings(kind.name for kind in source.kinds(name)),
        }
        narrow = _narrow(source, name)
        if narrow:
            row |= {"narrow_tensors": sum(narrow.values()), "narrow_tensors_became": narrow}
        if reference is not None:
            row |= verify.compare_probabilities(file, name, reference)
        metrics[name] = row
    context.progress.close()
    if source.template is not None:
        files = [_file(out, name) for name in types]
        metrics["parity"] = parity.verify(ChatTemplate.load(out), out, files)
    return {**metrics, "tokenizer": tokenizer_proof.metrics}
