"""A recipe: a graph of stages, a report and its targets, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from hanlin.config.budgets import BUDGET, BUDGETS, apply_budget
from hanlin.config.kinds import StageKind, get_kind
from hanlin.config.references import ReferenceTarget, resolve_reference
from hanlin.config.settings.base import Reference, Settings, references, setting
from hanlin.config.settings.launch import Launch
from hanlin.config.validation import read_settings
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.core.names import check_name, describe_name_problem, show_name

_VOCABULARY_CHANGES = ("extend_vocabulary", "trim_vocabulary")
_STAGE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Target(Settings):
    """A target of a figure; the report shows whether it is reached."""

    figure: str = setting(..., "name of the figure, dotted if it is nested")
    at_least: float | str | None = setting(None, "a number, or the name of another figure")
    at_most: float | str | None = setting(None, "a number, or the name of another figure")
    tolerance: float = setting(0.0, "how far the figure may miss the bound", ge=0)

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(tr("a target has one bound, at_least or at_most; a range is two targets"))
        return self


class ReportSettings(Settings):
    """Which metrics the report shows. A figure is `stage.metric`, or a mapping of such."""

    figures: dict[str, str | dict[str, str]] = setting({}, "figures by name")
    targets: tuple[Target, ...] = setting((), "targets of the figures")
    conversation: str | None = setting(None, "an `evaluate` stage whose answers are shown")
    chat: str | None = setting(
        None,
        "a stage whose model is suggested for chatting when the run ends",
    )

    def restricted_to(self, stages: set[str]) -> ReportSettings:
        """The part of the report that needs these stages only."""
        figures: dict[str, str | dict[str, str]] = {}
        for name, source in self.figures.items():
            texts = list(source.values()) if isinstance(source, dict) else [source]
            if all(text.partition(".")[0] in stages for text in texts):
                figures[name] = source
        targets = tuple(
            target
            for target in self.targets
            if all(
                not isinstance(name, str) or name.partition(".")[0] in figures
                for name in (target.figure, target.at_least, target.at_most)
            )
        )
        conversation = self.conversation if self.conversation in stages else None
        chat = self.chat if self.chat in stages else None
        return ReportSettings(figures=figures, targets=targets, conversation=conversation, chat=chat)


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a recipe; `where` is its location, `file:line`."""

    name: str
    kind: StageKind
    settings: Settings
    where: str

    @property
    def makes(self) -> str:
        """The type of the artifact that the stage makes."""
        return self.kind.artifact_type(self.settings)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A checked recipe. Each stage comes after those that it reads; relative paths start at `root`."""

    name: str
    seed: int
    root: Path
    launch: Launch
    stages: Mapping[str, Stage]
    report: ReportSettings = field(default_factory=ReportSettings)

    def upstream(self, stage: Stage) -> list[str]:
        """The names of the stages that this one reads, each once, in order."""
        names = [target.stage for item in references(stage.settings) if (target := self.resolve(item)).stage]
        return list(dict.fromkeys(names))

    def resolve(self, reference: Reference, where: str = "") -> ReferenceTarget:
        """What a reference names. Raises UserError if that is nothing."""
        return resolve_reference(reference.text, self.stages, self.root, where)

    def until(self, name: str) -> Recipe:
        """The recipe with one stage and what that needs. Raises UserError if there is no such stage."""
        if name not in self.stages:
            raise UserError(tr("no stage '{name}'", name=name), self.name, did_you_mean(name, self.stages))
        needed: set[str] = set()
        queue = [name]
        while queue:
            current = queue.pop()
            if current not in needed:
                needed.add(current)
                queue.extend(self.upstream(self.stages[current]))
        stages = {stage: self.stages[stage] for stage in self.stages if stage in needed}
        return Recipe(self.name, self.seed, self.root, self.launch, stages, self.report.restricted_to(needed))


def build_recipe(
    data: Mapping[str, Any],
    where: str,
    lines: Mapping[tuple[str, ...], int] | None = None,
    default_name: str = "recipe",
) -> Recipe:
    """Make a checked recipe from plain data.

    Args:
        data: The recipe as YAML gives it.
        where: Its file, for messages.
        lines: The line of each key, by its path of keys.
        default_name: Its name if it has none.

    Returns:
        The recipe. Relative paths start at its `root`, which starts at the working folder.

    Raises:
        UserError: For the first mistake, with file and line.
    """
    data, lines = apply_budget(data, where, dict(lines or {}))

    def location(*keys: str) -> str:
        for depth in range(len(keys), 0, -1):
            if keys[:depth] in lines:
                return f"{where}:{lines[keys[:depth]]}"
        return where

    known = ("name", "seed", "root", "launch", "stages", "report")
    for name in data:
        if name not in known:
            raise UserError(
                tr("a recipe has no '{name}'", name=name),
                location(name),
                did_you_mean(str(name), (*known, BUDGET, BUDGETS)),
            )
    seed = data.get("seed", 42)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(tr("seed must be an integer, 0 or more"), location("seed"))
    if seed >= 1 << 63:
        raise UserError(tr("seed must be less than {limit}", limit="2**63"), location("seed"))
    recipe_name = data.get("name", default_name)
    recipe_name = "" if isinstance(recipe_name, dict | list | None) else str(recipe_name)
    check_name(recipe_name, tr("the name of a recipe, whose runs are in runs/<name>"), location("name"))
    if not isinstance(data.get("root", "."), str):
        raise UserError(tr("root must be a path"), location("root"))
    root = Path(str(data.get("root", "."))).expanduser()
    launch = read_settings(Launch, data.get("launch") or {}, location("launch"), "launch")
    report = read_settings(ReportSettings, data.get("report") or {}, location("report"), "report")
    stages: dict[str, Stage] = {}
    for name, row in data["stages"].items():
        at = location("stages", name)
        if not isinstance(name, str) or not _STAGE_NAME.fullmatch(name):
            hint = tr("letters, digits and _ only")
            raise UserError(tr("{name} is not a valid stage name", name=show_name(str(name))), at, hint)
        if problem := describe_name_problem(name):
            raise UserError(tr("{name} is not a valid stage name", name=show_name(name)), at, problem)
        if not isinstance(row, dict) or "kind" not in row:
            hint = tr("write `kind:` and its settings")
            raise UserError(tr("stage '{name}' has no kind", name=name), at, hint)
        kind = get_kind(str(row["kind"]), location("stages", name, "kind"))
        rest = {key: value for key, value in row.items() if key != "kind"}
        stage_location = _StageLocation(location, ("stages", name))
        settings = read_settings(kind.settings, rest, stage_location, tr("stage '{name}'", name=name), kind.name)
        stages[name] = Stage(name, kind, settings, at)
    recipe = Recipe(recipe_name, seed, root, launch, stages, report)
    _check_types(recipe, location)
    ordered = _sort_stages(recipe)
    recipe = Recipe(recipe.name, seed, root, launch, ordered, report)
    _check_repeated(recipe, location)
    _check_vocabularies(recipe, location)
    _check_report(recipe, location("report"))
    return recipe


@dataclass(frozen=True, slots=True)
class _StageLocation:
    """The location of a setting inside a stage."""

    location: Any
    prefix: tuple[str, ...]

    def __call__(self, *keys: str) -> str:
        return str(self.location(*self.prefix, *keys))


def _check_types(recipe: Recipe, location: Any) -> None:
    for stage in recipe.stages.values():
        for item in references(stage.settings):
            at = location("stages", stage.name, *item.field.split("."))
            source = recipe.resolve(item, at).stage
            if not source:
                continue
            made = recipe.stages[source].makes
            if made not in item.types and "files" not in item.types:
                expected = " / ".join(item.types)
                raise UserError(
                    tr(
                        "stage '{name}', {field}: '{source}' makes {made}, but {expected} is needed",
                        name=stage.name,
                        field=item.field,
                        source=source,
                        made=made,
                        expected=expected,
                    ),
                    at,
                    adapter_hint() if made == "adapter" and "model" in item.types else None,
                )


def _check_repeated(recipe: Recipe, location: Any) -> None:
    """Refuse what a list of a stage names twice: it would count twice, unsaid."""
    for stage in recipe.stages.values():
        known: set[tuple[str, Any]] = set()
        for item in references(stage.settings):
            field, _, index = item.field.partition(".")
            is_mixed = stage.kind.name == "mix" and field == "sources"
            if index and not is_mixed:
                continue  # sources may be read twice with other settings, and say how many of their rows are duplicates
            target = recipe.resolve(item, location("stages", stage.name, *item.field.split(".")))
            same = (field, target)
            if same in known:
                what = tr(
                    "stage '{name}', {field}: '{text}' is named twice", name=stage.name, field=field, text=item.text
                )
                raise UserError(
                    what,
                    location("stages", stage.name, *item.field.split(".")),
                    tr("name it once; `share` or `weight` says how much it counts")
                    if is_mixed
                    else tr("name it once; a stage `mix` says how much each source counts"),
                )
            known.add(same)


def _check_vocabularies(recipe: Recipe, location: Any) -> None:
    """Refuse to fuse models if the recipe changes the vocabulary of one, before hours of training are in vain."""
    for stage in recipe.stages.values():
        if stage.kind.name != "fuse_models":
            continue
        items = [item for item in references(stage.settings) if item.types == ("model",)]
        first, *others = [_trace_vocabulary(recipe, item.text) for item in items]
        for item, (root, changes) in zip(items[1:], others, strict=True):
            fewer, more = sorted((first[1], changes), key=len)
            if root != first[0] or not set(fewer) < set(more):
                continue  # of two roots, or of two stages that change one vocabulary, only the files can tell
            what = tr(
                "stage '{name}': '{first}' and '{second}' have different vocabularies: '{stage}' changes that of one",
                name=stage.name,
                first=items[0].text,
                second=item.text,
                stage=next(name for name in more if name not in fewer),
            )
            hint = tr("fuse models of which both went through it, or neither")
            raise UserError(what, location("stages", stage.name, *item.field.split(".")), hint)


def _trace_vocabulary(recipe: Recipe, text: str) -> tuple[str, tuple[str, ...]]:
    """Where the model that a reference names has its vocabulary from: the stage or path at its root, and the stages on
    the way from there that changed it.
    """
    changes: list[str] = []
    while text in recipe.stages:
        stage = recipe.stages[text]
        if stage.kind.name in _VOCABULARY_CHANGES:
            changes.append(stage.name)
        items = [item for item in references(stage.settings) if item.types in (("model",), ("adapter",))]
        if not items:
            break
        text = items[0].text
    return text, tuple(changes)


def adapter_hint() -> str:
    """What to do with an adapter that is named where a model is needed."""
    return tr(
        "merge it first, with a `merge` stage; to go on training it, name it as `init_from` and its base as `model`"
    )


def _sort_stages(recipe: Recipe) -> dict[str, Stage]:
    ordered: dict[str, Stage] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in path:
            cycle = " -> ".join([*path[path.index(name) :], name])
            raise UserError(
                tr("stages depend on each other in a cycle: {cycle}", cycle=cycle),
                recipe.stages[name].where,
            )
        path.append(name)
        for upstream in recipe.upstream(recipe.stages[name]):
            visit(upstream)
        path.pop()
        ordered[name] = recipe.stages[name]

    for name in recipe.stages:
        visit(name)
    return ordered


def _check_report(recipe: Recipe, where: str) -> None:
    named: dict[str, None] = {}
    for figure, source in recipe.report.figures.items():
        for part, text in source.items() if isinstance(source, dict) else [("", source)]:
            named[f"{figure}.{part}" if part else figure] = None
            stage, dot, metric = text.partition(".")
            if stage not in recipe.stages or not dot or not metric:
                hint = did_you_mean(stage, recipe.stages)
                raise UserError(
                    tr("figure '{figure}': '{text}' is not stage.metric", figure=figure, text=text),
                    where,
                    hint,
                )
    for target in recipe.report.targets:
        for name in (target.figure, target.at_least, target.at_most):
            if isinstance(name, str) and name not in named:
                raise UserError(
                    tr("a target names a figure '{name}' that does not exist", name=name),
                    where,
                    did_you_mean(name, named),
                )
    for name in (recipe.report.conversation, recipe.report.chat):
        if name is not None and name not in recipe.stages:
            raise UserError(tr("no stage '{name}'", name=name), where, did_you_mean(name, recipe.stages))
