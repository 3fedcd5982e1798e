"""A recipe: one YAML file that names stages and their settings, read strictly and checked before anything runs.

Owns the file's form, references and overrides. Does not own where results lie (`artifacts`) or what runs (`pipeline`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
import yaml

from hanlin.config.kinds import KINDS, StageKind, kind_named
from hanlin.config.settings.base import Reference, Settings, knob, references
from hanlin.config.settings.launch import Launch
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

_STAGE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HUB = re.compile(r"(?P<hub>hf):(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?")


class Target(Settings):
    """A promise about a figure: reached or not, and shown so in the report."""

    figure: str = knob(..., "dotted name of a figure", "指标的点分名称")
    at_least: float | str | None = knob(None, "a number, or another figure's name", "数值，或另一指标的名称")
    at_most: float | str | None = knob(None, "a number, or another figure's name", "数值，或另一指标的名称")
    tolerance: float = knob(0.0, "how far the figure may miss the bound", "允许偏离界限的幅度", ge=0)


class ReportPlan(Settings):
    """Which stages' metrics become the figures of the report. A figure is `stage.metric` or a mapping of such."""

    figures: dict[str, str | dict[str, str]] = knob({}, "figures by name", "按名称给出的指标")
    targets: tuple[Target, ...] = knob((), "what the figures must reach", "指标须达到的目标")
    conversation: str | None = knob(None, "an `evaluate` stage whose answers are shown", "展示其回答的 evaluate 阶段")
    chat: str | None = knob(
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


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means: a stage (and a place inside its artifact), a local path or glob, or a pinned hub name."""

    stage: str = ""
    inside: str = ""
    path: Path | None = None
    hub: str = ""
    revision: str = ""


def resolve(text: str, stages: Mapping[str, Any], root: Path, where: str) -> Resolved:
    """Raises UserError for an unpinned hub name and for a word that is neither a stage nor a path."""
    hub = _HUB.fullmatch(text)
    if hub:
        if not hub["revision"]:
            hint = say(
                f"write {text}@<commit>, so that a rerun reads the same bytes",
                f"请写成 {text}@<commit>，重跑时才能读到同样的内容",
            )
            raise UserError(say(f"{text} has no revision", f"{text} 没有写明版本"), where, hint)
        return Resolved(hub=hub["name"], revision=hub["revision"])
    if text.startswith(("./", "../", "/", "~")) or text in (".", ".."):
        return Resolved(path=root / Path(text).expanduser())
    head, _, inside = text.partition("/")
    if head in stages:
        return Resolved(stage=head, inside=inside)
    near = did_you_mean(head, stages) or ""
    hint = say(f"a path begins with ./ or /; {near}", f"路径须以 ./ 或 / 开头；{near}")
    raise UserError(say(f"'{text}' is neither a stage nor a path", f"“{text}”既不是阶段名也不是路径"), where, hint)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number (YAML 1.2) and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key}' stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+"),
    list("-+0123456789"),
)


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe file; `changes` are `stage.setting=value`, or `seed=`, `root=`, `launch.threads=`.

    Raises UserError, with file and line, for anything that is wrong in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(say("no such file", "文件不存在"), path, _recipes_near(path)) from error
    except UnicodeDecodeError as error:
        hint = say("save it as UTF-8", "请另存为 UTF-8")
        raise UserError(say("not UTF-8", "不是 UTF-8 编码"), path, hint) from error
    except OSError as error:
        inside = sorted(file.name for file in path.glob("*.yaml")) if path.is_dir() else []
        hint = say(f"name a recipe in it: {', '.join(inside)}", f"请指定其中的配方：{'、'.join(inside)}")
        what = say(f"cannot be read: {error.strerror}", f"无法读取：{error.strerror}")
        raise UserError(what, path, hint if inside else say("name a recipe file", "请指定配方文件")) from error
    try:
        data = yaml.load(text, _Loader)
        lines = _lines(yaml.compose(text, _Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise UserError(say(f"not YAML: {problem}", f"不是合法 YAML：{problem}"), where) from error
    if not isinstance(data, dict) or not isinstance(data.get("stages"), dict):
        hint = say("a recipe is a mapping with `name` and `stages`", "配方应为含 name 与 stages 的映射")
        raise UserError(say("not a recipe", "不是配方文件"), path, hint)
    for change in changes:
        _apply(data, change)
    return build_recipe(data, str(path), lines, default_name=path.stem)


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


_CHINESE = {
    "literal_error": "只能取 {expected}",
    "greater_than": "须大于 {gt}",
    "greater_than_equal": "须不小于 {ge}",
    "less_than": "须小于 {lt}",
    "less_than_equal": "须不大于 {le}",
    "too_short": "至少要有 {min_length} 项",
    "string_pattern_mismatch": "须符合 {pattern}",
    "string_type": "须为文本",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "须为整数"),
    **dict.fromkeys(("float_type", "float_parsing", "finite_number"), "须为数字"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "须为 true 或 false"),
    **dict.fromkeys(("list_type", "tuple_type"), "须为列表"),
    **dict.fromkeys(("dict_type", "model_type"), "须为“设置名: 值”的形式"),
}
"""What pydantic says in English, by the names of its errors; what a setting's own check says is in both languages."""


def read_settings(cls: type[Any], row: Any, where: Any, owner: str, kind: str = "") -> Any:
    """Make settings from plain data, of a stage of `kind` or of the recipe itself. `where` is a place, or finds one
    for a setting. Raises UserError for the first mistake: an unknown name (with a suggestion), a missing one, a value
    out of range."""
    find = where if callable(where) else (lambda *keys: where)
    try:
        return cls.model_validate(row)
    except pydantic.ValidationError as error:
        # a misspelt name also leaves its right name missing: tell of the misspelling
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        path = tuple(str(part) for part in first["loc"])
        name = ".".join(path) or owner
        at = find(*path)
        if first["type"] == "extra_forbidden":
            known = _fields_at(cls, path[:-1])
            raise UserError(
                say(f"{owner} has no setting '{name}'", f"{owner}没有设置项“{name}”"), at, did_you_mean(path[-1], known)
            ) from error
        page = f"`hanlin kinds {kind}`" if kind else "docs/settings.md"
        hint = say(f"see {page} for what it takes", f"可用的取值见 {page}")
        if first["type"] == "missing":
            raise UserError(say(f"{owner} needs '{name}'", f"{owner}缺少设置项“{name}”"), at, hint) from error
        english = first["msg"].removeprefix("Value error, ")
        chinese = english
        if first["type"] in _CHINESE:
            chinese = _CHINESE[first["type"]].format(**first.get("ctx", {})).replace(" or ", " 或 ")
        raise UserError(
            say(
                f"{owner}: {name}={first['input']!r} is not accepted: {english}" if path else f"{owner}: {english}",
                f"{owner}：{name}={first['input']!r} 不可用：{chinese}" if path else f"{owner}：{chinese}",
            ),
            at,
            hint,
        ) from error


def _fields_at(cls: type[Any], path: Sequence[str]) -> list[str]:
    current: Any = cls
    for part in path:
        if part.isdigit():
            continue
        field_info = getattr(current, "model_fields", {}).get(part)
        if field_info is None:
            return []
        nested = [item for item in _types_in(field_info.annotation) if hasattr(item, "model_fields")]
        current = nested[0] if nested else None
    return list(getattr(current, "model_fields", {}))


def _types_in(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation] + [found for item in inner for found in _types_in(item)]


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


def read_value(text: str, where: str) -> Any:
    """A setting's value as a command line gives it. Raises UserError, with `where`, for what is no YAML."""
    try:
        return yaml.load(text, _Loader) if text else ""
    except yaml.YAMLError as error:
        raise UserError(say(f"'{text}' cannot be read", f"“{text}”无法解析"), where) from error


def _apply(data: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        hint = say("write --set stage.setting=value", "请写成 --set 阶段.设置=值")
        raise UserError(say(f"'{change}' is not a change", f"“{change}”不是一条修改"), "--set", hint)
    value = read_value(text, f"--set {name}")
    current: Any = data
    if keys[0] not in ("seed", "root", "name", "launch"):
        current = data["stages"]
        if keys[0] not in current or len(keys) < 2:
            raise UserError(
                say(f"no stage '{keys[0]}'", f"没有名为“{keys[0]}”的阶段"),
                f"--set {change}",
                did_you_mean(keys[0], current),
            )
    for depth, key in enumerate(keys[:-1]):
        step = current[int(key)] if isinstance(current, list) and key.isdigit() else current.get(key)
        if step is None:
            step = current[key] = {}
        if not isinstance(step, dict | list):
            raise UserError(
                say(f"{'.'.join(keys[: depth + 1])} has no parts", f"{'.'.join(keys[: depth + 1])} 没有下级"),
                f"--set {change}",
            )
        current = step
    if isinstance(current, list):
        current[int(keys[-1])] = value
    else:
        current[keys[-1]] = value


def _lines(node: yaml.Node | None) -> dict[tuple[str, ...], int]:
    found: dict[tuple[str, ...], int] = {}

    def walk(current: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(current, yaml.MappingNode):
            for key, value in current.value:
                here = (*path, str(key.value))
                found[here] = key.start_mark.line + 1
                walk(value, here)
        elif isinstance(current, yaml.SequenceNode):
            for number, value in enumerate(current.value):
                found[(*path, str(number))] = value.start_mark.line + 1
                walk(value, (*path, str(number)))

    if node is not None:
        walk(node, ())
    return found


def _recipes_near(path: Path) -> str | None:
    folders = {path.parent, Path("recipes")}
    found = sorted(str(item) for folder in folders for item in folder.glob("[!.]*.yaml"))
    return did_you_mean(str(path), found) if found else None


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file, for editors."""
    kinds = []
    definitions: dict[str, Any] = {}
    for kind in KINDS.values():
        schema = kind.settings.model_json_schema(ref_template="#/$defs/{model}")
        definitions.update(schema.pop("$defs", {}))
        schema["properties"] = {"kind": {"const": kind.name, "description": kind.en}, **schema.get("properties", {})}
        schema["required"] = ["kind", *schema.get("required", [])]
        schema["title"] = kind.name
        kinds.append(schema)
    report = ReportPlan.model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(report.pop("$defs", {}))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Hanlin recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["stages"],
        "properties": {
            "name": {"type": "string"},
            "seed": {"type": "integer", "minimum": 0},
            "root": {"type": "string", "description": "folder that relative paths start at"},
            "launch": Launch.model_json_schema(),
            "stages": {"type": "object", "additionalProperties": {"oneOf": kinds}},
            "report": report,
        },
        "$defs": definitions,
    }
