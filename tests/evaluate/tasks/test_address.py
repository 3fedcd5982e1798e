"""A server that scores given texts is asked as the model's folder is, with equal results; another says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from completion_server import completion_server
from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.results import Results, read_results
from hanlin.evaluate.tasks import stage
from hanlin.evaluate.tasks.address import TextServer
from hanlin.inference.chat_server import ChatServer
from hanlin.inference.loading import LoadedEngine, load_engine
from live_server import LiveServer, run_server
from scripted_chat_server import chat_server

OWN_TASK = """
mine:
  description: words that go on without a space
  language: zh
  files: [mine_rows.jsonl]
  layouts: [{fields: {question: question}, choices: choices, gold: gold}]
  profiles:
    hanlin:
      version: "1"
      method: choices
      prompt: "{question}"
      continuation: "{choice}"
      metrics: [{name: acc, compare: choice}]
"""


def write_rows(path: Path, *rows: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of every way to ask: letters, whole choices, the last word, a choice in the prompt, written answers."""
    folder = tmp_path_factory.mktemp("data")
    for split in ("dev", "test"):
        path = folder / "cmmlu" / split / "law.csv"
        path.parent.mkdir(parents=True)
        lines = [f"{row},翰林院在哪里{row}？,城东,城西,城南,城北,{'ABCD'[row % 4]}\n" for row in range(3)]
        path.write_text(",Question,A,B,C,D,Answer\n" + "".join(lines), encoding="utf-8")
    write_rows(folder / "lambada_test_openai.jsonl", {"text": "the library stands in the east of the town"})
    write_rows(
        folder / "hellaswag_2.jsonl",
        *(
            {"id": row, "context": f"三加四{row}", "choices": ["等于七", "花", "the town"], "label": 0}
            for row in range(2)
        ),
    )
    write_rows(
        folder / "winogrande_dev.jsonl",
        {"context_options": ["The town so Ann", "The town so Bob"], "continuation": "stands east", "gold": 1},
    )
    write_rows(folder / "nq_open_dev.jsonl", {"question": "where is the library", "answer": ["east"]})
    (folder / "mine.yaml").write_text(OWN_TASK, encoding="utf-8")
    write_rows(
        folder / "mine_rows.jsonl",
        *(
            {"question": text, "choices": ["在城东门外", "林院和花园里", "七年以前"], "gold": 1}
            for text in ("翰", "翰林院", "三加四等于")
        ),
    )
    write_rows(
        folder / "asked.jsonl",
        {"question": "翰林院在哪里？", "answers": ["城东"], "match": "contains"},
        {"question": "三加四等于几？", "choices": ["七", "八"], "answer": "A"},
    )
    return folder


@pytest.fixture(scope="module")
def loaded(taught_model: Path) -> Iterator[LoadedEngine]:
    opened = load_engine(taught_model, dtype="float32")
    yield opened
    opened.engine.close()


@pytest.fixture(scope="module")
def server(loaded: LoadedEngine) -> Iterator[LiveServer]:
    with run_server(loaded) as live:
        yield live


def ask(data: Path, out: Path, model: Path | None = None, **settings: Any) -> Results:
    out.mkdir()
    inputs = {"data": (data,), **({"model": (model,)} if model else {})}
    chosen = Evaluate(data="d", model="m" if model else None, max_new_tokens=8, **settings)
    stage.run(chosen, Inputs(inputs), out, StageContext())
    return read_results(out)


def assert_equal(first: Results, second: Results) -> None:
    assert [row.label for row in first.tasks] == [row.label for row in second.tasks]
    for one, two in zip(first.tasks, second.tasks, strict=True):
        assert (one.scores, one.prompts_sha256, one.form, one.method, one.shots, one.too_long) == (
            two.scores, two.prompts_sha256, two.form, two.method, two.shots, two.too_long
        ), one.label  # fmt: skip
        for here, there in zip(first.read_samples(one), second.read_samples(two), strict=True):
            assert here.get("logprobs") == pytest.approx(there.get("logprobs"), abs=2e-4), one.label
            for name in ("id", "answer", "output", "scores", "prompt_sha256"):
                assert here.get(name) == there.get(name), (one.label, name)


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": ("cmmlu,lambada,hellaswag,winogrande,nq_open,mine.yaml",), "shots": 0},
        {"tasks": ("cmmlu",), "shots": 2, "profiles": ("chinese_llama_alpaca_3", "paper")},
        {"tasks": ("asked.jsonl",)},
        {"tasks": ("asked.jsonl",), "chat": False},
        {"tasks": ("cmmlu",), "shots": 0, "chat": True, "method": "generate"},
    ],
    ids=["tasks", "profiles", "own questions", "own questions as text", "chat"],
)
def test_a_server_that_scores_given_texts_has_the_results_of_the_folder(
    settings: dict[str, Any], server: LiveServer, taught_model: Path, data: Path, tmp_path: Path
) -> None:
    here = ask(data, tmp_path / "folder", taught_model, **settings)
    there = ask(data, tmp_path / "address", address=server.address, **settings)
    assert_equal(here, there)
    assert (there.model["kind"], there.model["name"]) == ("address", "tiny")


def test_worked_examples_that_do_not_fit_are_left_out_as_for_the_folder(
    server: LiveServer, loaded: LoadedEngine, taught_model: Path, tmp_path: Path
) -> None:
    folder, question = tmp_path / "data" / "cmmlu", "翰林院在城东吗" * 12
    for split in ("dev", "test"):
        (folder / split).mkdir(parents=True)
        texts = [question, question, question * (40 if split == "test" else 1)]
        lines = "".join(f"{row},{text},a,b,c,d,A\n" for row, text in enumerate(texts))
        (folder / split / "law.csv").write_text(",Question,A,B,C,D,Answer\n" + lines, encoding="utf-8")
    here = ask(tmp_path / "data", tmp_path / "folder", taught_model, tasks=("cmmlu",), shots=3)
    there = ask(tmp_path / "data", tmp_path / "address", address=server.address, tasks=("cmmlu",), shots=3)
    assert_equal(here, there)
    (row,) = there.tasks
    assert row.too_long == 1 and row.fewest_shots is not None and row.fewest_shots < 3


def test_a_context_that_grows_together_with_its_continuation_is_scored_as_both_alone(
    server: LiveServer, loaded: LoadedEngine
) -> None:
    """`翰林` is one token, and `翰` scored before `林院` is two."""
    tokenizer = loaded.tokenizer
    pairs = (("翰", "林院在"), ("三加", "四等于七"), ("li", "brary"), ("the libr", "ary stands"))
    encoded = [(tokenizer.encode(first), tokenizer.encode(first + second)) for first, second in pairs]
    joined = [pair for pair, (start, whole) in zip(pairs, encoded, strict=True) if whole[: len(start)] != start]
    client = ChatServer(server.address)
    texts = TextServer(client)
    for context, continuation in joined:
        begin = [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
        prefix = [*begin, *tokenizer.encode(context)]
        whole = [*begin, *tokenizer.encode(context + continuation)]
        if len(whole) > len(prefix):
            (expected,) = loaded.engine.score([(prefix, whole[len(prefix) :])])
            assert texts.score(context, continuation).logprob == pytest.approx(expected.logprob, abs=2e-4)
    client.close()
    assert joined


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        (("cmmlu",), r"scores no given text.*no log probabilities.*ask by chat: `--chat true`"),
        (("lambada",), r"scores no given text.*no log probabilities.*vLLM"),
    ],
    ids=["with a chat form", "without"],
)
def test_a_server_that_scores_no_text_says_so_before_anything_is_asked(
    tasks: tuple[str, ...], told: str, loaded: LoadedEngine, data: Path, tmp_path: Path
) -> None:
    with completion_server(loaded, can_score=False) as server, pytest.raises(UserError, match=told):
        ask(data, tmp_path / "out", address=server.url, tasks=tasks, shots=0)
    assert server.answered <= 3


def test_a_server_that_tells_no_ids_scores_all_but_the_token_of_a_letter_alone(
    loaded: LoadedEngine, taught_model: Path, data: Path, tmp_path: Path
) -> None:
    with completion_server(loaded) as server:
        here = ask(data, tmp_path / "folder", taught_model, tasks=("cmmlu",), shots=1)
        assert_equal(here, ask(data, tmp_path / "address", address=server.url, tasks=("cmmlu",), shots=1))
        with pytest.raises(UserError, match="the server tells no token ids"):
            profiles = ("chinese_llama_alpaca_3",)
            ask(data, tmp_path / "letters", address=server.url, tasks=("cmmlu",), shots=1, profiles=profiles)


def test_a_server_of_chats_alone_says_so_for_written_answers_too(data: Path, tmp_path: Path) -> None:
    with chat_server(lambda body: ("城东", "stop")) as server:
        with pytest.raises(UserError, match=r"continues no given text.*ask by chat: `--chat true`"):
            ask(data, tmp_path / "out", address=server.url, tasks=("nq_open",), shots=0)
        row = ask(data, tmp_path / "chat", address=server.url, tasks=("nq_open",), shots=0, chat=True).tasks[0]
    assert (row.form, row.questions) == ("chat", 1)
