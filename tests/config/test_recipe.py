"""A recipe is read strictly, and its mistakes are found before anything runs, with place and hint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import ValidationError

from hanlin.config.kinds import KINDS, StageKind
from hanlin.config.recipe import build_recipe
from hanlin.config.recipe_file import read_recipe
from hanlin.config.schema import json_schema
from hanlin.config.settings.base import setting_info
from hanlin.config.validation import describe_problem
from hanlin.config.yaml_text import load_yaml
from hanlin.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(tmp_path: Path, text: str, changes: tuple[str, ...] = ()) -> UserError:
    with pytest.raises(UserError) as caught:
        read_recipe(written(tmp_path, text), changes)
    return caught.value


def test_an_unknown_setting_is_refused_with_its_line_and_a_suggestion(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  w:\n    kind: demo_world\n  b:\n    kind: merge\n    adaptr: w\n")
    assert "adaptr" in error.what and "did you mean adapter?" in str(error.hint)
    assert str(error.where).endswith("r.yaml:6")


def test_an_unknown_kind_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  w: {kind: corpos}\n")
    assert "corpos" in error.what and "corpus" in str(error.hint)


def test_a_wrong_artifact_type_between_stages_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  w: {kind: demo_world}\n  m: {kind: merge, adapter: w}\n")
    assert "'w' makes files, but adapter is needed" in error.what
    text = "stages:\n  a: {kind: sft, model: ./m, data: [./d], lora: {}}\n  b: {kind: dpo, model: a, data: [./p]}\n"
    error = refused(tmp_path, text)
    assert "'a' makes adapter, but model is needed" in error.what and "`init_from`" in str(error.hint)


@pytest.mark.parametrize(
    "stage",
    [
        "{kind: sft, model: ./m, data: [chats, chats]}",
        "{kind: sft, model: ./m, data: [./d, chats, ./d]}",
        "{kind: sft, model: ./m, data: [./d, ././d]}",
        "{kind: dpo, model: ./m, data: [./p, ./p]}",
        "{kind: pretrain, model: ./m, data: [./d, ./d]}",
        "{kind: extend_vocabulary, model: ./m, text: [./d, ./d]}",
        "{kind: mix, tokenizer: ./m, records: conversations, sources: [chats, {data: chats, weight: 2}]}",
    ],
)
def test_what_a_list_names_twice_is_refused(tmp_path: Path, stage: str) -> None:
    text = f"stages:\n  chats: {{kind: conversations, sources: [./x]}}\n  b: {stage}\n"
    error = refused(tmp_path, text)
    assert "is named twice" in error.what and str(error.where).endswith(":3") and "name it once" in str(error.hint)


def test_a_file_may_be_read_twice_in_different_ways(tmp_path: Path) -> None:
    text = "stages:\n  a: {kind: conversations, sources: [./x, {path: ./x, read_language: en}]}\n"
    assert "a" in read_recipe(written(tmp_path, text)).stages


def test_a_cycle_of_stages_is_refused_and_shown(tmp_path: Path) -> None:
    text = "stages:\n  a: {kind: merge, adapter: b}\n  b: {kind: dpo, model: a, data: [p], lora: {rank: 2}}\n"
    text += "  p: {kind: preferences, sources: [./x]}\n"
    assert "cycle: a -> b -> a" in refused(tmp_path, text).what


FUSED = """
stages:
  text: {{kind: corpus, sources: [./x.txt]}}
  base: {{kind: import_gguf, gguf: ./x.gguf}}
  grown: {{kind: extend_vocabulary, model: base, text: [text]}}
  as_well: {{kind: extend_vocabulary, model: base, text: [text], init: mean}}
  rows: {{kind: pretrain, model: grown, data: [text]}}
  tuned: {{kind: dpo, model: {start}, data: [./pairs], lora: {{}}}}
  merged: {{kind: merge, adapter: tuned}}
  fused: {{kind: fuse_models, method: linear, models: [{{model: merged}}, {{model: {other}}}]}}
"""


@pytest.mark.parametrize(("start", "other"), [("rows", "base"), ("base", "rows"), ("base", "grown")])
def test_models_are_not_fused_if_a_stage_changed_the_vocabulary_of_one(tmp_path: Path, start: str, other: str) -> None:
    error = refused(tmp_path, FUSED.format(start=start, other=other))
    assert f"'merged' and '{other}'" in error.what and "'grown' changes" in error.what
    assert str(error.where).endswith("r.yaml:10")


@pytest.mark.parametrize(
    ("start", "other"), [("base", "base"), ("rows", "grown"), ("base", "./elsewhere"), ("rows", "as_well")]
)
def test_models_of_one_vocabulary_or_of_unknown_ones_may_be_fused(tmp_path: Path, start: str, other: str) -> None:
    assert "fused" in read_recipe(written(tmp_path, FUSED.format(start=start, other=other))).stages


def test_an_unpinned_hub_name_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  g: {kind: gguf, model: 'hf:owner/name'}\n")
    assert "no revision" in error.what and "@" in str(error.hint)


def test_a_word_that_is_neither_stage_nor_path_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  g: {kind: gguf, model: merged}\n")
    assert "neither a stage nor a path" in error.what


def test_a_setting_out_of_range_is_refused_with_its_line(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  c:\n    kind: corpus\n    sources: [./x]\n    validation_fraction: 1.5\n")
    assert "validation_fraction=1.5" in error.what and str(error.where).endswith(":5")


def test_a_file_that_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  a: {kind: [\n")
    assert "not YAML" in error.what and "r.yaml:" in str(error.where)


def test_a_duplicate_key_is_refused(tmp_path: Path) -> None:
    assert "duplicate key" in refused(tmp_path, "stages:\n  a: {kind: demo_world}\n  a: {kind: demo_world}\n").what


def test_a_folder_in_place_of_a_recipe_names_the_recipes_in_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("name: x\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_recipe(tmp_path)
    assert caught.value.hint is not None and "mine.yaml" in caught.value.hint


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_recipe(tmp_path / "none.yaml")


def test_a_recipe_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes("name: 翰林\nstages: {}\n".encode("gb18030"))
    with pytest.raises(UserError, match="not UTF-8"):
        read_recipe(path)


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    text = "stages:\n  b: {kind: pretrain, model: ./m, data: [./d], learning_rate: 1e-4}\n"
    recipe = read_recipe(written(tmp_path, text))
    assert recipe.stages["b"].settings.learning_rate == pytest.approx(1e-4)  # type: ignore[attr-defined]


def test_a_change_reaches_a_nested_setting(tmp_path: Path) -> None:
    text = "stages:\n  b: {kind: sft, model: ./m, data: [./d], lora: {rank: 4}}\n"
    recipe = read_recipe(written(tmp_path, text), ["b.lora.rank=32", "seed=7"])
    assert recipe.stages["b"].settings.lora.rank == 32 and recipe.seed == 7  # type: ignore[attr-defined]


BUDGETS = """stages:
  b: {kind: pretrain, model: ./m, data: [./d], steps: 600, learning_rate: 1e-4}
budgets:
  small:
    b: { steps: 40 }
  broken:
    b:
      steps: 0
"""


def test_a_budget_replaces_settings_of_stages(tmp_path: Path) -> None:
    path = written(tmp_path, BUDGETS)

    def steps(*changes: str) -> tuple[object, object]:
        settings: Any = read_recipe(path, changes).stages["b"].settings
        return settings.steps, settings.learning_rate

    assert steps() == (600, 1e-4) and steps("budget=small") == (40, 1e-4)
    assert steps("b.steps=7", "budget=small") == (7, 1e-4), "what the command line names wins over the budget"
    path.write_text(BUDGETS.replace("budgets:", "budget: small\nbudgets:"), encoding="utf-8")
    assert steps() == (40, 1e-4)


@pytest.mark.parametrize(
    ("text", "changes", "line", "sentence", "hint"),
    [
        (BUDGETS, ("budget=smal",), "--set budget=smal", "no budget 'smal'", "small"),
        (BUDGETS, ("budget=broken",), ":8", "steps", ""),
        (BUDGETS.partition("budgets")[0], ("budget=small",), "--set", "no budget 'small'", "has no budgets"),
        (BUDGETS.replace("    b: { s", "    c: { s"), (), ":5", "stage 'c' that does not exist", "b"),
        (BUDGETS.replace("{ steps: 40 }", "{ kind: sft }"), (), ":5", "kind", ""),
        (BUDGETS.replace("{ steps: 40 }", "40"), (), ":5", "is not a mapping", "below each stage its settings"),
        ("stages: {}\nbudgets: 3\n", (), ":2", "budgets must be a mapping", "write names"),
        ("stages: {}\nbudgets: {3: {}}\n", (), ":2", "budgets must be a mapping", "write names"),
        ("stages: {}\nbudget: small\n", (), ":2", "no budget 'small'", "has no budgets"),
        (BUDGETS, ("budget=[small]",), "--set budget=", "no budget '['small']'", "small"),
        (BUDGETS + "budget: {small: 1}\n", (), ":9", "no budget '{'small': 1}'", "small"),
    ],
)
def test_a_budget_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, changes: tuple[str, ...], line: str, sentence: str, hint: str
) -> None:
    error = refused(tmp_path, text, changes)
    assert sentence in error.what and line in str(error.where) and hint in str(error.hint), error


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("b.eval_steps=yes", "eval_steps=True is not accepted: Input should be a valid integer"),
        ("b.trainable_tokens=true", "trainable_tokens=True is not accepted: Input should be a valid integer"),
        ("b.learning_rate=on", "learning_rate=True is not accepted: Input should be a valid number"),
        ("b.lora={rank: yes}", "lora.rank=True is not accepted: Input should be a valid integer"),
        ("launch.threads=no", "threads=False is not accepted: Input should be a valid integer"),
    ],
)
def test_a_truth_value_is_no_number(tmp_path: Path, change: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, BUDGETS, (change,)).what


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("b.lr_scheduler=constant", "b.min_lr_ratio=0.1"), "min_lr_ratio is for a schedule that falls"),
        (("b.galore_rank=64",), "galore_rank is for galore and apollo; optimizer is adamw"),
        (("b.optimizer=adamw_8bit", "b.galore_update_interval=50"), "galore_update_interval is for galore"),
        (("b.lora={dora: true, dropout: 0.1}",), "DoRA is not supported with dropout"),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(
    tmp_path: Path, changes: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refused(tmp_path, BUDGETS, changes).what


def test_a_change_to_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, "stages:\n  world: {kind: demo_world}\n", ("wrld.seed=1",))
    assert "wrld" in error.what and "world" in str(error.hint)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("a.sources.5=./c", "the list has no item '5'"),
        ("a.sources.x=./c", "the list has no item 'x'"),
        ("a.sources.0.path=./c", "a.sources.0 has no settings below it"),
        ("a=3", "'a=3' is not an override"),
        ("a.sources={[x]: 1}", "is not valid YAML"),
        ("name=../../x", "cannot be the name of a recipe"),
        ("name=", "cannot be the name of a recipe"),
        ("seed=99999999999999999999", "seed must be less than 2**63"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused(tmp_path: Path, change: str, sentence: str) -> None:
    text = "stages:\n  a: {kind: corpus, sources: [./b]}\n"
    assert sentence in refused(tmp_path, text, (change,)).what


@pytest.mark.parametrize("text", ["? [a]\n: b\n", "stages: {a: 2026-99-99}\n", "a: 0x_\n", "[" * 3000])
def test_values_that_yaml_cannot_hold_are_refused(tmp_path: Path, text: str) -> None:
    assert "not YAML" in refused(tmp_path, text).what


def test_a_recipe_keeps_its_name_or_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for text, name in (("name: 翰林\n", "翰林"), ("", "mine")):
        path.write_text(f"{text}stages:\n  a: {{kind: corpus, sources: [./b]}}\n", encoding="utf-8")
        assert read_recipe(path).name == name


def test_until_keeps_only_what_a_stage_needs() -> None:
    recipe = read_recipe(ROOT / "recipes" / "quickstart.yaml").until("chats")
    assert list(recipe.stages) == ["world", "chats"]


def test_a_target_must_name_a_figure() -> None:
    data = {"stages": {"w": {"kind": "demo_world"}}, "report": {"targets": [{"figure": "x", "at_least": 1}]}}
    with pytest.raises(UserError, match="names a figure 'x'"):
        build_recipe(data, "r")


@pytest.mark.parametrize("bounds", [{"at_least": 1, "at_most": 2}, {"tolerance": 0.5}])
def test_a_target_has_one_bound(bounds: dict[str, float]) -> None:
    targets = [{"figure": "x", **bounds}]
    data = {"stages": {"w": {"kind": "demo_world"}}, "report": {"figures": {"x": "w.pairs"}, "targets": targets}}
    with pytest.raises(UserError, match="a target has one bound"):
        build_recipe(data, "r")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_every_recipe_is_read_in_every_budget(path: Path) -> None:
    assert read_recipe(path).stages
    for budget in load_yaml(path.read_text(encoding="utf-8"))[0].get("budgets", {}):
        assert read_recipe(path, [f"budget={budget}"]).stages


def test_the_schema_names_every_kind_and_is_json() -> None:
    from hanlin.config.kinds import KINDS

    text = json.dumps(json_schema())
    assert all(f'"const": "{kind}"' in text for kind in KINDS)


@pytest.mark.parametrize(
    ("setting", "english", "chinese"),
    [
        (
            "passages: -1",
            "passages=-1 is not accepted: Input should be greater than",
            "passages=-1 无效：须不小于 60",
        ),
        ("passages: many", "passages='many' is not accepted", "passages='many' 无效：须为整数"),
    ],
)
def test_a_value_out_of_range_is_refused_in_either_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, english: str, chinese: str
) -> None:
    text = f"stages:\n  w: {{ kind: demo_world, {setting} }}\n"
    error = refused(tmp_path, text)
    assert english in error.what and error.hint == "see `hanlin kinds demo_world` for its values"
    monkeypatch.setenv("HANLIN_LANG", "zh")
    assert chinese in refused(tmp_path, text).what


def test_what_contradicts_itself_is_told_without_all_that_was_given(tmp_path: Path) -> None:
    error = refused(tmp_path, "launch: { nodes: 2 }\nstages:\n  w: { kind: demo_world }\n")
    assert error.what == "launch: several nodes need a rendezvous"


def test_a_recipe_that_is_not_there_is_looked_for_beside_and_among_the_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    for name in ("recipes/quickstart.yaml", "mine.yaml", ".hooks.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(UserError) as told:
        read_recipe(Path("x"))
    assert told.value.hint == "known: mine.yaml, recipes/quickstart.yaml"


def required_lists(settings: Any) -> set[tuple[str, ...]]:
    """The lists of references that a class of settings, or one inside it, requires, by the names that lead there."""
    lists: set[tuple[str, ...]] = set()
    for name, field in settings.model_fields.items():
        types = [settings.model_fields[name].annotation, *get_args(field.annotation)]
        if field.is_required() and get_origin(field.annotation) is tuple and setting_info(field).types:
            lists.add((name,))
        for inner in types:
            if hasattr(inner, "model_fields"):
                lists |= {(name, *path) for path in required_lists(inner)}
    return lists


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind in KINDS.values()
                                            for path in sorted(required_lists(kind.settings))])  # fmt: skip
def test_an_empty_list_of_what_a_stage_reads_is_refused_with_its_name(kind: StageKind, path: tuple[str, ...]) -> None:
    row: Any = []
    for name in reversed(path):
        row = {name: row}
    with pytest.raises(ValidationError) as caught:
        kind.settings.model_validate(row)
    problem = next(error for error in caught.value.errors() if error["type"] == "too_short")
    assert problem["loc"] == path and describe_problem(problem) == "the list is empty"


def test_a_setting_that_is_not_utf8_is_refused() -> None:
    """A name typed on the command line may be of any bytes; it would end the stage when its manifest is written."""
    stages = {"c": {"kind": "corpus", "sources": [{"path": os.fsdecode(b"./bad\xff.jsonl")}]}}
    with pytest.raises(UserError, match=r"is not UTF-8: ./bad.\.jsonl"):
        build_recipe({"name": "r", "stages": stages}, "hanlin corpus")
