"""The command `hanlin data report`: what data stages kept, dropped and changed, on one page.

Owns which stages a path stands for, and the page. Does not own the figures (`data/reporting`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.output import print_json
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.version import __version__

if TYPE_CHECKING:
    from hanlin.chat.token_counts import Count

MOST_FILES = 400
"""Files of a stage that the page lists, those with the most rows; `--json` has all of them."""
_LANGUAGES = {
    "zh-Hans": ("simplified Chinese", "简体中文"),
    "zh-Hant": ("traditional Chinese", "繁体中文"),
    "yue": ("Cantonese", "粤语"),
    "en": ("English", "英文"),
    "other": ("other", "其他"),
    "none": ("no letters", "无文字"),
}


def add_to(app: typer.Typer) -> None:
    """Give `hanlin data` the command `report`."""
    app.command(
        help=say(
            "Write a page on what became of data: rows kept and dropped by reason, lengths, languages, licenses, "
            "samples, near copies side by side. PATH: a data artifact, the folder runs/NAME of a recipe (all its data "
            "stages), or any data files, which are tried with their stage's default rules.",
            "写出一页数据报告：保留与丢弃（按原因）、长度、语言、许可证、样例、近似重复对照。PATH 可为数据产物、"
            "配方的 runs/名称 文件夹（含其全部数据阶段），或任意数据文件（以默认规则试运行）。",
        )
    )(report)


def report(
    path: Annotated[
        Path,
        typer.Argument(help=say("artifact, run folder or data", "产物、运行文件夹或数据文件"), show_default=False),
    ],
    model: Annotated[
        Path | None,
        typer.Option(help=say("folder with a tokenizer: lengths in tokens", "含分词器的文件夹：以词元计长度")),
    ] = None,
    template: Annotated[
        str, typer.Option(help=say("packaged chat template, where the folder has none", "文件夹无模板时改用的内置模板"))
    ] = "",
    out: Annotated[Path, typer.Option(help=say("the page to write", "写出的网页"))] = Path("data_report.html"),
    sample: Annotated[
        int, typer.Option(min=1, help=say("kept records looked at per stage", "每个阶段查看多少条保留的记录"))
    ] = 20_000,
    shown: Annotated[int, typer.Option(min=0, help=say("samples of each kind", "每类样例数"))] = 6,
    as_json: Annotated[
        bool, typer.Option("--json", help=say("print the figures as JSON instead", "改为输出 JSON"))
    ] = False,
) -> None:
    from hanlin.data.report.stats import SampleSizes, compute_stage_stats

    counting = None if model is None else _counting(model, template)
    taken = SampleSizes(sample=sample, kept=shown, dropped=shown, pairs=shown)
    with _stages_of(path) as folders:
        stages = [compute_stage_stats(folder, name, taken, counting) for name, folder in folders.items()]
    figures = {
        "path": str(path),
        "hanlin": __version__,
        "tokenizer": None if model is None else str(model),
        "stages": stages,
    }
    if as_json:
        print_json(figures)
        return
    _write(out, figures)
    typer.echo(str(out))


def _counting(model: Path, template: str) -> Callable[[str], Count]:
    from hanlin.chat.token_counts import counter

    return lambda records: counter(records, model, template)


@contextmanager
def _stages_of(path: Path) -> Iterator[Mapping[str, Path]]:
    """The data artifacts that a path stands for, by the names of their stages, in the order in which they were made."""
    from hanlin.data.report.stats import is_data_artifact
    from hanlin.pipeline.manifest import read_manifest

    if not path.exists():
        raise UserError(say("no such file or folder", "文件或文件夹不存在"), path)
    if path.is_dir() and is_data_artifact(path):
        yield {path.name: path}
        return
    linked = {place.name: _followed(place) for place in sorted(path.iterdir())} if path.is_dir() else {}
    stages = {name: folder for name, folder in linked.items() if folder.is_dir() and is_data_artifact(folder)}
    if stages:

        def made(name: str) -> str:
            manifest = read_manifest(stages[name])
            return "" if manifest is None else manifest.started

        yield {name: stages[name] for name in sorted(stages, key=lambda name: (made(name), name))}
        return
    with tempfile.TemporaryDirectory(prefix="hanlin-report-") as folder:
        yield _tried(path, Path(folder))


def _followed(place: Path) -> Path:
    """What an entry of a run's folder points at: a link, or where there are none a small file that names the place."""
    if place.is_file() and not place.suffix and place.stat().st_size < 4096:
        try:
            return place.parent / place.read_text(encoding="utf-8").strip()
        except (UnicodeDecodeError, OSError):
            return place
    return place


def _tried(path: Path, scratch: Path) -> dict[str, Path]:
    """Files that no stage made, sifted by the stages that they fit."""
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


def _write(out: Path, figures: Mapping[str, Any]) -> None:
    from hanlin.data.ledger import REASONS
    from hanlin.web.pages import render

    values = {
        **figures,
        "stages": [_shown(stage) for stage in figures["stages"]],
        "title": Path(figures["path"]).name or Path(figures["path"]).resolve().name,
        "languages": _LANGUAGES,
        "reasons": REASONS,
        "chinese": say("en", "zh") == "zh",
        "most_files": MOST_FILES,
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        render.write(out, render.render("data_report.html", values, {"number": "{:,}".format, "share": _share}))
    except OSError as error:
        raise UserError(say(f"cannot be written: {error.strerror}", f"无法写入：{error.strerror}"), out) from error


def _share(part: float, whole: float) -> str:
    share = 100 * part / whole if whole else 0.0
    return f"{share:.1f} %" if share >= 0.1 or not part else "< 0.1 %"


def _shown(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage with what only the page needs: the most important files, and bars."""
    files = sorted(stage["files"], key=lambda row: -row["rows_in"])
    return {
        **stage,
        "files": files[:MOST_FILES],
        "all_files": len(files),
        "bars": _bars(stage["lengths"]["bins"]),
        "licenses": stage["licenses"] if any(stage["licenses"]) else {},
    }


def _bars(bins: Sequence[Mapping[str, Any]], width: int = 700, height: int = 150) -> list[dict[str, Any]]:
    """The bars of a histogram in a box of `width` by `height`, with what they are labeled."""
    most = max((bin_["records"] for bin_ in bins), default=0) or 1
    step = width / max(len(bins), 1)
    return [
        {
            "x": round(place * step + 0.08 * step, 1),
            "middle": round((place + 0.5) * step, 1),
            "width": round(0.84 * step, 1),
            "height": round(height * bin_["records"] / most, 1),
            "label": _short(bin_["from"]),
            **bin_,
        }
        for place, bin_ in enumerate(bins)
    ]


def _short(number: int) -> str:
    """16384 as 16k: the bins double, so that the rest of the number says nothing."""
    for size, sign in ((1 << 20, "M"), (1 << 10, "k")):
        if number >= size:
            return f"{number // size}{sign}"
    return str(number)
