"""`hanlin data report`: what data stages kept, dropped and changed, on one page.

Decides which stages a path means, and draws the page; the figures come from `data/report/stats`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import command
from hanlin.cli.options import AsJson, refuse_options
from hanlin.cli.output import echo, echo_data, print_json
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.i18n import language, mark, tr
from hanlin.core.version import __version__

if TYPE_CHECKING:
    from hanlin.chat.token_counts import TokenCounter

MAX_FILES = 400
"""Files of a stage that the page lists, those with the most rows; `--json` has all of them."""
_LANGUAGES = {
    "zh-Hans": mark("simplified Chinese"),
    "zh-Hant": mark("traditional Chinese"),
    "yue": mark("Cantonese"),
    "en": mark("English"),
    "other": mark("other"),
    "none": mark("no letters"),
}


def add_to(app: typer.Typer) -> None:
    """Give `hanlin data` the command `report`."""
    command(
        app,
        tr(
            "Write a page on what data stages kept, dropped and changed\n\nIt shows rows by reason, lengths, "
            "languages, licenses, samples, and near duplicates side by side. PATH: a data artifact, the "
            "folder runs/NAME of a recipe (all its data stages), or any data files, which are tried with "
            "their stage's default rules."
        ),
    )(report)


def report(
    context: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(help=tr("artifact, run folder or data"), show_default=False),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help=tr("folder with a tokenizer: lengths in tokens")),
    ] = None,
    template: Annotated[
        str,
        typer.Option(help=tr("packaged chat template or Jinja file, if the folder has none")),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help=tr("page to write (default: data_report.html, none with --json)"))
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help=tr("kept records to read of each stage"))] = 20_000,
    shown: Annotated[int, typer.Option(min=0, help=tr("samples of each kind"))] = 6,
    as_json: AsJson = False,
) -> None:
    from hanlin.data.report.stats import SampleSizes, compute_stage_stats

    if model is None:
        refuse_options(context, ("template",), tr("lengths in tokens need --model"))
    make_token_counter = None if model is None else _token_counter(model, template)
    sizes = SampleSizes(sample=sample, kept=shown, dropped=shown, pairs=shown)
    with _open_stages(path) as folders:
        stages = [compute_stage_stats(folder, name, sizes, make_token_counter) for name, folder in folders.items()]
    figures = {
        "path": str(path),
        "hanlin": __version__,
        "tokenizer": None if model is None else str(model),
        "stages": stages,
    }
    if as_json:
        print_json(figures)
    else:
        out = out or Path("data_report.html")
    if out is not None:
        _write_page(out, figures)
        if as_json:
            echo(tr("page: {path}", path=out), err=True)
        else:
            echo_data(str(out))


def _token_counter(model: Path, template: str) -> Callable[[str], TokenCounter]:
    from hanlin.chat.token_counts import make_token_counter

    return lambda records: make_token_counter(records, model, template)


@contextmanager
def _open_stages(path: Path) -> Iterator[Mapping[str, Path]]:
    """The data artifacts that a path means, by the names of their stages, in the order in which they were made.

    Raises:
        UserError: There is no such path.
    """
    from hanlin.data.report.stats import is_data_artifact
    from hanlin.pipeline.manifest import read_manifest

    if not path.exists():
        raise UserError(tr("no such file or folder"), path, suggest_path(path), "not_found")
    if path.is_dir() and is_data_artifact(path):
        yield {path.name: path}
        return
    linked = {entry.name: _resolve_link(entry) for entry in sorted(path.iterdir())} if path.is_dir() else {}
    stages = {name: folder for name, folder in linked.items() if folder.is_dir() and is_data_artifact(folder)}
    if stages:

        def start_time(name: str) -> str:
            manifest = read_manifest(stages[name])
            return "" if manifest is None else manifest.started

        yield {name: stages[name] for name in sorted(stages, key=lambda name: (start_time(name), name))}
        return
    with tempfile.TemporaryDirectory(prefix="hanlin-report-") as folder:
        yield _ingest_files(path, Path(folder))


def _resolve_link(entry: Path) -> Path:
    """What an entry of a run's folder points at: a link, or on systems without links a small file with the path."""
    if entry.is_file() and not entry.suffix and entry.stat().st_size < 4096:
        try:
            return entry.parent / entry.read_text(encoding="utf-8").strip()
        except (UnicodeDecodeError, OSError):
            return entry
    return entry


def _ingest_files(path: Path, scratch: Path) -> dict[str, Path]:
    """Read files that no stage has read with the stages that they fit; return the results by stage."""
    from hanlin.data.io.sources import SourceFile, find_files
    from hanlin.data.report.inspect import detect_stage, run_stage

    by_stage: dict[str, list[SourceFile]] = {}
    for file in find_files([str(path)]).files:
        by_stage.setdefault(detect_stage(file), []).append(file)
    folders = {}
    for stage, files in by_stage.items():
        folders[stage] = scratch / stage
        folders[stage].mkdir()
        try:
            run_stage(stage, files, folders[stage])
        except UserError:
            if not (folders[stage] / "ledger.json").is_file():
                raise
    return folders


# --- the page ---------------------------------------------------------------------------------------------------------


def _write_page(out: Path, figures: Mapping[str, Any]) -> None:
    from hanlin.config.reasons import DROP_REASONS
    from hanlin.core.files import write_text
    from hanlin.web.pages.render import render_page

    values = {
        **figures,
        "stages": [_page_values(stage) for stage in figures["stages"]],
        "title": Path(figures["path"]).name or Path(figures["path"]).resolve().name,
        "languages": _LANGUAGES,
        "reasons": DROP_REASONS,
        "chinese": language() == "zh",
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        filters = {"number": "{:,}".format, "share": _percent}
        write_text(out, render_page("data_report.html", values, filters))
    except OSError as error:
        raise UserError(tr("cannot be written: {strerror}", strerror=error.strerror), out) from error


def _percent(part: float, total: float) -> str:
    percent = 100 * part / total if total else 0.0
    return f"{percent:.1f} %" if percent >= 0.1 or not part else "< 0.1 %"


def _page_values(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage with what only the page needs: the files with the most rows, and bars."""
    files = sorted(stage["files"], key=lambda row: -row["rows_in"])
    return {
        **stage,
        "files": files[:MAX_FILES],
        "all_files": len(files),
        "bars": _bars(stage["lengths"]["bins"]),
        "licenses": stage["licenses"] if any(stage["licenses"]) else {},
    }


def _bars(bins: Sequence[Mapping[str, Any]], width: int = 700, height: int = 150) -> list[dict[str, Any]]:
    """The bars of a histogram and their labels, in a box of `width` by `height` pixels."""
    largest = max((bin_["records"] for bin_ in bins), default=0) or 1
    step = width / max(len(bins), 1)
    return [
        {
            "x": round(index * step + 0.08 * step, 1),
            "middle": round((index + 0.5) * step, 1),
            "width": round(0.84 * step, 1),
            "height": round(height * bin_["records"] / largest, 1),
            "label": _short_number(bin_["from"]),
            **bin_,
        }
        for index, bin_ in enumerate(bins)
    ]


def _short_number(value: int) -> str:
    """16384 as 16k: the bins double, so the digits that are left out are known."""
    for size, letter in ((1 << 20, "M"), (1 << 10, "k")):
        if value >= size:
            return f"{value // size}{letter}"
    return str(value)
