"""Curves are read as they grow and drawn with few points, none of which hides a spike."""

from __future__ import annotations

import json
import math
import random
from array import array
from pathlib import Path

import pytest

from hanlin.web.runs.curves import Curve, GrowingLog, StageCurves, group_curves, list_forgetting, reduce_curve
from page_worlds import metrics_text


def curve_of(values: list[float]) -> Curve:
    return Curve(array("q", range(1, len(values) + 1)), array("d", values))


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 5000, 99_999])
def test_a_reduced_curve_keeps_ends_and_extremes_in_order(count: int) -> None:
    draw = random.Random(count)
    values = [draw.gauss(0, 1) for _ in range(count)]
    steps, drawn = reduce_curve(curve_of(values), 100)
    assert len(steps) == len(drawn) <= 100
    assert steps == sorted(set(steps)) and steps[0] == 1 and steps[-1] == count
    assert min(drawn) == min(values) and max(drawn) == max(values)
    assert all(values[step - 1] == value for step, value in zip(steps, drawn, strict=True))


def test_a_spike_of_one_step_stays_as_high_as_it_was() -> None:
    values = [1.0] * 100_000
    values[77_776] = 50.0
    steps, drawn = reduce_curve(curve_of(values))
    assert drawn[steps.index(77_777)] == 50.0


def test_a_growing_file_is_read_on_and_an_unfinished_line_waits(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    log = GrowingLog(file)
    log.update()
    assert log.curves == {}
    text = metrics_text(20)
    file.write_text(text[:-10], encoding="utf-8")
    log.update()
    assert log.curves["loss"].steps.tolist() == list(range(1, 20))
    with file.open("a", encoding="utf-8") as more:
        more.write(text[-10:])
    log.update()
    assert log.curves["loss"].steps.tolist() == list(range(1, 21)) and log.last_row["step"] == 20


def test_a_run_that_goes_on_from_a_checkpoint_starts_its_curves_over(tmp_path: Path) -> None:
    file, new = tmp_path / "metrics.jsonl", tmp_path / "new"
    file.write_text(metrics_text(30), encoding="utf-8")
    log = GrowingLog(file)
    log.update()
    new.write_text(metrics_text(12), encoding="utf-8")
    new.replace(file)
    log.update()
    assert log.curves["loss"].steps.tolist() == list(range(1, 13))


def test_damaged_lines_and_values_that_are_no_numbers_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = ['{"step": 1, "loss": 2.0}', "{", "[1]", '{"step": "x"}', '{"step": 2, "loss": NaN, "note": "x"}']
    file.write_text("\n".join([*rows, '{"step": 3, "loss": 1.0}', ""]), encoding="utf-8")
    log = GrowingLog(file)
    log.update()
    assert log.curves["loss"].values.tolist() == [2.0, 1.0] and log.curves["loss"].broken == [2]
    assert not log.curves.get("note", Curve()).values


def test_probes_begin_before_the_first_step_and_say_what_was_forgotten(tmp_path: Path) -> None:
    (tmp_path / "m").write_text(metrics_text(20, spike=7), encoding="utf-8")
    speed = [{"step": n, "seconds": n, "loss": 1.0, "tokens_per_second": 5.0, "memory_gb": 1.0} for n in range(1, 21)]
    (tmp_path / "s").write_text("".join(json.dumps(row) + "\n" for row in speed), encoding="utf-8")
    curves = StageCurves(tmp_path / "m", tmp_path / "s")
    curves.update()
    assert curves.curves["probe_english_loss"].steps.tolist() == [0, 10, 20]
    (probe,) = list_forgetting(curves.curves)
    assert (probe.topic, probe.before, probe.now, probe.is_worse) == ("english", 2.0, 2.5, True)
    names = [picture["name"] for picture in curves.drawn()["pictures"]]
    assert names == ["loss", "probe_loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gb"]
    assert curves.curves["loss"].values[6] == 9.0  # that of the metrics, not that of the speeds
    part = curves.drawn(first=8, last=12)["pictures"][0]["curves"][0]["steps"]
    assert part == [7, 8, 9, 10, 11, 12, 13]
    assert math.isclose(curves.drawn()["pictures"][0]["curves"][0]["last"], 3 / 20)


def test_every_metric_of_an_objective_is_in_some_picture() -> None:
    pictures = group_curves(["step", "loss", "tokens", "accuracy", "chosen_reward", "validation_loss", "seconds"])
    assert [picture.curves for picture in pictures] == [
        ("loss", "validation_loss"),
        ("accuracy",),
        ("chosen_reward",),
    ]
