"""Models are compared over the same questions: what is called a difference, what is refused, what a page shows."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanlin.config.settings.probe import Compare
from hanlin.core.context import Inputs, LineageNode, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.bootstrap import resample
from hanlin.evaluate.comparison import judge, stage
from hanlin.evaluate.results import Results, Sample, TaskResult, summarize, write_results, write_samples
from hanlin.web.pages.comparison import render_comparison
from scripted_chat_server import chat_server


def write_rows(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return folder


def exam(folder: Path, right: dict[str, list[int]]) -> Path:
    """The results of an exam of several subjects: for each subject a 1 for every right answer."""
    folder.mkdir(exist_ok=True)
    samples: list[Sample] = [
        {"id": f"{subject}/test/{index}", "subject": subject, "prompt_sha256": "0" * 64, "target": "A",
         "answer": "A" if hit else "B", "scores": {"acc": float(hit)}}
        for subject, hits in right.items()
        for index, hit in enumerate(hits)
    ]  # fmt: skip
    scores, subjects = summarize(samples, ["acc"], "macro")
    digest = write_samples(folder, "samples-exam.jsonl", samples)
    result = TaskResult(
        task="exam", task_version=1, language="zh", profile="lm_eval", profile_version="1", form="plain", thinking=None,
        method="choices", shots=0, fewest_shots=0, metric="acc", average="macro", questions=len(samples), scores=scores,
        subjects=subjects, chance=0.25, near_chance=False, too_long=0, not_extracted=0, not_extracted_share=0.0,
        prompts_sha256="0" * 64, example_prompt="题目", samples="samples-exam.jsonl", samples_sha256=digest,
    )  # fmt: skip
    model = {"name": folder.name, "engine": "transformers", "dtype": "float32"}
    write_results(folder, Results(model, [result], {"seed": 42}, {"torch": "2.13.0"}))
    return folder


def perplexity(folder: Path, nats: list[float], tokens: int = 10) -> Path:
    rows = [
        {"id": str(index), "language": "zh", "tokens": tokens, "characters": 20, "bytes": 60, "nats": value}
        for index, value in enumerate(nats)
    ]
    return write_rows(folder, "perplexity.jsonl", rows)


def probe(folder: Path, answers: dict[str, str], stops: int = 10**6) -> Path:
    rows = [
        {"id": name, "language": "zh", "mode": "greedy", "messages": [{"role": "user", "content": f"问 {name}"}],
         "expect": {}, "answer": answer, "counts": {"stops": index < stops, "repeats": False}}
        for index, (name, answer) in enumerate(answers.items())
    ]  # fmt: skip
    return write_rows(folder, "answers.jsonl", rows)


def compare(folders: list[Path], out: Path, seed: int = 42, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics, and what comparison.json holds."""
    out.mkdir(exist_ok=True)
    inputs = Inputs({"results": tuple(folders), "contamination": tuple(settings.get("contamination", ()))})
    chosen = Compare(**{"results": ("r",), **settings, "contamination": ()})
    metrics = stage.run(chosen, inputs, out, StageContext(seed=seed))
    return metrics, json.loads((out / "comparison.json").read_text(encoding="utf-8"))


HALF = {"law": [1, 0] * 20, "history": [1, 0] * 20}


def test_what_got_worse_beyond_its_interval_is_forgotten_and_what_got_better_is_gained(tmp_path: Path) -> None:
    base = exam(tmp_path / "base", HALF)
    tuned = exam(tmp_path / "tuned", {"law": [0, 0] * 10 + [1, 0] * 10, "history": [1, 1] * 10 + [1, 0] * 10})
    metrics, comparison = compare([base, tuned], tmp_path / "out")
    (task,) = comparison["tasks"]
    by_subject = {row["name"]: row["scores"][1]["difference"] for row in task["subjects"]}
    assert by_subject["law"]["verdict"] == "loss" and by_subject["history"]["verdict"] == "gain"
    assert by_subject["law"]["value"] == pytest.approx(-0.25) and by_subject["law"]["lost"] == 10
    assert [row["name"] for row in task["subjects"]] == ["law", "history"]
    total = task["scores"][1]["difference"]
    assert (total["value"], total["won"], total["lost"], total["verdict"]) == (0, 10, 10, "same")
    assert metrics["scores"] == {"exam (lm_eval, 1, plain)": {"base": 0.5, "tuned": 0.5}} and metrics["losses"] == 0
    questions = [json.loads(line) for line in (tmp_path / "out" / "questions.jsonl").read_text().splitlines()]
    assert len(questions) == 80 and questions[0]["answers"]["base"]["value"] == 1


def test_a_tie_is_no_difference_and_five_changed_questions_show_none(tmp_path: Path) -> None:
    base = exam(tmp_path / "base", {"law": [1] * 40})
    same = exam(tmp_path / "same", {"law": [1] * 40})
    five = exam(tmp_path / "five", {"law": [1] * 35 + [0] * 5})
    six = exam(tmp_path / "six", {"law": [1] * 34 + [0] * 6})
    _, comparison = compare([base, same, five, six], tmp_path / "out")
    differences = [score["difference"] for score in comparison["tasks"][0]["scores"][1:]]
    assert [row["verdict"] for row in differences] == ["same", "same", "loss"]
    assert (differences[0]["value"], differences[0]["low"], differences[0]["high"]) == (0, 0, 0)
    assert differences[1]["high"] < 0
    scores = comparison["tasks"][0]["scores"]  # all right of 40 is no certainty: Wilson's interval
    assert (scores[0]["low"], scores[0]["high"]) == (pytest.approx(0.9124, abs=1e-4), 1.0)


def test_kinds_of_questions_are_drawn_as_the_questions_are() -> None:
    """The intervals are those of drawing every question by itself, to what 4,000 draws can tell."""
    rng = np.random.default_rng(0)
    values = np.array([rng.random(300) < 0.6, rng.random(300) < 0.5], dtype=np.float64)
    groups = np.repeat(np.arange(3), (150, 100, 50))
    for average in ("micro", "macro"):
        draws = resample(values, np.ones_like(values), groups, average, resamples=4000, seed=1)
        plain = np.empty((4000, 2))
        for index in range(4000):
            if average == "micro":
                plain[index] = values[:, rng.integers(0, 300, 300)].mean(axis=1)
            else:
                parts = [rng.choice(np.flatnonzero(groups == group), (groups == group).sum()) for group in range(3)]
                plain[index] = np.mean([values[:, part].mean(axis=1) for part in parts], axis=0)
        for level in (2.5, 50, 97.5):
            assert np.percentile(draws, level, axis=0) == pytest.approx(np.percentile(plain, level, axis=0), abs=0.01)


def test_bits_per_byte_compare_models_whose_tokenizers_cut_differently(tmp_path: Path) -> None:
    base = perplexity(tmp_path / "base", [60.0 + index for index in range(20)])
    extended = perplexity(tmp_path / "extended", [50.0 + index for index in range(20)], tokens=5)
    _, comparison = compare([base, extended], tmp_path / "out")
    (task,) = comparison["tasks"]
    old, new = task["scores"]
    assert old["value"] == pytest.approx(sum(60.0 + index for index in range(20)) / (20 * 60) / math.log(2))
    assert new["difference"]["value"] == pytest.approx(-10 / 60 / math.log(2))
    assert new["difference"]["verdict"] == "gain" and not task["higher_is_better"]
    assert new["notes"]["perplexity"] > old["notes"]["perplexity"]  # per token it seems to be worse


def test_scores_over_clean_questions_are_beside_the_full_ones(tmp_path: Path) -> None:
    base = exam(tmp_path / "base", {"law": [1] * 10 + [0] * 10})
    tuned = exam(tmp_path / "tuned", {"law": [1] * 20})
    data = tmp_path / "data"
    data.mkdir()
    ids = [f"law/test/{index}" for index in range(20)]
    row = {"contaminated": ids[10:], "clean": ids[:9], "unsearched": ids[9:10]}
    (data / "contamination.json").write_text(json.dumps({"sets": [row]}), encoding="utf-8")
    _, comparison = compare([base, tuned], tmp_path / "out", contamination=[data])
    split = comparison["tasks"][0]["contamination"]
    assert comparison["tasks"][0]["scores"][1]["difference"]["verdict"] == "gain"
    assert [score["value"] for score in split["clean"]["scores"]] == [1, 1]
    assert split["clean"]["scores"][1]["difference"]["verdict"] == "same"
    assert [score["value"] for score in split["contaminated"]["scores"]] == [0, 1]


def test_two_runs_are_equal_and_one_model_alone_is_reported(tmp_path: Path) -> None:
    folders = [exam(tmp_path / "a", HALF), exam(tmp_path / "b", {**HALF, "law": [0, 1] * 20})]
    for name in ("one", "two"):
        compare(folders, tmp_path / name)
    for file in (tmp_path / "one").iterdir():
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    metrics, comparison = compare(folders[:1], tmp_path / "alone")
    assert metrics["models"] == 1 and "difference" not in comparison["tasks"][0]["scores"][0]


@pytest.mark.parametrize(
    ("make", "settings", "told"),
    [
        (lambda f: [exam(f / "a", HALF), exam(f / "b", {"law": [1] * 4})], {}, "different questions of exam: 80 and 4"),
        (lambda f: [exam(f / "a", HALF), perplexity(f / "b", [1.0])], {}, "no task was given to two of the models"),
        (lambda f: [exam(f / "a", HALF), exam(f / "b", HALF)], {"names": ("m", "m")}, "two results of m for exam"),
        (lambda f: [exam(f / "a", HALF), exam(f / "b", HALF)], {"names": ("m",)}, "2 results have 1 names"),
        (lambda f: [write_rows(f / "a", "answers.jsonl", [])], {}, "hold no answer"),
        (lambda f: [write_rows(f / "a", "other.jsonl", [])], {}, "no results are here"),
        (lambda f: [write_rows(f / "a", "answers.jsonl", [{"id": "1"}])], {}, "have no score"),
        (lambda f: [write_rows(f / "a", "answers.jsonl", [{"counts": 1}])], {}, "as an evaluation writes"),
        (lambda f: [exam(f / "a", {"a": [1]}), exam(f / "b", {"b": [1]})], {"common": True}, "no question of exam in"),
        (lambda f: [exam(f / "a", HALF), exam(f / "b", HALF)], {"judge": {"address": "http://x"}}, "no open answers"),
    ],
    ids=str.split("questions tasks twice names empty nothing unscored foreign disjoint judge"),
)  # fmt: skip
def test_what_cannot_be_compared_is_one_sentence(make: Any, settings: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        compare(make(tmp_path), tmp_path / "out", **settings)


def test_a_question_whose_text_was_edited_is_refused(tmp_path: Path) -> None:
    base, tuned = probe(tmp_path / "a", {"1": "甲"}), probe(tmp_path / "b", {"1": "乙"})
    file = tuned / "answers.jsonl"
    file.write_text(file.read_text(encoding="utf-8").replace("问 1", "答 1"), encoding="utf-8")
    with pytest.raises(UserError, match="question 1 of stops is not the same in both results"):
        compare([base, tuned], tmp_path / "out")


def judged(verdict: Any) -> Any:
    """A judge that says what `verdict` makes of the two answers, in the order in which it reads them."""

    def script(body: dict[str, Any]) -> tuple[str, str]:
        text = body["messages"][0]["content"]
        first, second = re.split(r"## 回答 B\n", text.split("## 回答 A\n")[1])
        return f"理由。\n**结论：{verdict(first.strip(), second.strip())}**", "stop"

    return script


SHORT = {f"open_questions/{index}": "短。" for index in range(8)}
LONG = {f"open_questions/{index}": "长一些的回答。" for index in range(8)}


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (lambda a, b: "A", {"wins": 0, "ties": 8, "losses": 0, "share": 0.5, "agreement": 0.0, "first": 1.0}),
        (lambda a, b: "A" if len(a) > len(b) else "B", {"wins": 8, "share": 1.0, "agreement": 1.0, "longer": 1.0}),
        (lambda a, b: "A" if len(a) < len(b) else "B", {"losses": 8, "share": 0.0, "longer": 0.0, "first": 0.5}),
        (lambda a, b: "平", {"ties": 8, "share": 0.5, "agreement": 1.0, "first": None, "longer": None}),
        (lambda a, b: "不知道", {"unread": 8, "share": None, "agreement": None}),
    ],
    ids=str.split("first longer shorter tie none"),
)  # fmt: skip
def test_a_judge_must_agree_with_itself_in_both_orders(verdict: Any, expected: dict, tmp_path: Path) -> None:
    folders = [probe(tmp_path / "short", SHORT), probe(tmp_path / "long", LONG)]
    with chat_server(judged(verdict)) as server:
        _, comparison = compare(folders, tmp_path / "out", judge={"address": server.url})
    (row,) = comparison["judge"]["models"]
    assert {name: row[name] for name in expected} == expected and row["model"] == "long"
    assert len(comparison["judge"]["judgments"]) == 16


def test_a_judge_that_always_says_the_same_is_not_certain() -> None:
    rows = [
        {"id": str(index), "swapped": swapped, "verdict": "first" if swapped else "second", "lengths": [1, 2]}
        for index in range(3)
        for swapped in (False, True)
    ]
    always = judge.summarize(rows, 42, 100)
    assert (always["share"], always["high"]) == (1.0, 1.0) and always["low"] == pytest.approx(0.4385, abs=1e-4)
    ties = judge.summarize([{**row, "verdict": "tie"} for row in rows], 42, 100)
    assert ties["low"] < ties["share"] == 0.5 < ties["high"]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("Verdict: a tie", "tie"), ("**Verdict: A**", "first"), ("Verdict: B.", "second"), ("结论：平", "tie")],
)
def test_a_verdict_is_read_as_it_is_meant(reply: str, verdict: str) -> None:
    assert judge.read_verdict(reply) == verdict


def test_a_judge_that_breaks_off_is_one_sentence_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANLIN_API_KEY", "sk-secret")
    folders = [probe(tmp_path / "short", SHORT), probe(tmp_path / "long", LONG)]
    count = 0

    def dies(body: dict[str, Any]) -> tuple[str, str]:
        nonlocal count
        count += 1
        if count == 10:
            raise ConnectionError
        return "结论：A", "stop"

    with chat_server(dies) as server:
        with pytest.raises(UserError, match="broke off") as error:
            compare(folders, tmp_path / "out", judge={"address": server.url})
        before = len(server.requests)
        compare(folders, tmp_path / "out", judge={"address": server.url})
        assert len(server.requests) - before == 8
        assert set(server.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in str(error.value)
    assert "sk-secret" not in (tmp_path / "out" / "comparison.json").read_text(encoding="utf-8")


def test_the_page_holds_everything_itself_and_says_in_red_what_was_forgotten(tmp_path: Path) -> None:
    base = exam(tmp_path / "<base>", {name: [1] * 30 for name in ("law", "history", "art")})
    tuned = exam(tmp_path / "tuned", {"law": [0] * 30, "history": [1] * 30, "art": [1] * 30})
    questions = [probe(tmp_path / "p1", SHORT), probe(tmp_path / "p2", {**LONG, "open_questions/0": "<script>"}, 1)]
    names = ("<base>", "tuned", "<base>", "tuned")
    _, comparison = compare([base, tuned, *questions], tmp_path / "out", names=names)
    page = render_comparison(comparison)
    assert "<script>" not in page.replace("<script>if (!(navigator", "") and "&lt;base&gt;" in page
    assert not re.search(r"(?:src|href)=[\"'](?!#)|url\(|@import|https?://", page)
    assert page.count('class="en"') == page.count('class="zh"')
    assert re.search(r'<li class="loss">.*?exam.*?−33.3', page) and 'rect class="loss"' in page
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert "66.7 [" in markdown and "−33.3 ▼" in markdown


def test_the_report_says_how_a_task_was_asked_what_ran_the_model_and_what_it_was_made_from(tmp_path: Path) -> None:
    folder = exam(tmp_path / "base", HALF)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    source = LineageNode("wiki.jsonl", "file", "ab" * 32, "CC-BY-4.0")
    model = LineageNode("tuned-1", "model", "cd" * 32, parents=(source,))
    node = LineageNode("base", "evaluation", "ef" * 32, parents=(model,), kind="evaluate", settings={"model": "tuned"})
    (tmp_path / "out").mkdir()
    inputs = Inputs({"results": (folder,)}, lineage={"results": (node,)})
    stage.run(Compare(results=("r",)), inputs, tmp_path / "out", StageContext())
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    for heading in ("How it was asked · 提问方式", "Lineage · 谱系", "Prompts · 提示", "Origin · 来源"):
        assert f"## {heading}" in markdown
    assert "| tuned | wiki.jsonl | file | 1 | CC-BY-4.0 | `abababababababab` |" in markdown
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    (task,) = comparison["tasks"]
    assert task["asked"]["prompts_sha256"] and task["asked"]["example_prompt"] in markdown
    (result,) = comparison["models"][0]["results"]
    assert result["measured"] == {"engine": "transformers", "dtype": "float32", "torch version": "2.13.0"}
    assert "engine transformers, dtype float32, torch version 2.13.0" in markdown
    page = render_comparison(comparison)
    assert "How it was asked" in page and "提问方式" in page and "CC-BY-4.0" in page


def test_the_files_of_a_folder_are_one_row_of_the_lineage_and_each_is_kept_beside_it(tmp_path: Path) -> None:
    folder = exam(tmp_path / "base", HALF)
    (folder / "manifest.json").write_text("{}", encoding="utf-8")
    files = [LineageNode(f"data/{name}.csv", "file", f"{index}" * 64) for index, name in enumerate("cab")]
    single = LineageNode("data/d.csv", "file", "4" * 64, "CC-BY-4.0")  # another license
    node = LineageNode("base", "evaluation", "ef" * 32, parents=(*files, single), kind="evaluate")
    (tmp_path / "out").mkdir()
    inputs = Inputs({"results": (folder,)}, lineage={"results": (node,)})
    stage.run(Compare(results=("r",)), inputs, tmp_path / "out", StageContext())
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    listing = "".join(f"{digit * 64}  data/{name}.csv\n" for digit, name in (("0", "c"), ("1", "a"), ("2", "b")))
    digest = hashlib.sha256(listing.encode()).hexdigest()
    assert f"| base | data/ | file | 3 | – | `{digest[:16]}` |" in markdown
    assert "| base | data/d.csv | file | 1 | CC-BY-4.0 | `4444444444444444` |" in markdown
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    (model,) = comparison["models"]
    assert len(model["lineage"]) == 4 and len(model["made_from"]) == 2
    page = render_comparison(comparison)
    assert "3 files" in page and "3 个文件" in page
    del model["made_from"]  # of an earlier version
    assert "data/a.csv" in render_comparison(comparison)
