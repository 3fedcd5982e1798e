"""`hanlin vocab report`: characters per token by genre, what each thousand entries gains, what they cost.

Decides what the words of the command mean and shows the figures, which come from `tokenizer/report`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.help import command
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.i18n import language, tr
from hanlin.core.version import __version__

if TYPE_CHECKING:
    from hanlin.tokenizer.report.measure import ModelSizes
    from hanlin.tokenizer.tokenizer import Tokenizer


def add_to(app: typer.Typer) -> None:
    """Give `hanlin vocab` the command `report`."""
    command(
        app,
        tr(
            "Compare tokenizers on your texts\n\nIt shows the characters per token of each genre and, for a tokenizer "
            "that extends the first one, what each thousand entries gains and how many pay for themselves. TOKENIZER: "
            "a folder, a tokenizer.json or tokenizer.model, or a GGUF file; the first is what the others are compared "
            "with."
        ),
    )(report)


def report(
    tokenizers: Annotated[
        list[Path],
        typer.Argument(metavar="TOKENIZER", help=tr("tokenizers, the first to compare with"), show_default=False),
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help=tr("genre and its .txt or .jsonl, file or folder; may repeat")),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help=tr("folder with a config.json, for memory; default: that of a TOKENIZER")),
    ] = None,
    step: Annotated[int, typer.Option(min=1, help=tr("entries from one point of the curve to the next"))] = 1000,
    min_gain: Annotated[
        float,
        typer.Option(min=0, max=100_000, help=tr("percent per 1,000 entries that pays for itself")),
    ] = 1.0,
    page: Annotated[Path | None, typer.Option(help=tr("write a page too"))] = None,
    as_json: AsJson = False,
) -> None:
    from hanlin.core.progress import Progress
    from hanlin.tokenizer.report.measure import ALL, compare_tokenizers

    paths = _read_texts_option(text or [], ALL)
    loaded = _load(tokenizers)
    sizes = _read_sizes(model, tokenizers)
    progress = Progress(tr("vocabulary report"))
    texts = {name: _require_characters(name, path) for name, path in paths.items()}
    rows = compare_tokenizers(loaded, texts, sizes=sizes, step=step, min_gain=min_gain, progress=progress)
    progress.close()
    figures = {"hanlin": __version__, "texts": {name: str(path) for name, path in paths.items()}, "tokenizers": rows}
    if as_json:
        print_json(figures)
    else:
        _print(rows)
    if page is not None:  # after the figures, which a page that cannot be written does not take away
        _write_page(page, figures)
        echo(tr("page: {path}", path=page), err=as_json)


def _read_texts_option(words: Sequence[str], reserved: str) -> dict[str, Path]:
    """The texts by genre. Raises UserError if there is none, or a word does not say one."""
    if not words:
        hint = tr("for example --text modern=articles.txt --text classical=classics/")
        raise UserError(tr("there is no text to measure on"), "--text", hint)
    texts: dict[str, Path] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path):
            raise UserError(tr("'{word}' is not NAME=PATH", word=word), "--text", tr("for example modern=articles.txt"))
        if name in texts or name == reserved:
            what = tr("the name '{name}' is taken already", name=name)
            raise UserError(what, "--text", tr("give each text a name of its own"))
        texts[name] = Path(path)
        if not texts[name].exists():
            raise UserError(tr("no such file or folder"), path, suggest_path(path), "not_found")
    return texts


def _require_characters(name: str, path: Path) -> Iterator[str]:
    """The texts of a path. Raises UserError at their end if they have no character."""
    from hanlin.core.discover import read_texts

    blank = True
    for text in read_texts([path]):
        blank = blank and not text.strip()
        yield text
    if blank:
        what = tr("the text '{name}' has no characters", name=name)
        raise UserError(what, path, tr("lines of .txt and `text` of .jsonl files are read, other files are not"))


def _load(paths: Sequence[Path]) -> dict[str, Tokenizer]:
    """The tokenizers by the shortest name that tells them apart."""
    from hanlin.tokenizer.tokenizer import Tokenizer

    sources: list[Path] = []
    for path in paths:
        if not path.exists():
            raise UserError(tr("no such file or folder"), path, suggest_path(path), "not_found")
        source = _source(path)
        if source.resolve() in [known.resolve() for known in sources]:
            raise UserError(tr("this tokenizer is given twice"), path, tr("name each tokenizer once"))
        sources.append(source)
    names = [source.absolute().name for source in sources]
    return {
        name if names.count(name) == 1 else str(source): Tokenizer.load(source, accept_other_ids=True)
        for name, source in zip(names, sources, strict=True)
    }


def _source(path: Path) -> Path:
    """The folder of a tokenizer's file; a folder or GGUF file is itself."""
    from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE, TOKENIZER_FILE
    from hanlin.tokenizer.gguf_metadata import is_gguf_file

    if path.is_dir() or is_gguf_file(path):
        return path
    if path.name == SENTENCEPIECE_FILE and (path.parent / TOKENIZER_FILE).is_file():
        what = tr("tokenizer.json is beside it, and would be read instead")
        raise UserError(what, path, tr("copy tokenizer.model into a folder of its own"))
    if path.name not in (TOKENIZER_FILE, SENTENCEPIECE_FILE):
        hint = tr("name a folder, a tokenizer.json, a tokenizer.model or a .gguf file")
        raise UserError(tr("this is no tokenizer"), path, hint)
    return path.parent


def _read_sizes(model: Path | None, tokenizers: Sequence[Path]) -> ModelSizes | None:
    """The sizes of the model: of `model`, or of the first tokenizer that lies in a model's folder; None without one."""
    from hanlin.models.folder.checks import read_config
    from hanlin.models.folder.layout import CONFIG
    from hanlin.tokenizer.report.measure import ModelSizes

    if model is None:
        folders = [path if path.is_dir() else path.parent for path in tokenizers]
        model = next((folder for folder in folders if (folder / CONFIG).is_file()), None)
        if model is None:
            return None
    if not (model / CONFIG).is_file():
        raise UserError(tr("there is no {name} here", name=CONFIG), model, tr("name the folder of a model"))
    try:
        return ModelSizes.from_config(read_config(model))
    except KeyError as error:
        what = tr("the value {name} is not there", name=error.args[0])
        raise UserError(what, model / CONFIG, tr("name the folder of a Llama model")) from error


# --- what people read -------------------------------------------------------------------------------------------------


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    names = [row["name"] for row in rows]
    echo(tr("Characters per token"), bold=True)
    table = [
        [tr("all texts") if genre == "all" else genre, *(_density(row["texts"][genre]) for row in rows)]
        for genre in rows[0]["texts"]
    ]
    print_table([tr("text"), *names], table)
    for row in rows:
        if row["texts"]["all"]["unknown_tokens"]:
            what = tr(
                "{name} has {count} tokens for what it does not know: its characters per token say too much",
                name=row["name"],
                count=f"{row['texts']['all']['unknown_tokens']:,}",
            )
            echo(what)
    for row in rows[1:]:
        _print_growth(row)
    _print_costs(rows)


def _density(figure: Mapping[str, Any]) -> str:
    gain = figure["gain_percent"]
    return f"{figure['characters_per_token']:.3f}" + (f" ({gain:+.1f} %)" if gain else "")


def _print_growth(row: Mapping[str, Any]) -> None:
    growth = row["growth"]
    echo()
    if growth is None:
        echo(tr("{name} does not extend the first tokenizer by merges in order: no curve", name=row["name"]))
        return
    echo(tr("{name}: what its new entries gain, all texts together", name=row["name"]), bold=True)
    table = [
        [
            f"{point['entries']:,}",
            f"{point['characters_per_token']['all']:.3f}",
            "" if point["gain_percent_per_thousand"] is None else f"{point['gain_percent_per_thousand']:+.2f} %",
        ]
        for point in growth["points"]
    ]
    print_table([tr("new entries"), tr("characters per token"), tr("gain per 1,000 entries")], table)
    echo(_describe_size(growth))


def _describe_size(growth: Mapping[str, Any]) -> str:
    """The size that pays for itself, in a sentence."""
    gain = f"{growth['min_gain_percent']:g}"
    if not growth["pays"]:
        return tr("no step gains {gain} % per 1,000 entries on these texts: none of the entries pays", gain=gain)
    return tr(
        "{pays} of {entries} new entries pay: the last step up to there gains {gain} % per 1,000 or more",
        pays=f"{growth['pays']:,}",
        entries=f"{growth['new_entries']:,}",
        gain=gain,
    )


def _print_costs(rows: Sequence[Mapping[str, Any]]) -> None:
    echo()
    echo(tr("What they cost and save, against the first"), bold=True)
    headings = [tr("tokenizer"), tr("entries"), tr("forward steps saved")]
    table = [[row["name"], f"{row['entries']:,}", f"{row['steps_saved_percent']:.1f} %"] for row in rows]
    if rows[0]["memory"] is not None:
        headings += [tr("rows, MB more"), tr("KV cache of 8,192 tokens of the first, MB")]
        for line, row in zip(table, rows, strict=True):
            line += [f"{row['memory']['rows_mb']:,.1f}", f"{row['memory']['kv_cache_mb']:,.1f}"]
    print_table(headings, table)
    if rows[0]["memory"] is None:
        echo(tr("memory is not stated: name a model's folder with --model"))


def _write_page(out: Path, figures: Mapping[str, Any]) -> None:
    from hanlin.core.files import write_text
    from hanlin.web.pages.render import render_page
    from hanlin.web.pages.vocab_report import draw_bars, draw_growth

    rows = figures["tokenizers"]
    values = {
        **figures,
        "chinese": language() == "zh",
        "bars": draw_bars(rows),
        "curves": [(row, draw_growth(row["growth"])) for row in rows if row["growth"] is not None],
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, render_page("vocab_report.html", values, {"number": "{:,}".format}))
    except OSError as error:
        raise UserError(tr("cannot be written: {strerror}", strerror=error.strerror), out) from error
