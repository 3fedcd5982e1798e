"""The pages of the catalog, made from its data files: `docs/*/catalog_models.md` and those of data sets and tools."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hanlin.catalog.entries import datasets, licenses, models, shapes, tools
from hanlin.catalog.memory import RANK, RUN_CONTEXT, SEQUENCE, estimate_needs
from hanlin.catalog.schema import WHY_MISSING, CatalogEntry, DataSet, Hub, ListedTool, Model, Sourced
from hanlin.core.i18n import Language, mark, translate

PAGES: tuple[Hub | str, ...] = ("models", "datasets", "tools")
PAGE_ADDRESSES: dict[Hub, str] = {
    "hf": "https://huggingface.co/{sort}{name}",
    "ms": "https://modelscope.cn/{kind}/{name}",
    "wisemodel": "https://wisemodel.cn/{kind}/{name}",
    "opencsg": "https://opencsg.com/{kind}/{name}",
}


def hub_page(hub: Hub, name: str, is_dataset: bool) -> str:
    """The address of the page of a repository, for people."""
    sort = "datasets/" if is_dataset else ""
    return PAGE_ADDRESSES[hub].format(name=name, sort=sort, kind="datasets" if is_dataset else "models")


def gigabytes(size: float) -> str:
    """Bytes as GB with three digits at most, such as `17.4`, `149`, `0.98`."""
    return f"{size / 1e9:.3g}" if size < 9.995e11 else f"{size / 1e9:,.0f}"


def _models(language: Language) -> list[str]:
    def t(message: str) -> str:
        return translate(message, language)

    lines = [
        f"# {t(mark('Catalog: models'))}",
        "",
        t(mark("Models to begin with, and what others made of them; `make docs` writes this page.")),
        "",
        *_legend(t),
        "",
        t(
            mark(
                "Memory is computed from the dimensions by the estimate that `hanlin plan` uses, in GB. Run: one "
                "conversation of {context} tokens. Train: bfloat16, one sequence of {sequence} tokens at a time, "
                "gradient checkpointing; LoRA and QLoRA of rank {rank} on all linear layers. What a GPU's driver takes "
                "is included."
            )
        ).format(context=RUN_CONTEXT, sequence=SEQUENCE, rank=RANK),
        "",
    ]
    sections: Sequence[tuple[str, Callable[[Model], bool]]] = (
        (mark("Base models"), lambda m: m.kind == "base" and m.refused is None),
        (mark("Chat models"), lambda m: m.kind == "chat" and m.refused is None),
        (mark("Models that reason"), lambda m: m.kind == "reasoning" and m.refused is None),
        (mark("Adapters"), lambda m: m.kind == "adapter" and m.refused is None),
        (mark("Not read by Hanlin"), lambda m: m.refused is not None),
    )
    for title, belongs in sections:
        chosen = [model for model in models() if belongs(model)]
        lines += [f"## {t(title)}", ""]
        if chosen[0].refused is None:
            lines += [*_memory_table(chosen, t), ""]
        lines += [*(line for model in chosen for line in _notes(model, language, t)), ""]
    return [*lines, *_license_section(models(), language, t)]


def _memory_table(chosen: Iterable[Model], t: Callable[[str], str]) -> list[str]:
    head = t(mark("id,parameters,context,template,run bf16,run Q4_K_M,full,LoRA,QLoRA")).split(",")
    rows = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for model in chosen:
        cells = [
            f"[`{model.id}`](#{_anchor(model.id)})",
            "",
            _number(model.context_length),
            f"`{model.template}`" if model.template else "",
        ]
        if model.shape is not None:
            needs = estimate_needs(shapes()[model.shape])
            cells[1] = f"{needs.parameters / 1e9:.3g} B"
            memory = [needs.run["bfloat16"], needs.run["Q4_K_M"], *needs.train.values()]
            cells += [gigabytes(size) for size in memory]
        else:
            cells += [""] * 5
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _datasets(language: Language) -> list[str]:
    def t(message: str) -> str:
        return translate(message, language)

    lines = [
        f"# {t(mark('Catalog: data sets'))}",
        "",
        t(mark("Data to train and measure with; `make docs` writes this page.")),
        "",
        *_legend(t),
        "",
    ]
    sections: Sequence[tuple[str, Callable[[DataSet], bool]]] = (
        (mark("Conversations"), lambda d: d.use == "conversations" and d.refused is None),
        (mark("Preferences"), lambda d: "preferences" in d.use),
        (mark("Text"), lambda d: d.use == "corpus"),
        (mark("Questions"), lambda d: d.use == "questions" and d.refused is None),
        (mark("Not read by Hanlin"), lambda d: d.refused is not None),
    )
    head = t(mark("id,rows,size,languages,stage,format,license")).split(",")
    for title, belongs in sections:
        chosen = [entry for entry in datasets() if belongs(entry)]
        lines += [f"## {t(title)}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for entry in chosen:
            known: dict[Sourced, str] = {
                "rows": _number(entry.rows) or "–",
                "format": f"`{entry.format}`" if entry.format else "",
            }
            known |= {"size": entry.size or "–", "license": f"`{entry.license}`"}
            rows, format, size, license = (_marked(entry, field, text, t) for field, text in known.items())
            cells = [f"[`{entry.id}`](#{_anchor(entry.id)})", rows, size, " ".join(entry.languages)]
            cells += [f"`{entry.use}`", format, license]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *(line for entry in chosen for line in _notes(entry, language, t)), ""]
    return [*lines, *_license_section(datasets(), language, t)]


def _tools(language: Language) -> list[str]:
    def t(message: str) -> str:
        return translate(message, language)

    lines = [
        f"# {t(mark('Catalog: tools'))}",
        "",
        t(mark("Programs beside Hanlin, and how they meet; `make docs` writes this page.")),
        "",
    ]
    titles = {
        "train": mark("Train"),
        "infer": mark("Run and serve"),
        "evaluate": mark("Evaluate"),
        "data": mark("Data"),
        "merge": mark("Merge"),
        "apps": mark("Applications"),
        "learn": mark("Learn"),
    }
    states = {"active": "", "frozen": mark("no longer changed"), "archived": mark("given up by its owners")}
    for sort, title in titles.items():
        lines += [f"## {t(title)}", ""]
        for tool in tools():
            if tool.sort == sort:
                state = states[tool.state]
                extra = [t(mark("With Hanlin: {text}")).format(text=tool.with_hanlin.to(language))]
                lines += _notes(tool, language, t, [t(state)] if state else [], extra)
        lines.append("")
    return [*lines, *_license_section(tools(), language, t)]


def _legend(t: Callable[[str], str]) -> list[str]:
    return [
        t(
            mark(
                "`hanlin catalog models` shows the same in the terminal, as do `datasets` and `tools`; `--json` is for "
                "programs. Names on hubs were compared with their owners' pages and the lists of LLaMA-Factory and "
                "ms-swift in 2026-11; what is marked (unverified) is as the community's lists have it. A figure, "
                "format or license leads to the page on which it was read. A model made from a Llama is listed under "
                "Llama's license, which covers what is made from it; its own page may add conditions. "
                "`hanlin catalog check` asks the hubs themselves."
            )
        )
    ]


def _notes(
    entry: CatalogEntry,
    language: Language,
    t: Callable[[str], str],
    first: Sequence[str] = (),
    last: Sequence[str] = (),
) -> list[str]:
    """A section of an entry: where it is, what it is for, what is wrong with its files."""
    unverified = t(mark("(unverified)"))
    is_dataset = isinstance(entry, DataSet)

    def doubt(field: str) -> str:
        return f" {unverified}" if field in entry.unverified else ""

    hubs = [f"[{hub} `{name}`]({hub_page(hub, name, is_dataset)}){doubt(hub)}" for hub, name in entry.hubs.items()]
    if entry.homepage:
        hubs.append(f"<{entry.homepage}>")
    facts = [*first, _marked(entry, "license", f"`{entry.license}`", t)]
    if getattr(entry, "gated", False):
        facts.append(t(mark("asks for an agreement on Hugging Face")))
    lines = [f"### {entry.id} {{ #{_anchor(entry.id)} }}", "", f"**{entry.name}** · {' · '.join([*hubs, *facts])}", ""]
    lines.append(f"- {t(mark('Good for: {text}')).format(text=entry.good_for.to(language))}")
    refused = getattr(entry, "refused", None)
    if refused is not None:
        lines.append(f"- {t(mark('Not read: {text}')).format(text=refused.to(language))}")
    lines += [f"- ⚠ {fault.to(language)}" for fault in entry.faults]
    unknown = t(mark("Not known: {figure} ({reason})"))
    lines += [f"- {unknown.format(figure=figure, reason=reason)}" for figure, reason in missing_figures(entry, t)]
    lines += [f"- {text}" for text in last]
    if recipes := [f"`{text}`" for text in (entry.recipe, getattr(entry, "first_recipe", None)) if text]:
        lines.append(f"- {t(mark('Recipe: {text}')).format(text=' · '.join(recipes))}")
    variants = getattr(entry, "variants", {})
    if variants:
        forms = " · ".join(f"{form} `{target}`" for form, target in variants.items())
        lines.append(f"- {t(mark('Other forms: {text}')).format(text=forms)}")
    return [*lines, ""]


def missing_figures(entry: CatalogEntry, t: Callable[[str], str]) -> list[tuple[str, str]]:
    """The figures that a data set does not have and why, both in the language of `t`."""
    names = {"rows": mark("number of rows"), "size": mark("size")}
    return [(t(names[figure]), t(WHY_MISSING[why])) for figure, why in getattr(entry, "missing", {}).items()]


def _license_section(
    entries: Iterable[Model | DataSet | ListedTool], language: Language, t: Callable[[str], str]
) -> list[str]:
    used = {entry.license for entry in entries}
    commercial = {True: mark("yes"), False: mark("no"), None: mark("not said")}
    head = t(mark("id,name,commercial use,forbids")).split(",")
    lines = [f"## {t(mark('Licenses'))}", "", t(mark("In short; the text of the license is what counts.")), ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for license in licenses().values():
        if license.id in used:
            name = f"[{license.name}]({license.url})" if license.url else license.name
            cells = [f"`{license.id}`", name, t(commercial[license.commercial]), license.forbids.to(language)]
            lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _marked(entry: CatalogEntry, field: Sourced, text: str, t: Callable[[str], str]) -> str:
    """What is known of a field: as a link to where it was read, or with the mark of what could not be compared."""
    if text and field in entry.sources:
        return f"[{text}]({entry.sources[field]})"
    return f"{text} {t(mark('(unverified)'))}" if text and field in entry.unverified else text


def _number(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _anchor(id: str) -> str:
    """The anchor of an entry's heading; without dots, `chinese-llama-2-1.3b` would be `chinese-llama-2-13b`."""
    return id.replace(".", "-")


def markdown(sort: str, language: Language) -> str:
    """The page of a sort of entries (`models`, `datasets`, `tools`) in one language."""
    return "\n".join({"models": _models, "datasets": _datasets, "tools": _tools}[sort](language))


def main() -> None:
    """`python -m hanlin.catalog.page DOCS`: write the pages of each language below the folder `DOCS`."""
    languages: tuple[Language, ...] = ("en", "zh")
    for language in languages:
        for sort in PAGES:
            text = markdown(sort, language)
            (Path(sys.argv[1]) / language / f"catalog_{sort}.md").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
