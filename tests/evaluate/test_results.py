"""A results folder: what is written is what is read, and a score opens down to its questions."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from hanlin.core.context import Inputs, LineageNode
from hanlin.core.errors import UserError
from hanlin.evaluate.results import (
    Results,
    Sample,
    Score,
    TaskResult,
    describe_lineage,
    installed_versions,
    mean_score,
    read_results,
    samples_name,
    summarize,
    write_results,
    write_samples,
)


def sample(index: int, right: float, subject: str = "s") -> Sample:
    return {
        "id": f"{subject}/test/{index}",
        "subject": subject,
        "prompt_sha256": "0" * 64,
        "target": "A",
        "answer": "A" if right else "B",
        "scores": {"acc": right},
    }


SAMPLES = [sample(0, 1.0), sample(1, 0.0), sample(0, 1.0, "t")]


def written(folder: Path) -> Results:
    scores, subjects = summarize(SAMPLES, ["acc"], "micro")
    name = samples_name("cmmlu", "lm_eval", is_only=True)
    digest = write_samples(folder, name, SAMPLES)
    result = TaskResult(
        task="cmmlu",
        task_version=1,
        language="zh",
        profile="lm_eval",
        profile_version="0.4.13",
        form="plain",
        thinking=None,
        method="choices",
        shots=5,
        fewest_shots=5,
        metric="acc",
        average="micro",
        questions=3,
        scores=scores,
        subjects=subjects,
        chance=0.25,
        near_chance=False,
        too_long=0,
        not_extracted=0,
        not_extracted_share=0.0,
        prompts_sha256="0" * 64,
        example_prompt="题目",
        samples=name,
        samples_sha256=digest,
    )
    results = Results({"name": "m", "engine": "transformers"}, [result], {"seed": 42}, installed_versions())
    write_results(folder, results)
    return results


def test_a_results_folder_is_read_as_it_was_written(tmp_path: Path) -> None:
    results = written(tmp_path)
    back = read_results(tmp_path)
    assert (back.model, back.tasks, back.settings) == (results.model, results.tasks, results.settings)
    assert back.versions["hanlin"] and back.versions["torch"]
    assert back.read_samples(back.tasks[0]) == SAMPLES
    assert back.find("cmmlu") is back.find("cmmlu", "lm_eval") is back.tasks[0]
    assert back.find("mmlu") is None and back.tasks[0].score == Score(**json.loads(json.dumps(_dict(back))))


def test_results_say_what_the_model_was_made_from(tmp_path: Path) -> None:
    source = LineageNode("corpus.jsonl", "file", "s", "CC-BY-4.0")
    base = LineageNode("base", "model", "b", "apache-2.0", kind="import_gguf")
    model = LineageNode("sft-1", "model", "m", "apache-2.0", kind="sft", parents=(base, source))
    rows = describe_lineage(Inputs({}, {"model": (model,), "data": (source,), "contamination": (base,)}))
    assert [row["name"] for row in rows] == ["sft-1", "base", "corpus.jsonl"]
    assert rows[0] == {"name": "sft-1", "type": "model", "kind": "sft", "digest": "m", "license": "apache-2.0"}
    write_results(tmp_path, replace(written(tmp_path), lineage=rows))
    assert list(read_results(tmp_path).lineage) == rows
    assert describe_lineage(Inputs({})) == []


def _dict(results: Results) -> dict[str, float]:
    score = results.tasks[0].score
    assert score is not None
    return {name: getattr(score, name) for name in ("value", "low", "high", "standard_error")}


def test_a_macro_average_counts_subjects_and_a_micro_average_questions() -> None:
    micro, subjects = summarize(SAMPLES, ["acc"], "micro")
    macro, _ = summarize(SAMPLES, ["acc"], "macro")
    assert micro["acc"].value == pytest.approx(2 / 3)
    assert macro["acc"].value == pytest.approx(3 / 4)
    assert macro["acc"].standard_error == pytest.approx(0.25)  # of one half and one whole: √(0.5² + 0²) / 2
    assert (subjects["s"]["questions"], subjects["s"]["value"], subjects["t"]["value"]) == (2, 0.5, 1.0)


def test_partial_scores_have_the_normal_interval_and_zeros_and_ones_wilsons() -> None:
    partial = mean_score([0.5, 1.0, 0.0, 0.5])
    assert partial.standard_error == pytest.approx(math.sqrt(0.5 / 3 / 4))
    assert partial.low == pytest.approx(0.5 - 1.959964 * partial.standard_error, abs=1e-6)
    assert mean_score([1.0] * 10).low == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_a_macro_average_of_subjects_all_right_or_all_wrong_is_not_certain(right: float) -> None:
    score = summarize([sample(index, right, "st"[index % 2]) for index in range(6)], ["acc"], "macro")[0]["acc"]
    of_three = mean_score([right] * 3)
    assert (score.value, score.high - score.low) == (
        right,
        pytest.approx((of_three.high - of_three.low) / math.sqrt(2)),
    )


def test_a_macro_average_of_large_subjects_has_the_normal_interval() -> None:
    samples = [sample(index, float(index % 3 == 0), "st"[index % 2]) for index in range(6000)]
    score = summarize(samples, ["acc"], "macro")[0]["acc"]
    assert score.high - score.low == pytest.approx(2 * 1.959964 * score.standard_error, rel=1e-3)


def test_one_partial_score_alone_has_no_narrow_interval() -> None:
    assert (mean_score([0.3]).low, mean_score([0.3]).high) == (0.0, 1.0)


def test_results_that_are_missing_damaged_or_edited_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results of tasks here"):
        read_results(tmp_path)
    results = written(tmp_path)
    path = tmp_path / results.tasks[0].samples
    path.write_text(path.read_text(encoding="utf-8").replace('"A"', '"C"', 1), encoding="utf-8")
    with pytest.raises(UserError, match="not those that were scored"):
        read_results(tmp_path).read_samples(results.tasks[0])
    path.unlink()
    with pytest.raises(UserError, match="are missing"):
        read_results(tmp_path).read_samples(results.tasks[0])
    for text in ("{", "[]", '{"format": "hanlin-results/1", "tasks": [{}]}'):
        (tmp_path / "results.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="damaged"):
            read_results(tmp_path)
    (tmp_path / "results.json").write_text('{"format": "other"}', encoding="utf-8")
    with pytest.raises(UserError, match="'other'"):
        read_results(tmp_path)
