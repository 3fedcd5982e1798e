"""`hanlin catalog models|datasets|tools|check`: what there is to train with. The data are in `catalog`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import language, tr

if TYPE_CHECKING:
    from hanlin.catalog.schema import CatalogEntry, DataSet, ListedTool, Model

app = new_app()
T = TypeVar("T", bound="CatalogEntry")
Words = Annotated[
    list[str], typer.Argument(help=tr("words that an entry must hold, such as 8b chatml 弱智吧"), show_default=False)
]
Lang = Annotated[str, typer.Option("--lang", help="zh, en")]


def use_language(lang: str) -> None:
    """Speak the language of `--lang` in this command. Raises UserError if there is no such language."""
    if lang not in ("", "zh", "en"):
        raise UserError(tr("there is no language '{lang}'", lang=lang), "--lang", "zh, en")
    if lang:
        os.environ["HANLIN_LANG"] = lang


@command(app, tr("Memory is in GB: to run in 16 and in 4 bits, to train fully, by LoRA and by QLoRA."))
def models(words: Words = [], lang: Lang = "", as_json: AsJson = False) -> None:
    from hanlin.catalog.entries import models as all_models

    use_language(lang)
    _show(all_models(), words, as_json, _model_row, tr("id,parameters,license,template,run,Q4_K_M,full,LoRA,QLoRA"))


@command(app)
def datasets(words: Words = [], lang: Lang = "", as_json: AsJson = False) -> None:
    from hanlin.catalog.entries import datasets as all_datasets

    use_language(lang)
    _show(all_datasets(), words, as_json, _dataset_row, tr("id,rows,size,languages,stage,format,license"))


@command(app)
def tools(words: Words = [], lang: Lang = "", as_json: AsJson = False) -> None:
    from hanlin.catalog.entries import tools as all_tools

    use_language(lang)
    _show(all_tools(), words, as_json, _tool_row, tr("id,sort,license,good for"))


@command(
    app,
    tr(
        "Asks Hugging Face, ModelScope and the other addresses whether names, pins and links still lead somewhere. "
        "HF_ENDPOINT and MODELSCOPE_ENDPOINT name mirrors. The exit code is 1 if something is gone."
    ),
)
def check(words: Words = [], lang: Lang = "", as_json: AsJson = False) -> None:
    from hanlin.catalog import entries
    from hanlin.catalog.check import check_links, failures, license_links, links_of

    use_language(lang)
    everything = (*entries.models(), *entries.datasets(), *entries.tools())
    chosen = _select(everything, words)
    links = [link for entry in chosen for link in links_of(entry)] + (license_links() if not words else [])
    if not as_json:
        echo(tr("asking for {count} addresses", count=len(links)), err=True)
    results = check_links(links)
    rows = [
        {"entry": r.link.entry, "field": r.link.field, "name": r.link.name, "url": r.link.url}
        | {"state": r.state, "note": r.note}
        for r in results
    ]
    wrong = failures(results)
    if as_json:
        print_json({"checked": len(results), "failed": len(wrong), "links": rows})
    else:
        shown = [row for row, result in zip(rows, results, strict=True) if words or result.state != "ok"]
        if shown:
            columns = ("entry", "field", "name", "state", "note")
            headings = tr("entry,field,name,state,note").split(",")
            print_table(headings, [[str(row[column]) for column in columns] for row in shown])
        echo(tr("{count} addresses, {failed} of them need a look", count=len(results), failed=len(wrong)))
    if wrong:
        raise typer.Exit(1)


def _select(entries: Sequence[T], words: Sequence[str]) -> list[T]:
    """The entries that hold all words. Raises UserError if none does."""
    from hanlin.catalog.entries import select_entries

    chosen = select_entries(entries, words)
    if not chosen:
        hint = did_you_mean(words[0], [entry.id for entry in entries]) if len(words) == 1 else None
        what = tr("no entry holds {words}", words=" ".join(words))
        raise UserError(what, "catalog", hint if hint and len(hint) < 200 else tr("leave words out, or try others"))
    return chosen


def _show(
    entries: Sequence[T], words: Sequence[str], as_json: bool, row: Callable[[Any], list[str]], headings: str
) -> None:
    """Print entries as a table, or one alone with all that is known of it."""
    chosen = _select(entries, words)
    exact = [entry for entry in chosen if [entry.id] == list(words)]
    chosen = exact or chosen
    if as_json:
        print_json([entry_as_json(entry) for entry in chosen])
        return
    print_table(headings.split(","), [row(entry) for entry in chosen])
    if len(chosen) == 1:
        _print_details(chosen[0])
    else:
        echo(
            tr("{count} entries; name one to see its hubs, its faults and what its license forbids", count=len(chosen))
        )


def entry_as_json(entry: CatalogEntry) -> dict[str, Any]:
    """An entry for programs, with its license, and for a model its parameters and the memory that it needs."""
    from hanlin.catalog.entries import licenses, shapes
    from hanlin.catalog.memory import estimate_needs

    data = entry.model_dump(mode="json") | {"license": licenses()[entry.license].model_dump(mode="json")}
    shape = getattr(entry, "shape", None)
    if shape is not None:
        needs = estimate_needs(shapes()[shape])
        data["parameters"] = needs.parameters
        data["bytes"] = {
            "disk": {form: round(size) for form, size in needs.disk.items()},
            "run": {form: round(size) for form, size in needs.run.items()},
            "train": {method: round(size) for method, size in needs.train.items()},
        }
    return data


def _model_row(model: Model) -> list[str]:
    from hanlin.catalog.entries import shapes
    from hanlin.catalog.memory import estimate_needs
    from hanlin.catalog.page import gigabytes

    if model.shape is None:
        return [model.id, "", model.license, model.template or "–", *[""] * 5]
    needs = estimate_needs(shapes()[model.shape])
    memory = [needs.run["bfloat16"], needs.run["Q4_K_M"], *needs.train.values()]
    size = f"{needs.parameters / 1e9:.3g} B"
    return [model.id, size, model.license, model.template or "–", *map(gigabytes, memory)]


def _dataset_row(entry: DataSet) -> list[str]:
    rows = "–" if entry.rows is None else f"{entry.rows:,}" + ("?" if "rows" in entry.unverified else "")
    return [entry.id, rows, entry.size or "–", " ".join(entry.languages), entry.use, entry.format or "–", entry.license]


def _tool_row(tool: ListedTool) -> list[str]:
    return [tool.id, tool.sort, tool.license, tool.good_for.to(language())]


def _print_details(entry: CatalogEntry) -> None:
    """Print everything that is known of one entry."""
    from hanlin.catalog.entries import licenses
    from hanlin.catalog.page import hub_page, missing_figures
    from hanlin.catalog.schema import DataSet, ListedTool, Model

    reader = language()
    license = licenses()[entry.license]
    lines = [(tr("name"), entry.name)]
    for hub, name in entry.hubs.items():
        doubt = tr("(unverified)") if hub in entry.unverified else ""
        lines.append((hub, f"{name}  {hub_page(hub, name, isinstance(entry, DataSet))} {doubt}".rstrip()))
    if entry.homepage:
        lines.append((tr("page"), entry.homepage))
    if entry.revision:
        lines.append((tr("commit"), entry.revision))
    lines.append((tr("good for"), entry.good_for.to(reader)))
    doubt = tr("(unverified)") if "license" in entry.unverified else ""
    lines += [
        (tr("license"), f"{license.name} {license.url} {doubt}".rstrip()),
        (tr("forbids"), license.forbids.to(reader)),
    ]
    if isinstance(entry, Model):
        lines += [(form, target) for form, target in entry.variants.items()]
        lines += (
            [(tr("agreement to sign"), tr("Hugging Face asks for one; ModelScope does not"))] if entry.gated else []
        )
    if isinstance(entry, DataSet) and entry.fields:
        lines.append((tr("fields"), ", ".join(f"{name}: {field}" for name, field in entry.fields.items())))
    if isinstance(entry, ListedTool):
        lines.append((tr("with Hanlin"), entry.with_hanlin.to(reader)))
    refused = getattr(entry, "refused", None)
    lines += [(tr("not read by Hanlin"), refused.to(reader))] if refused else []
    lines += [(tr("fault"), fault.to(reader)) for fault in entry.faults]
    lines += missing_figures(entry, tr)
    lines += [(tr("recipe"), text) for text in (entry.recipe, getattr(entry, "first_recipe", None)) if text]
    lines += _doubts(entry.unverified)
    lines += [(tr("source of {field}", field=field), url) for field, url in entry.sources.items()]
    print_table(["", ""], [[label, text] for label, text in lines])


def _doubts(fields: Iterable[str]) -> list[tuple[str, str]]:
    others = [field for field in fields if field not in ("hf", "ms", "wisemodel", "opencsg", "license")]
    return [(tr("unverified"), ", ".join(others))] if others else []
