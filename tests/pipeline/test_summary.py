"""What is told of the stages that are done: a line on the terminal for each, and the figures of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from hanlin.cli.commands.run import _widen_report
from hanlin.config.kinds import KINDS
from hanlin.config.reasons import DROP_REASONS, TRAINING_REASONS
from hanlin.config.recipe import build_recipe
from hanlin.config.recipe_file import read_recipe
from hanlin.core.files import write_json
from hanlin.core.i18n import translate, use_language
from hanlin.pipeline import worker
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import Manifest
from hanlin.pipeline.metric_names import METRIC_NAMES
from hanlin.pipeline.plan import plan
from hanlin.pipeline.report import build_report, summarize_metrics
from hanlin.pipeline.run import build_request
from hanlin.pipeline.step import Step
from hanlin.web.pages.run_report import render_report


def summary(kind: str, settings: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The line of a stage of a kind whose manifest has these metrics."""
    recipe = build_recipe({"name": "r", "stages": {"s": {"kind": kind, **settings}}}, "r.yaml")
    manifest = Manifest(kind, "", 1, "", "", {}, 0, (), (), metrics, {}, "", "", 1.0)
    return summarize_metrics(Step(recipe.stages["s"], "", "done", "", manifest=manifest))


def test_training_tells_how_many_records_were_refused_and_changed() -> None:
    settings = {"model": "./m", "data": ["./d"]}
    metrics = {"preference_loss": 0.5, "validation_loss": 0.6, "accuracy": 0.7, "margin": 0.1, "steps": 3}
    line = summary("dpo", settings, metrics | {"refused": {"too_long": 6}, "changed": {}})
    assert line.endswith("steps 3 · refused: too_long (longer than max_seq_length) 6")
    metrics = {"loss": 1.0, "validation_loss": 1.1, "steps": 2, "target_tokens": 10, "tokens_per_second": 5}
    line = summary("sft", settings, metrics | {"refused": {"too_long": 2}, "changed": {"truncate_turns": 4}})
    assert "refused: too_long (longer than max_seq_length) 2" in line
    assert "changed: truncate_turns (last turns dropped, for max_seq_length) 4" in line
    assert "refused" not in summary("sft", settings, metrics | {"refused": {}, "changed": {}})


def test_the_most_frequent_reasons_come_first_with_the_number_of_the_others() -> None:
    dropped = {"advertisement": 1, "duplicate": 2, "repeated_characters": 1, "symbols": 1, "too_short": 8}
    line = summary("corpus", {"sources": ["./a"]}, {"rows_in": 20, "rows_kept": 7, "dropped": dropped})
    assert "dropped: too_short (it is too short) 8, duplicate (it is a duplicate) 2, " in line
    assert line.endswith("… (+1)")


def test_a_reason_is_told_in_words_beside_the_code_that_files_hold() -> None:
    dropped = {"too_short": 8, "a_reason_of_tomorrow": 1}
    with use_language("zh"):
        line = summary("corpus", {"sources": ["./a"]}, {"rows_in": 20, "rows_kept": 7, "dropped": dropped})
    assert line.endswith("丢弃: too_short（过短） 8, a_reason_of_tomorrow 1")


def test_every_reason_has_words_in_both_languages() -> None:
    for why in (*DROP_REASONS.values(), *TRAINING_REASONS.values()):
        assert translate(why, "zh") != why


def test_every_metric_that_a_kind_shows_has_a_name_in_both_languages() -> None:
    same = {"KL", "rope_theta"}
    for kind in KINDS.values():
        for metric in kind.shows:
            known = METRIC_NAMES.get(metric) or METRIC_NAMES.get(metric.removeprefix("*."))
            assert known is not None, (kind.name, metric)
            assert known in same or translate(known, "zh") != known, metric


def test_a_chinese_reader_is_told_the_names_of_metrics_in_chinese() -> None:
    with use_language("zh"):
        line = summary("corpus", {"sources": ["./a"]}, {"rows_in": 20, "rows_kept": 7, "dropped": {}})
    assert line == "读入 20 · 保留行数 7"


def test_a_mix_tells_the_share_of_each_source() -> None:
    metrics = {"rows_written": 5, "tokens": 90, "sources": {"0": {"share": 0.75, "repeats": 1}, "1": {"share": 0.25}}}
    settings = {"records": "documents", "tokenizer": "./t", "sources": [{"data": "./a"}, {"data": "./b"}]}
    line = summary("mix", settings, metrics)
    assert line.endswith("share of each source: 0 0.75, 1 0.25")


def test_the_report_tells_what_came_out_in_both_languages(tmp_path: Path) -> None:
    recipe = build_recipe({"name": "r", "stages": {"s": {"kind": "corpus", "sources": ["./a"]}}}, "r.yaml")
    metrics = {"rows_in": 20, "rows_kept": 7}
    made = Manifest("corpus", "documents", 1, "k", "", {}, 0, (), (), metrics, {}, "", "", 1.0)
    steps = [Step(recipe.stages["s"], "k", "done", "", manifest=made)]
    page = render_report(recipe, steps, Store(tmp_path), build_report(recipe, steps))
    assert "rows in 20 · rows kept 7" in page and "读入 20 · 保留行数 7" in page


def test_the_report_tells_in_both_languages_why_rows_were_dropped(tmp_path: Path) -> None:
    recipe = build_recipe({"name": "r", "stages": {"s": {"kind": "corpus", "sources": ["./a"]}}}, "r.yaml")
    made = Manifest("corpus", "documents", 1, "k", "", {}, 0, (), (), {}, {}, "", "", 1.0)
    steps = [Step(recipe.stages["s"], "k", "done", "", manifest=made)]
    ledger = {"rows_in": 20, "rows_kept": 7, "dropped": {"too_short": 13}}
    folder = Store(tmp_path).folder("corpus", "k")
    folder.mkdir(parents=True)
    write_json(folder / "ledger.json", ledger)
    page = render_report(recipe, steps, Store(tmp_path), build_report(recipe, steps))
    assert "too_short (it is too short)" in page and "too_short（过短）" in page


def reported(first: Literal["done", "stale"], second: Literal["done", "run"]) -> dict[str, Any]:
    """The report of two stages in these states, with a target that compares their figures."""
    figures = {"before": "a.rows_kept", "after": "b.rows_kept"}
    targets = [{"figure": "before", "at_least": "after"}]
    stages = {name: {"kind": "corpus", "sources": ["./x"]} for name in ("a", "b")}
    recipe = build_recipe({"name": "r", "stages": stages, "report": {"figures": figures, "targets": targets}}, "r.yaml")
    made = Manifest("corpus", "documents", 1, "", "", {}, 0, (), (), {"rows_kept": 3}, {}, "", "", 1.0)
    steps = [
        Step(recipe.stages["a"], "", first, "", manifest=made),
        Step(recipe.stages["b"], "", second, "", manifest=made if second == "done" else None),
    ]
    return dict(build_report(recipe, steps).data)


def test_a_target_whose_bound_is_not_measured_yet_is_json() -> None:
    data = reported("done", "run")
    assert json.loads(json.dumps(data, allow_nan=False))["targets"] == [
        {"figure": "before", "value": 3.0, "sign": "≥", "bound": None, "reached": False}
    ]


def test_what_was_made_from_other_inputs_has_no_figure_in_the_report() -> None:
    data = reported("stale", "done")
    assert data["before"] is None and list(data["stages"]) == ["b"] and not data["all_targets_reached"]


RECIPE = """
name: r
stages:
  a: {{ kind: corpus, sources: [{{ path: {file}, format: text }}] }}
  b: {{ kind: corpus, sources: [{{ path: a }}] }}
  c: {{ kind: corpus, sources: [{{ path: b }}] }}
report:
  figures: {{ first: a.rows_kept, second: b.rows_kept, third: c.rows_kept }}
"""


def test_the_report_of_a_run_up_to_a_stage_keeps_later_stages_that_are_done(tmp_path: Path) -> None:
    text, file = tmp_path / "text.txt", tmp_path / "r.yaml"
    text.write_text("城东的图书馆里有很多书，欢迎大家来读。春天院子里开满了花。\n", encoding="utf-8")
    file.write_text(RECIPE.format(file=text), encoding="utf-8")
    recipe, store = read_recipe(file), Store(tmp_path)
    for index in (0, 1):
        worker.run_stage(build_request(recipe, plan(recipe, store)[index], store))
    part = recipe.until("a")
    reported, steps = _widen_report(part, plan(part, store), file, [], store)
    data = build_report(reported, steps).data
    assert list(data["stages"]) == ["a", "b"] and {"first", "second"} <= data.keys() and "third" not in data
    file.write_text(RECIPE.format(file=text).replace("path: b", "path: ./nowhere.txt"), encoding="utf-8")
    assert _widen_report(part, plan(part, store), file, [], store)[0] is part
