"""A dry run: each rule's own effect, with samples, and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.context import Inputs
from hanlin.data.report.dry_run import dry_run

Put = Callable[[str, Any], Path]
SPRING = "春天的时候，翰林院里开满了花。学士们坐在树下读书，谈论古今的文章。"
SPAM = "欧宝体育app下载，更多请上欧宝体育官网" + "哈" * 60
TEXTS = [{"text": SPRING}, {"text": f"{SPRING}\u200b电话13812345678"}, {"text": SPAM}]


def test_every_rule_is_counted_by_itself(put: Put) -> None:
    settings = Corpus(sources="./a", rules=["default", "personal_data"])
    result = dry_run(settings, Inputs({"sources.0.path": (put("a.jsonl", TEXTS),)}))
    assert (result.rows, result.kept) == (3, 2)
    runs, selling = result.effects["repeated_characters"], result.effects["advertisements"]
    assert (runs.drops, runs.first_drops, selling.drops, selling.first_drops) == (1, 1, 1, 0)
    (sample,) = result.effects["personal_data"].changed
    assert sample.location == "a.jsonl:2" and "13812345678" in sample.text and "[手机号]" in sample.after
    (hidden,) = result.effects["control_characters"].changed
    assert "<U+200B>" in hidden.text


def test_its_counts_are_those_of_the_stage(put: Put, run: Callable[..., Any]) -> None:
    path = put("a.jsonl", TEXTS)
    made = run(Corpus, path, validation_fraction=0, dedup="none", min_chars=1)
    result = dry_run(Corpus(sources="./a"), Inputs({"sources.0.path": (path,)}))
    assert made.ledger["rows_kept"] == result.kept
    assert made.ledger["changed"] == {name: v.changes for name, v in result.effects.items() if v.changes}


def test_rules_on_turns_are_tried_on_conversations(put: Put) -> None:
    rows = [{"messages": [{"role": "user", "content": "问"}]}, {"instruction": "问", "output": "答"}]
    result = dry_run(Conversations(sources="./a"), Inputs({"sources.0.path": (put("a.jsonl", rows[:1]),)}))
    assert result.effects["unanswered_end"].drops == 1 and result.kept == 0


def hanlin(*words: str) -> str:
    done = CliRunner().invoke(app, ["data", "rules", *words])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_tries_all_rules_on_any_file(put: Put) -> None:
    said = json.loads(hanlin(str(put("a.jsonl", TEXTS)), "--json"))
    assert said["rows"] == 3 and said["kept"] == 2
    by_name = {verdict["rule"]: verdict for verdict in said["effects"]}
    assert by_name["personal_data"]["changes"] == 1 and "turn_order" in by_name
    said = hanlin(
        str(put("b.json", json.dumps([{"instruction": "问", "output": "答"}]))), "--rule", "{symbols: {share: 0.1}}"
    )
    assert "symbols" in said


def test_the_command_tries_blocklists_and_evaluation_sets(put: Put) -> None:
    words, asked = put("w.txt", "翰林院\n"), put("q.jsonl", [{"id": "q1", "question": SPRING}])
    said = json.loads(hanlin(str(put("a.jsonl", TEXTS)), "--blocklist", str(words), "--against", str(asked), "--json"))
    drops = {verdict["rule"]: verdict["drops"] for verdict in said["effects"]}
    assert drops["blocklist"] == 2 and drops["contaminated"] == 2


def test_the_command_tries_a_stage_of_a_recipe(put: Put, tmp_path: Path) -> None:
    source = put("a.jsonl", TEXTS)
    recipe = put("r.yaml", f"stages:\n  text: {{kind: corpus, sources: [{source}], rules: [symbols]}}\n")
    said = json.loads(hanlin(str(recipe), "--stage", "text", "--home", str(tmp_path / "home"), "--json"))
    assert [verdict["rule"] for verdict in said["effects"]] == ["symbols"]
    assert not any((tmp_path / "home").glob("artifacts/corpus-*"))


@pytest.mark.parametrize("words", [["--rule", "symbool"], ["missing.jsonl"]])
def test_the_command_refuses_what_it_does_not_know(put: Put, words: list[str]) -> None:
    files = [] if words[0].endswith("jsonl") else [str(put("a.jsonl", TEXTS))]
    assert CliRunner().invoke(app, ["data", "rules", *files, *words]).exit_code != 0
