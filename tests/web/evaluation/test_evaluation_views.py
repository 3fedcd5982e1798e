"""Evaluations on the page: scores with intervals, every question with its answer, models compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from hanlin.pipeline.artifacts import Store
from page_worlds import commit
from web_client import make_client


def answers(right_every: int) -> str:
    """Twelve questions of two topics; every `right_every`-th is answered right."""
    rows = [
        {"id": f"q{n}", "topic": ("places", "sums")[n % 2], "question": f"第{n}问<b>？", "question_language": "zh"}
        | {"answers": ["对"], "answer": "错" if n % right_every else "对", "language": "zh"}
        | {"exact": n % right_every == 0, "finish": "stop", "ids": [1]}
        for n in range(12)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    home = tmp_path_factory.mktemp("home")
    store = Store(home)
    for name, right_every in (("before", 4), ("after", 1)):
        files = {"answers.jsonl": answers(right_every)}
        commit(store, "evaluate", "evaluation", f"{name:0<16}", files, run_stage=("r", name))
    commit(store, "long_context", "evaluation", "1" * 16, {"x.json": "{}"}, metrics={"passkey": {"found": 0.5}})
    commit(store, "evaluate", "evaluation", "2" * 16, {"answers.jsonl": "{broken"})
    return make_client(home)


BEFORE, AFTER = f"evaluate-{'before':0<16}", f"evaluate-{'after':0<16}"


def test_evaluations_are_listed_as_their_runs_call_them(client: TestClient) -> None:
    page = client.get("/ui/evaluation").text
    assert "r / before" in page and "r / after" in page and "long_context" in page


def test_a_report_opens_down_to_each_question(client: TestClient) -> None:
    page = client.get(f"/ui/evaluation/view/{BEFORE}").text
    assert "<b>25.0</b> %" in page and "places" in page and "第11问&lt;b&gt;？" in page
    wrong = client.get(f"/ui/evaluation/view/{BEFORE}?wrong=true&subject=places").text
    assert wrong.count("✗") == 3 and "✓" not in wrong
    found = client.get(f"/ui/evaluation/view/{BEFORE}?text=第7问").text
    assert found.count("✗") == 1 and "1 questions" in found


def test_what_has_no_questions_shows_its_figures_and_what_is_damaged_says_so(client: TestClient) -> None:
    assert "passkey.found" in client.get(f"/ui/evaluation/view/long_context-{'1' * 16}").text
    damaged = client.get(f"/ui/evaluation/view/evaluate-{'2' * 16}")
    assert damaged.status_code == 200 and "answers.jsonl" in damaged.text


def test_models_are_compared_on_the_page_of_the_command_in_a_sandbox(client: TestClient, tmp_path: Path) -> None:
    answer = client.get(f"/ui/evaluation/compare?run={BEFORE}&run={AFTER}")
    assert "r/before" in answer.text and "+75.0" in answer.text
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert client.get(f"/ui/evaluation/compare?run={BEFORE}").status_code == 400


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "nothing", "%2Fetc", "evaluate-x.partial"])
@pytest.mark.parametrize("path", ["view/{}", "view/{}/comparison", "compare?run={}&run=" + AFTER])
def test_nothing_else_can_be_named(name: str, path: str, client: TestClient) -> None:
    assert client.get(f"/ui/evaluation/{path.format(name)}").status_code in (400, 404)


@pytest.mark.parametrize("query", ["?task=9", "?task=-1", "?task=x", "/comparison"])
def test_a_query_that_cannot_be_meant_is_refused(query: str, client: TestClient) -> None:
    assert client.get(f"/ui/evaluation/view/{BEFORE}{query}").status_code in (400, 422)
