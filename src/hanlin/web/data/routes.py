"""Routes of the data: the datasets of the folder, their rows, ledger, near copies, tokens, and corrections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Request, Response

from hanlin.config.reasons import DROP_REASONS, describe_reason
from hanlin.core.discover import RECORD_KINDS
from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.data.overlay import Overlay, OverlayEntry
from hanlin.data.report.excerpts import count_characters, diff_texts, split_parts, to_plain_text
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import read_manifest
from hanlin.serve.api.body import RequestBody
from hanlin.web.bodies import read_body
from hanlin.web.data.corrections import OverlayFile, correct, find_overlay, read_overlay, undo
from hanlin.web.data.dataset import PARTS, Dataset, DatasetCache, DatasetRow, histogram
from hanlin.web.data.dataset import Query as RowQuery
from hanlin.web.data.token_lengths import TokenLengthDesk
from hanlin.web.data.tokens import TokenDesk, TokenizerChoice, list_tokenizers, packaged_templates
from hanlin.web.frame import Frame
from hanlin.web.inside import find_artifact_folder
from hanlin.web.links import read_links
from hanlin.web.runs.artifact import used_by
from hanlin.web.runs.names import show_time

CACHE_FOLDER = "cache"
_MAX_EXCERPT = 700
_MAX_TEXT = 20_000
_MAX_DATASETS = 200
_SHOWN_RUNS = 3
"""Runs that are named beside a dataset."""


class Correction(RequestBody):
    """What the page sends to correct a row: its number, the id that it showed, and what to do.

    `content` is the new content of a fix, the JSON as it was typed: a browser that read and wrote it would round whole
    numbers of more than 15 digits, such as those of orders and identity cards.
    """

    part: str
    number: int
    id: str
    action: str
    content: str = ""
    note: str = ""


class Undo(RequestBody):
    """The correction to take back, by the hash of its record."""

    sha256: str


def make_router(frame: Frame) -> APIRouter:
    """The routes below `/ui/data`."""
    router = APIRouter()
    store = Store(frame.folder)
    cache = DatasetCache(frame.folder / "ui" / CACHE_FOLDER)
    desk = TokenDesk()
    lengths = TokenLengthDesk(desk)
    scripts = ("data/rows.js",)

    def open_dataset(name: str) -> Dataset:
        return cache.open(find_artifact_folder(store.artifacts, name))

    def common(name: str, dataset: Dataset) -> dict[str, Any]:
        return {
            "name": name,
            "dataset": dataset,
            "sizes": {part: dataset.size(part) for part in PARTS},
            "used_by": list(used_by(store, dataset.folder)),
            "describe_reason": _describe,
        }

    @router.get("/ui/data")
    def show_datasets(request: Request) -> Response:
        rows, hidden = list_datasets(store)
        return frame.render(request, "data/list.html", {"datasets": rows, "hidden": hidden}, view="data")

    @router.get("/ui/data/view/{name}")
    def show_rows(
        request: Request,
        name: str,
        part: str = "kept",
        first: int = 0,
        row: str = "",
        text: str = "",
        reason: str = "",
        least: str = "",
        most: str = "",
        turns: str = "",
        source: str = "",
    ) -> Response:
        dataset = open_dataset(name)
        _check_part(part)
        if (number := _number(row, "row")) is not None:  # as people count; links between pages count from 0
            first = number - 1
        query = RowQuery(
            text, reason, _number(least, "least"), _number(most, "most"), _number(turns, "turns"), source.strip()
        )
        page = dataset.page(part, max(0, first), query)
        overlay_file = find_overlay(store, dataset.folder)
        overlay, problem = _read(overlay_file)
        values = {
            **common(name, dataset),
            "part": part,
            "first": max(0, first),
            "query": query,
            "page": page,
            "rows": [_row_values(row, part, overlay) for row in page.rows],
            "overlay": overlay_file,
            "corrections": overlay.entries,
            "overlay_problem": problem,
            "reasons": dataset.reasons(),
        }
        return frame.render(request, "data/rows.html", values, view="data", scripts=scripts)

    @router.get("/ui/data/view/{name}/row")
    def show_row(
        request: Request, name: str, part: str = "kept", number: int = 0, tokenizer: str = "", template: str = ""
    ) -> Response:
        dataset = open_dataset(name)
        _check_part(part)
        row = dataset.row(part, number)
        overlay_file = find_overlay(store, dataset.folder)
        overlay, problem = _read(overlay_file)
        choices = list_tokenizers(store)
        tokens: Any = None
        token_problem = ""
        if tokenizer and row.data and part != "dropped":
            try:
                tokens = desk.parts(dataset.kind, row.data, frame.resolve(tokenizer), template)
            except UserError as error:
                token_problem = str(error)
        values = {
            **common(name, dataset),
            "part": part,
            "row": row,
            "shown": _row_values(row, part, overlay, _MAX_TEXT),
            "content": _content_json(row.data) if part != "dropped" else "",
            "original": _original_values(dataset, row) if part == "dropped" else None,
            "overlay": overlay_file,
            "overlay_problem": problem,
            "tokenizers": choices,
            "templates": packaged_templates() if choices and dataset.kind != "documents" else [],
            "tokenizer": tokenizer,
            "template": template,
            "tokens": tokens,
            "token_problem": token_problem,
        }
        return frame.render(request, "data/row.html", values, view="data", scripts=("data/row.js",))

    @router.get("/ui/data/view/{name}/ledger")
    def show_ledger(request: Request, name: str) -> Response:
        dataset = open_dataset(name)
        ledger = dataset.ledger
        values = {
            **common(name, dataset),
            "ledger": ledger,
            "files": [row for row in ledger.get("files") or ledger.get("sources") or [] if isinstance(row, dict)],
            "reasons": dataset.reasons(),
            "changed": _ranked(ledger.get("changed")),
            "unread": _ranked(ledger.get("unread_fields")),
            "cut": _ranked(ledger.get("cut_lines"))[:100],
        }
        return frame.render(request, "data/ledger.html", values, view="data")

    @router.get("/ui/data/view/{name}/lengths")
    def show_lengths(request: Request, name: str, tokenizer: str = "", template: str = "") -> Response:
        """Histograms in characters at once; those in tokens are counted meanwhile."""
        dataset = open_dataset(name)
        choices = list_tokenizers(store)
        used = list(used_by(store, dataset.folder))
        tokenizer = tokenizer or _choose_tokenizer(choices, [run for run, _ in used])
        sample = dataset.sample("kept")
        characters = [count_characters(row) for row in sample]
        turns = [len(row.get("messages") or row.get("prompt") or ()) for row in sample]
        values = {
            **common(name, dataset),
            "sampled": len(sample),
            "characters": _picture(characters),
            "turns": _picture(turns) if dataset.kind != "documents" else None,
            "tokenizers": choices,
            "templates": packaged_templates() if choices and dataset.kind != "documents" else [],
            **(count_values(dataset, tokenizer, template) if tokenizer else {"counted": None}),
        }
        return frame.render(request, "data/lengths.html", values, view="data")

    @router.get("/ui/data/view/{name}/lengths/tokens")
    def show_token_lengths(request: Request, name: str, tokenizer: str, template: str = "") -> Response:
        values = {"name": name, **count_values(open_dataset(name), tokenizer, template)}
        return frame.render(request, "data/token_lengths.html", values, view="data")

    def count_values(dataset: Dataset, tokenizer: str, template: str) -> dict[str, Any]:
        counted = lengths.count(dataset, frame.resolve(tokenizer), template)
        is_counted = counted.is_done  # asked once: the count may end while the page is written
        values: dict[str, Any] = {"counted": counted, "is_counted": is_counted}
        values |= {"tokenizer": tokenizer, "template": template}
        if is_counted and counted.lengths:
            values["tokens"] = _picture(counted.lengths)
            values["learned"] = _picture(counted.learned) if dataset.kind != "documents" else None
            values["learned_share"] = 100 * sum(counted.learned) / sum(counted.lengths)
        return values

    @router.get("/ui/data/view/{name}/copies")
    def show_copies(request: Request, name: str, first: int = 0, reason: str = "near_duplicate") -> Response:
        dataset = open_dataset(name)
        if reason not in ("near_duplicate", "contained", "duplicate"):
            raise UserError(tr("there is no reason {name}", name=repr(reason)))
        page = dataset.page("dropped", max(0, first), RowQuery(reason=reason), count=10)
        pairs = [_pair_values(dataset, row) for row in page.rows]
        values = {**common(name, dataset), "page": page, "pairs": pairs, "reason": reason, "first": max(0, first)}
        return frame.render(request, "data/copies.html", values, view="data")

    @router.get("/ui/data/view/{name}/overlay")
    def show_overlay(request: Request, name: str) -> Response:
        dataset = open_dataset(name)
        overlay_file = find_overlay(store, dataset.folder)
        overlay, problem = _read(overlay_file)
        values = {
            **common(name, dataset),
            "overlay": overlay_file,
            "entries": [_entry_values(entry) for entry in overlay.entries],
            "overlay_problem": problem,
        }
        return frame.render(request, "data/overlay.html", values, view="data", scripts=("data/overlay.js",))

    @router.post("/ui/data/view/{name}/correct")
    async def post_correction(request: Request, name: str) -> dict[str, Any]:
        return await run_sync(write_correction, name, await read_body(request, Correction))

    def write_correction(name: str, correction: Correction) -> dict[str, Any]:
        """Write a correction of a row. It is refused if the row is no longer the one that the reader saw."""
        dataset = open_dataset(name)
        if correction.part not in ("kept", "validation"):
            raise UserError(tr("only kept rows can be corrected"), correction.part)
        row = dataset.row(correction.part, correction.number)
        if row.data.get("id") != correction.id:
            raise UserError(tr("the data has changed since the page was loaded"), correction.id, tr("reload the page"))
        file = find_overlay(store, dataset.folder)
        content = _read_content(correction.content, correction.id) if correction.action == "fix" else None
        entry = correct(file, dataset.kind, row.data, correction.action, content, correction.note)
        return {"entry": entry.to_json(), "overlay": str(file.path), "setting": file.setting}

    @router.post("/ui/data/view/{name}/undo")
    async def post_undo(request: Request, name: str) -> dict[str, Any]:
        body = await read_body(request, Undo)
        await run_sync(lambda: undo(find_overlay(store, open_dataset(name).folder), body.sha256))
        return {"sha256": body.sha256}

    return router


def list_datasets(store: Store) -> tuple[list[dict[str, Any]], int]:
    """The data artifacts of a store, those of runs by their stages, the newest first."""
    found = []
    folders = list(store.artifacts.iterdir()) if store.artifacts.is_dir() else []
    folders = [folder for folder in folders if "." not in folder.name and folder.is_dir() and not folder.is_symlink()]
    folders.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
    names = read_links(store).by_artifact()
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except UserError:
            continue
        if manifest is None or manifest.type not in RECORD_KINDS:
            continue
        metrics = manifest.metrics
        found.append(
            {
                "name": folder.name,
                "kind": manifest.type,
                "runs": names.get(folder.name, [])[:_SHOWN_RUNS],
                "more_runs": max(0, len(names.get(folder.name, [])) - _SHOWN_RUNS),
                "kept": metrics.get("rows_kept", metrics.get("rows_written")),
                "rows_in": metrics.get("rows_in"),
                "changed": show_time(folder.stat().st_mtime),
                "megabytes": sum(entry.bytes for entry in manifest.files) / 1e6,
            }
        )
    return found[:_MAX_DATASETS], max(0, len(found) - _MAX_DATASETS)


def _choose_tokenizer(choices: Sequence[TokenizerChoice], runs: Sequence[str]) -> str:
    """The tokenizer that is shown first: of a run that the dataset is part of, the last one that it made; else any."""
    own = [choice.path for run in runs for choice in choices if choice.title.startswith(f"{run} / ")]
    return own[-1] if own else choices[0].path if choices else ""


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise UserError(tr("there is no part {name}", name=repr(part[:40])))


def _number(text: str, name: str) -> int | None:
    """A number of a filter; an empty field is none. Raises UserError for anything else."""
    text = text.strip()
    if not text:
        return None
    if not text.isdecimal() or len(text) > 12:
        raise UserError(tr("'{text}' is not a whole number", text=text[:40]), name)
    return int(text)


def _read(file: OverlayFile) -> tuple[Overlay, str]:
    """The overlay, and why it cannot be read if so: the data is shown all the same."""
    try:
        return read_overlay(file), ""
    except UserError as error:
        return Overlay(), str(error)


def _describe(reason: str) -> str:
    return describe_reason(reason) if reason in DROP_REASONS else reason


def _ranked(counts: Any) -> list[tuple[str, int]]:
    pairs = [(str(name), count) for name, count in counts.items()] if isinstance(counts, Mapping) else []
    return sorted((pair for pair in pairs if isinstance(pair[1], int)), key=lambda pair: (-pair[1], pair[0]))


def _row_values(row: DatasetRow, part: str, overlay: Overlay, limit: int = _MAX_EXCERPT) -> dict[str, Any]:
    """A row for the template: its parts as (label, text, characters that are left out), and what is known of it."""
    data = row.data
    content = data.get("row", data) if part == "dropped" else data
    shown = []
    left = limit
    for label, text in split_parts(content) if data else ():
        cut = text[: max(0, left)]
        left -= len(cut)
        shown.append((label, cut, len(text) - len(cut)))
    entry: OverlayEntry | None = overlay.find(data) if data and part != "dropped" else None
    return {
        "number": row.number,
        "id": str(data.get("id") or data.get("location") or ""),
        "source": str(data.get("source") or ""),
        "reason": str(data.get("reason") or "") if part == "dropped" else "",
        "detail": str(data.get("detail") or "") if part == "dropped" else "",
        "duplicate_of": str(data.get("duplicate_of") or "") if part == "dropped" else "",
        "meta": data.get("meta") if isinstance(data.get("meta"), Mapping) else {},
        "parts": shown,
        "characters": count_characters(content) if data else 0,
        "problem": row.problem,
        "entry": entry,
    }


def _read_content(text: str, where: str) -> Any:
    """The new content that was typed. Raises UserError if it is no JSON."""
    try:
        return parse_json(text)
    except ValueError as error:
        raise UserError(tr("The new content is not JSON: {problem}", problem=error), where) from error


def _content_json(data: Mapping[str, Any]) -> str:
    import json

    from hanlin.data.overlay import content_of

    return json.dumps(content_of(data), ensure_ascii=False, indent=2)


def _entry_values(entry: OverlayEntry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "sha256": entry.sha256,
        "action": entry.action,
        "note": entry.note,
        "parts": split_parts(entry.row) if entry.row else [],
    }


def _original_values(dataset: Dataset, row: DatasetRow) -> dict[str, Any] | None:
    """Of a dropped duplicate the record that it duplicates, beside it."""
    return _pair_values(dataset, row) if row.data.get("duplicate_of") else None


def _pair_values(dataset: Dataset, row: DatasetRow) -> dict[str, Any]:
    """A dropped copy and the record that was kept, with the characters in which they differ marked."""
    kept_id = str(row.data.get("duplicate_of") or "")
    kept = dataset.find_id(kept_id)
    copy_text = to_plain_text(row.data.get("row", ""))
    kept_text = "" if kept is None else to_plain_text(kept.data)
    copy_marked, kept_marked = (
        diff_texts(copy_text, kept_text) if kept is not None else ([(False, copy_text[:1200])], [])
    )
    return {
        "number": row.number,
        "location": str(row.data.get("location") or ""),
        "kept_id": kept_id,
        "is_found": kept is not None,
        "dropped": copy_marked,
        "kept": kept_marked,
        "copy_characters": len(copy_text),
        "kept_characters": len(kept_text),
    }


def _picture(values: list[int]) -> dict[str, Any]:
    """A histogram for the template: bars with their heights, and what is told of the values."""
    bins = histogram(values)
    highest = max((count for _, _, count in bins), default=1)
    ordered = sorted(values)

    def quantile(share: float) -> int:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0

    return {
        "bars": [
            {"first": first, "last": end - 1, "count": count, "height": round(120 * count / highest, 1)}
            for first, end, count in bins
        ],
        "median": quantile(0.5),
        "most": ordered[-1] if ordered else 0,
        "least": ordered[0] if ordered else 0,
        "tenth": quantile(0.1),
        "ninetieth": quantile(0.9),
    }
