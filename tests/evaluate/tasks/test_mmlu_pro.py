"""MMLU-Pro is asked with the worked examples of its validation split, which reason before they answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.tasks import stage
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.items import Items, read_items
from hanlin.evaluate.tasks.prompts import PromptBuilder
from hanlin.pipeline.hubs.inputs import download
from hub_server import COMMIT, Repository, hub_server
from scripted_engine import CharacterTokenizer

TASK = packaged_tasks()["mmlu_pro"]


def row(subject: str, number: int, thought: str) -> dict[str, Any]:
    return {
        "question_id": number, "question": f"{subject} {number}?", "options": ["red ", "green", "blue"], "answer": "B",
        "answer_index": 1, "cot_content": thought, "category": subject,
    }  # fmt: skip


def read(folder: Path, with_examples: bool) -> Items:
    questions = [row("law", 1, ""), row("art", 2, "")]
    examples = [
        row(subject, number, f"A: Let's think step by step. {subject} is green. The answer is (B).")
        for subject in ("law", "art")
        for number in range(10, 15)
    ]
    files = {"mmlu_pro_sample.jsonl": questions} | ({"mmlu_pro_validation.jsonl": examples} if with_examples else {})
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    return read_items("mmlu_pro", TASK, folder)


def build(items: Items, index: int) -> str:
    (asked,) = stage._task_runs(Evaluate(model="m", tasks=("mmlu_pro",), data="d"), "mmlu_pro", TASK)
    builder = PromptBuilder(asked, CharacterTokenizer(), None, 1 << 20)  # type: ignore[arg-type]
    return builder.build(items.questions[index], items).text


def test_five_examples_of_the_subject_reason_before_they_answer(tmp_path: Path) -> None:
    items = read(tmp_path, True)
    assert [item.id for item in items.questions] == ["1", "2"]  # the validation split is not asked
    options = "Options:\nA. red\nB. green\nC. blue\nAnswer: Let's think step by step."
    shot = f"Question:\nlaw {{}}?\n{options} law is green. The answer is (B).\n\n"
    heading = (
        "The following are multiple choice questions (with answers) about law. Think step by step and then finish your "
        'answer with "the answer is (X)" where X is the correct letter choice.\n'
    )
    shots = "".join(shot.format(number) for number in range(10, 15))
    assert build(items, 0) == f"{heading}{shots}Question:\nlaw 1?\n{options}"
    assert build(items, 1).count("art is green") == 5


@pytest.mark.parametrize("hub", ["hf", "ms"])
def test_a_data_set_of_the_hub_is_read_as_it_was_downloaded(
    hub: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {"test": [row("law", 1, "")], "validation": [row("law", 10, "A: Let's think step by step. It is (B).")]}
    files = {"README.md": b"test"}
    for split, some in rows.items():
        pq.write_table(pa.Table.from_pylist(some), tmp_path / f"{split}.parquet")
        files[f"data/{split}-00000-of-00001.parquet"] = (tmp_path / f"{split}.parquet").read_bytes()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "ms"))
    with hub_server() as server:
        server.repositories["TIGER-Lab/MMLU-Pro"] = Repository(files, "dataset")
        endpoints = {"hf": server.url, "ms": server.url}
        folder, _ = download({"field": "data", "key": f"{hub}:TIGER-Lab/MMLU-Pro@{COMMIT}"}, endpoints=endpoints)
    items = read_items("mmlu_pro", TASK, folder)
    assert [item.id for item in items.questions] == ["1"] and len(items.examples["law"]) == 1
    settings = Evaluate(model="m", tasks=("mmlu_pro",), data=f"{hub}:TIGER-Lab/MMLU-Pro@{COMMIT}")
    assert stage._describe_settings(settings, StageContext())["data"] == settings.data


def test_without_its_validation_split_it_is_refused_and_no_question_answers_another(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5 worked examples are wanted, but there are 0 for law"):
        build(read(tmp_path, False), 0)
