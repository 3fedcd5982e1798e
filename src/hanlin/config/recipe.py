"""A recipe: a graph of stages, its targets and its report, checked before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.config.kinds import StageKind, kind_named
from hanlin.config.references import Resolved, resolve
from hanlin.config.settings.base import Reference, Settings, references, setting
from hanlin.config.settings.launch import Launch
from hanlin.config.validation import read_settings
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

_STAGE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Target(Settings):
    """A promise about a figure: reached or not, and shown so in the report."""

    figure: str = setting(..., "dotted name of a figure", "指标的点分名称")
    at_least: float | str | None = setting(None, "a number, or another figure's name", "数值，或另一指标的名称")
    at_most: float | str | None = setting(None, "a number, or another figure's name", "数值，或另一指标的名称")
    tolerance: float = setting(0.0, "how far the figure may miss the bound", "允许偏离界限的幅度", ge=0)


class ReportPlan(Settings):
    """Which stages' metrics become the figures of the report. A figure is `stage.metric` or a mapping of such."""

    figures: dict[str, str | dict[str, str]] = setting({}, "figures by name", "按名称给出的指标")
    targets: tuple[Target, ...] = setting((), "what the figures must reach", "指标须达到的目标")
    conversation: str | None = setting(
        None, "an `evaluate` stage whose answers are shown", "展示其回答的 evaluate 阶段"
    )
    chat: str | None = setting(
        None, "the stage whose model the closing line offers to chat with", "结束语中推荐对话的阶段"
    )

    def only(self, stages: set[str]) -> ReportPlan:
        """The part of the report that these stages alone can fill."""
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
        return ReportPlan(figures=figures, targets=targets, conversation=conversation, chat=chat)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a recipe; `where` is `file:line`."""

    name: str
    kind: StageKind
    settings: Settings
    where: str

    @property
    def makes(self) -> str:
        return self.kind.type_made(self.settings)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Checked stages in an order in which each comes after what it reads. Relative paths start at `root`."""

    name: str
    seed: int
    root: Path
    launch: Launch
    stages: Mapping[str, Stage]
    report: ReportPlan = field(default_factory=ReportPlan)

    def upstream(self, stage: Stage) -> list[str]:
        """The names of the stages that this one reads, each once, in order."""
        names = [found.stage for item in references(stage.settings) if (found := self.resolve(item)).stage]
        return list(dict.fromkeys(names))

    def resolve(self, reference: Reference, where: str = "") -> Resolved:
        return resolve(reference.text, self.stages, self.root, where)

    def until(self, name: str) -> Recipe:
        """The recipe cut down to one stage and what it needs."""
        if name not in self.stages:
            raise UserError(
                say(f"no stage '{name}'", f"没有名为“{name}”的阶段"), self.name, did_you_mean(name, self.stages)
            )
        wanted: set[str] = set()
        todo = [name]
        while todo:
            current = todo.pop()
            if current not in wanted:
                wanted.add(current)
                todo.extend(self.upstream(self.stages[current]))
        kept = {stage: self.stages[stage] for stage in self.stages if stage in wanted}
        return Recipe(self.name, self.seed, self.root, self.launch, kept, self.report.only(wanted))


def build_recipe(
    data: Mapping[str, Any],
    where: str,
    lines: Mapping[tuple[str, ...], int] | None = None,
    default_name: str = "recipe",
) -> Recipe:
    """Turn plain data into a checked recipe. Relative paths in it start at `root`, and `root` at the working folder."""
    lines = lines or {}

    def place(*keys: str) -> str:
        for depth in range(len(keys), 0, -1):
            if keys[:depth] in lines:
                return f"{where}:{lines[keys[:depth]]}"
        return where

    known = ("name", "seed", "root", "launch", "stages", "report")
    for name in data:
        if name not in known:
            raise UserError(
                say(f"a recipe has no '{name}'", f"配方没有“{name}”这一项"), place(name), did_you_mean(str(name), known)
            )
    seed = data.get("seed", 42)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise UserError(say("seed must be a whole number, 0 or more", "seed 须为不小于 0 的整数"), place("seed"))
    root = Path(str(data.get("root", "."))).expanduser()
    launch = read_settings(Launch, data.get("launch") or {}, place("launch"), "launch")
    report = read_settings(ReportPlan, data.get("report") or {}, place("report"), "report")
    stages: dict[str, Stage] = {}
    for name, row in data["stages"].items():
        at = place("stages", name)
        if not isinstance(name, str) or not _STAGE_NAME.fullmatch(name):
            hint = say("letters, digits and _ only", "仅限字母、数字和下划线")
            raise UserError(say(f"'{name}' cannot name a stage", f"“{name}”不能作阶段名"), at, hint)
        if not isinstance(row, dict) or "kind" not in row:
            hint = say("write kind: and its settings", "请写出 kind: 及其设置")
            raise UserError(say(f"stage '{name}' has no kind", f"阶段“{name}”没有 kind"), at, hint)
        kind = kind_named(str(row["kind"]), place("stages", name, "kind"))
        rest = {key: value for key, value in row.items() if key != "kind"}
        finder = _Finder(place, ("stages", name))
        settings = read_settings(kind.settings, rest, finder, say(f"stage '{name}'", f"阶段“{name}”"), kind.name)
        stages[name] = Stage(name, kind, settings, at)
    recipe = Recipe(str(data.get("name", default_name)), seed, root, launch, stages, report)
    _check_types(recipe, place)
    ordered = _in_order(recipe)
    recipe = Recipe(recipe.name, seed, root, launch, ordered, report)
    _check_report(recipe, place("report"))
    return recipe


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds the line of a setting inside a stage."""

    place: Any
    prefix: tuple[str, ...]

    def __call__(self, *keys: str) -> str:
        return str(self.place(*self.prefix, *keys))


def _check_types(recipe: Recipe, place: Any) -> None:
    for stage in recipe.stages.values():
        for item in references(stage.settings):
            at = place("stages", stage.name, *item.field.split("."))
            found = recipe.resolve(item, at)
            if not found.stage:
                continue
            made = recipe.stages[found.stage].makes
            if made not in item.types and "files" not in item.types:
                wanted = " / ".join(item.types)
                raise UserError(
                    say(
                        f"stage '{stage.name}', {item.field}: '{found.stage}' makes {made}, but {wanted} is needed",
                        f"阶段“{stage.name}”的 {item.field}：“{found.stage}”产出 {made}，而此处需要 {wanted}",
                    ),
                    at,
                )


def _in_order(recipe: Recipe) -> dict[str, Stage]:
    ordered: dict[str, Stage] = {}
    path: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in path:
            circle = " -> ".join([*path[path.index(name) :], name])
            raise UserError(
                say(f"stages need each other in a circle: {circle}", f"阶段互相依赖成环：{circle}"),
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
                    say(
                        f"figure '{figure}': '{text}' is not stage.metric",
                        f"指标“{figure}”：“{text}”不是“阶段.度量”的形式",
                    ),
                    where,
                    hint,
                )
    for target in recipe.report.targets:
        for name in (target.figure, target.at_least, target.at_most):
            if isinstance(name, str) and name not in named:
                raise UserError(
                    say(f"a target names no figure '{name}'", f"目标所指的指标“{name}”不存在"),
                    where,
                    did_you_mean(name, named),
                )
    for name in (recipe.report.conversation, recipe.report.chat):
        if name is not None and name not in recipe.stages:
            raise UserError(
                say(f"no stage '{name}'", f"没有名为“{name}”的阶段"), where, did_you_mean(name, recipe.stages)
            )
