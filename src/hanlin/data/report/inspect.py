"""What is in a data file: its format and encoding, and what the stage for it would keep and drop, with samples.

The figures come from that stage itself, run with its default settings into a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.config.settings.data import Conversations, Corpus, Preferences, Reading, UnpairedPreferences
from hanlin.config.settings.sources import CHAT_FIELDS, DOCUMENT_FIELDS, PREFERENCE_FIELDS, UNPAIRED_FIELDS
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.core.records import read_jsonl
from hanlin.data.formats.detect import SAMPLE_ROWS, adapt_rows, find_class_fields, leave_out_texts
from hanlin.data.formats.look_alike import guess_stage
from hanlin.data.formats.registry import FORMATS_BY_STAGE
from hanlin.data.formats.trees.label_classes import take_classes
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.layout import detect_layout, read_rows
from hanlin.data.io.sources import SourceFile, find_files
from hanlin.data.ledger import Drop
from hanlin.data.stages import conversations, corpus, preferences, unpaired_preferences

if TYPE_CHECKING:
    from hanlin.chat.template import ChatTemplate

SAMPLES = 3
_STAGES: dict[str, tuple[type[Reading], Any, str]] = {
    "unpaired_preferences": (UnpairedPreferences, unpaired_preferences, "unpaired_preferences.jsonl"),
    "preferences": (Preferences, preferences, "preferences.jsonl"),
    "conversations": (Conversations, conversations, "conversations.jsonl"),
    "corpus": (Corpus, corpus, "documents.jsonl"),
}
_FIELDS = {
    "unpaired_preferences": UNPAIRED_FIELDS,
    "preferences": PREFERENCE_FIELDS,
    "conversations": CHAT_FIELDS,
    "corpus": DOCUMENT_FIELDS,
}


def inspect(
    paths: Sequence[str], settings: Mapping[str, Any] | None = None, template: ChatTemplate | None = None
) -> Iterator[dict[str, Any]]:
    """Inspect data files.

    Args:
        paths: Files, folders and globs.
        settings: Settings of a source for all files: format, encoding, fields, limit.
        template: The chat template that kept conversations and preferences are rendered with.

    Yields:
        For each file path, stage, format, encoding, records, rows_in, kept, dropped {reason: count}, changed
        {rule: count}, unread_fields {name: count}, read_languages {language: count}, characters and up to three
        samples of kept records; or path and
        `error` for a file that cannot be read, and `skipped` for one that has no reader. With a template also
        `refused`: for each reason how many kept records it has no form for, and the sentence on the first of them.

    Raises:
        UserError: There is no file.
    """
    listing = find_files(paths, settings)
    for file in listing.files:
        row: dict[str, Any] = {"path": str(file.path)}
        try:
            row |= _inspect_file(file, template)
        except UserError as error:
            row["error"] = str(error)
        except OSError as error:
            row["error"] = tr("cannot be read: {strerror}", strerror=error.strerror)
        yield row
    for name in listing.skipped:
        yield {
            "path": name,
            "skipped": True,
            "error": tr("skipped: not a data file"),
        }


def detect_stage(file: SourceFile) -> str:
    """Detect the stage whose formats fit most of the first rows of a file, each row in its first use.

    If none does, the one that they look made for: its error lists the formats that they may be meant to be.
    """
    format_name = file.settings.format
    named_stage = next(
        (
            stage
            for stage, formats in FORMATS_BY_STAGE.items()
            if any(candidate.name == format_name for candidate in formats)
        ),
        None,
    )
    if named_stage is not None:
        return named_stage
    with InputFile(file.path) as input_file:
        layout = detect_layout(file)
        first_rows = list(islice(read_rows(file, layout, input_file), SAMPLE_ROWS))
    counts: dict[str, int] = {}
    known_lines: set[int] = set()
    for stage, formats in FORMATS_BY_STAGE.items():
        fields = {
            field: source_field for field, source_field in file.settings.fields.items() if field in _FIELDS[stage]
        }
        settings = file.settings.model_copy(update={"fields": fields})
        adapted = adapt_rows(iter(first_rows), settings)
        rows = [row for row in adapted if not isinstance(row.value, Drop)]
        classes = find_class_fields(file, layout, rows)
        rows = [replace(row, value=take_classes(row.value, classes)[0]) for row in rows]
        has_texts = len(leave_out_texts([row.value for row in rows])) == len(rows)
        lines = {
            row.line
            for row in rows
            if (has_texts or not isinstance(row.value, str))
            and any(candidate.recognize(row.value) for candidate in formats if not candidate.is_second_use)
        }
        counts[stage] = len(lines - known_lines)
        known_lines |= lines
    if known_lines:
        return max(counts, key=counts.__getitem__)  # the first of those that fit as many rows
    return guess_stage([row.value for row in first_rows if not isinstance(row.value, Drop)])


def _inspect_file(file: SourceFile, template: ChatTemplate | None) -> dict[str, Any]:
    stage = detect_stage(file)
    with tempfile.TemporaryDirectory(prefix="hanlin-inspect-") as folder:
        out = Path(folder)
        try:
            run_stage(stage, [file], out, dedup="exact")
        except UserError:
            if not (out / "ledger.json").is_file():
                raise
        ledger = parse_json((out / "ledger.json").read_text(encoding="utf-8"))
        records = out / _STAGES[stage][2]
        samples = _read_samples(records, ledger["rows_kept"])
        refused = None if template is None or stage == "corpus" else _count_refused(records, stage, template)
    (file_stats,) = ledger["files"]
    return {
        "stage": stage,
        "format": file_stats["format"],
        "encoding": file_stats["encoding"],
        "records": file_stats["rows_in"],
        "rows_in": file_stats["rows_in"],
        "kept": file_stats["rows_kept"],
        "dropped": file_stats["dropped"],
        "changed": file_stats["changed"],
        "unread_fields": file_stats["unread_fields"],
        "read_languages": file_stats.get("read_languages", {}),
        "characters": file_stats["characters"],
        "samples": samples,
        **({} if refused is None else {"refused": refused}),
    }


def run_stage(stage: str, files: Sequence[SourceFile], out: Path, **overrides: Any) -> None:
    """Run a stage with its default settings on files of any quality, without a validation split.

    Args:
        stage: Name of the stage.
        files: Its input files.
        out: Folder to write to.
        overrides: Settings other than the defaults.
    """
    settings_type, module, _ = _STAGES[stage]
    sources = tuple(file.settings.model_copy(update={"path": str(file.path)}) for file in files)
    options: dict[str, Any] = {"on_error": "drop", "max_dropped": 1.0, "validation_fraction": 0.0, **overrides}
    inputs = Inputs({f"sources.{index}.path": (file.path,) for index, file in enumerate(files)})
    module.run(settings_type(sources=sources, **options), inputs, out, StageContext(progress=Progress(quiet=True)))


def _count_refused(path: Path, stage: str, template: ChatTemplate) -> dict[str, dict[str, Any]]:
    """The records of a file that a template has no form for: {reason: {count, first}}, the most frequent first."""
    from hanlin.chat.examples import CHAT_RECORDS, find_refusal  # only where a template is given: it loads tokenizers

    refused: dict[str, dict[str, Any]] = {}
    record_type: type[Any] = CHAT_RECORDS[stage]
    for record in read_jsonl(path, record_type):
        if (refusal := find_refusal(record, template)) is not None:
            refused.setdefault(refusal.reason, {"count": 0, "first": str(refusal)})["count"] += 1
    return dict(sorted(refused.items(), key=lambda item: -item[1]["count"]))


def _read_samples(path: Path, count: int) -> list[Any]:
    """The first record, the last and the one in the middle."""
    indices = {0, count // 2, count - 1} if count else set()
    with path.open(encoding="utf-8", newline="\n") as lines:
        return [parse_json(line) for index, line in enumerate(lines) if index in indices]
