"""Tasks as conversations: thinking on or off, answers extracted, what could not be extracted shown, and addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.results import Results, TaskResult, read_results
from hanlin.evaluate.tasks import respond, stage
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.items import Item
from hanlin.evaluate.tasks.metrics import answer_part, extract_letter, find_end, last_number
from hanlin.evaluate.tasks.prompts import Prompt, TaskRun
from hanlin.evaluate.tasks.respond import EngineRespondent
from hanlin.inference.protocol import FinishReason, GenerationRequest, Score
from hanlin.tokenizer.file_names import TEMPLATE_FILE
from scripted_answers import ScriptedEngine, scripted
from scripted_chat_server import chat_server

CHOICES = ("red", "green", "blue", "pink")
SWITCH = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' -}}
{%- if message.role == 'assistant' -%}{%- generation -%}{{- message.content + '<|eot_id|>' -}}{%- endgeneration -%}
{%- else -%}{{- message.content + '<|eot_id|>' -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- else -%}{{- '<think>\\n' -}}{%- endif -%}
{%- endif -%}
"""
"""A template that opens a block of reasoning unless thinking is turned off."""

ANSWERS: list[tuple[str, str | None]] = [
    ("B", "B"),
    ("(C) blue", "C"),
    ("答案：**C**。因为天空是蓝的。", "C"),
    ("It cannot be A or C, so the answer is D.", "D"),
    ("I would say green.", "B"),
    ("<think>\nA? No: B.\n</think>\n\nD", "D"),
    ("<think>\nSurely the answer is A, but", None),
    ("The sky reflects A, so </think> The answer is C.", "C"),
    ("", None),
    ("I am sorry, I do not know.", None),
    ("Either A or B.", None),
    ("E", None),
]
"""What a model writes, and the letter that is in it."""


def write_exam(folder: Path, count: int) -> Path:
    """An exam in MMLU's layout whose right answer is always C."""
    for split, rows, asked in (("dev", 1, "Example"), ("test", count, "Question")):
        (folder / "mmlu" / split).mkdir(parents=True)
        lines = [f"{asked} {row}?,{','.join(CHOICES)},C\n" for row in range(rows)]
        (folder / "mmlu" / split / f"sky_{split}.csv").write_text("".join(lines), encoding="utf-8")
    return folder


def number_of(text: str) -> int:
    """The number of the question that a prompt asks last."""
    return int(text.rpartition("Question ")[2].partition("?")[0])


@pytest.fixture
def run(tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Asks the exam of a scripted engine through the stage."""
    data = write_exam(tmp_path / "data", len(ANSWERS))

    def ask(script: Any, template: str | None = None, **settings: Any) -> tuple[Results, ScriptedEngine]:
        folder = tiny_tokenizer
        if template is not None:
            folder = tmp_path / "model"
            folder.mkdir(exist_ok=True)
            for file in tiny_tokenizer.iterdir():
                if file.name != TEMPLATE_FILE:
                    (folder / file.name).write_bytes(file.read_bytes())
            if template:
                (folder / TEMPLATE_FILE).write_text(template, encoding="utf-8")
        loaded = scripted(folder, script)
        monkeypatch.setattr(stage, "load_engine", lambda *args, **options: loaded)
        chosen = Evaluate(**{"model": "m", "tasks": ("mmlu",), "data": "d", "chat": True, "method": "generate",
                             "shots": 0, **settings})  # fmt: skip
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        stage.run(chosen, Inputs({"model": (folder,), "data": (data,)}), out, StageContext())
        return read_results(out), loaded.engine  # type: ignore[return-value]

    return ask


def test_answers_are_extracted_in_every_form_and_the_share_that_could_not_be_is_shown(run: Any) -> None:
    results, _ = run(lambda text, request: (ANSWERS[number_of(text)][0], "stop"))
    row = results.tasks[0]
    samples = results.read_samples(row)
    assert [sample["answer"] for sample in samples] == [letter for _, letter in ANSWERS]
    assert [sample["output"] for sample in samples] == [text for text, _ in ANSWERS]
    missing = sum(letter is None for _, letter in ANSWERS)
    assert (row.not_extracted, row.not_extracted_share) == (missing, missing / len(ANSWERS))
    assert row.score is not None and row.score.value == sum(letter == "C" for _, letter in ANSWERS) / len(ANSWERS)
    assert (row.form, row.method, row.thinking) == ("chat", "generate", None)
    figures = stage.describe(results)["tasks"]["mmlu@lm_eval"]
    assert figures["not_extracted_share"] == row.not_extracted_share


@pytest.mark.parametrize("thinking", [None, True, False])
def test_a_thought_that_the_template_opens_is_no_answer(run: Any, thinking: bool | None) -> None:
    def script(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
        if text.rstrip().endswith("<think>"):
            return ("Is it A?\nThe answer is A.", "length") if number_of(text) else ("A or B?</think>\n\nC", "stop")
        return "C", "stop"

    results, engine = run(script, SWITCH, thinking=thinking)
    row = results.tasks[0]
    samples = results.read_samples(row)
    assert [sample["answer"] for sample in samples[:2]] == ["C", None if thinking is not False else "C"]
    assert row.thinking is thinking and row.not_extracted == (0 if thinking is False else len(ANSWERS) - 1)
    limit = engine.requests[0].sampling.max_new_tokens
    assert limit == (4096 if thinking else 64)


def test_what_ends_an_answer_does_not_end_a_thought() -> None:
    assert find_end("<think>\nParis.\nNo.", ("\n", ".")) is None
    assert "<think>\nParis.\n</think>Rome. It"[: find_end("<think>\nParis.\n</think>Rome. It", ("\n", "."))] == (
        "<think>\nParis.\n</think>Rome"
    )
    assert find_end("Rome.", ("\n", ".")) == 4 and find_end("Rome", ("\n",)) is None


def test_only_what_is_outside_of_reasoning_is_an_answer() -> None:
    assert answer_part("A <think>B</think> C <think>D") == "A  C "
    assert answer_part("B</think>C") == "C" and answer_part("C") == "C"
    assert extract_letter("The answer is B. <think>Or is the answer C?</think>", CHOICES) == "B"


@pytest.mark.parametrize(
    ("template", "settings", "told"),
    [
        (None, {"thinking": True}, "no switch for thinking"),
        (SWITCH, {"method": "auto"}, "does not begin its answer with a letter"),
        (SWITCH, {"method": "auto", "thinking": True}, "does not begin its answer with a letter"),
        ("", {}, "chat template"),
        (None, {"chat": False}, "likeliest continuation"),
    ],
    ids=["switch", "opens", "thinks", "template", "plain"],
)
def test_a_form_that_a_model_does_not_have_is_one_sentence(
    run: Any, template: str | None, settings: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        run(lambda text, request: ("C", "stop"), template, **settings)


def ask_address(address: str, folder: Path, tasks: tuple[str, ...] = ("mmlu",), **settings: Any) -> TaskResult:
    """Ask tasks at an address through the stage; a folder that is there already is gone on with."""
    chosen = Evaluate(address=address, tasks=tasks, data="d", **{"shots": 1, **settings})
    (folder / "out").mkdir(exist_ok=True)
    stage.run(chosen, Inputs({"data": (folder / "data",)}), folder / "out", StageContext())
    return read_results(folder / "out").tasks[0]


def test_an_address_is_asked_by_chat_if_told_so_and_its_reasoning_is_kept_apart(tmp_path: Path) -> None:
    write_exam(tmp_path / "data", len(ANSWERS))
    script = lambda body: (ANSWERS[number_of(body["messages"][-1]["content"])][0], "stop")  # noqa: E731
    with chat_server(script) as server:
        row = ask_address(server.url, tmp_path, chat=True, thinking=False)
    samples = read_results(tmp_path / "out").read_samples(row)
    assert [sample["answer"] for sample in samples] == [letter for _, letter in ANSWERS]
    assert {sample["tokens"] for sample in samples} == {7}
    body = server.requests[0]
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == "C" and body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["temperature"], body["max_tokens"], body.get("stop")) == (0, 64, None)
    results = read_results(tmp_path / "out")
    assert (results.model["kind"], results.model["name"]) == ("address", "scripted")


def test_an_address_that_dies_half_way_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(respond, "_SECONDS_BETWEEN_TRIES", (0.0, 0.0))
    write_exam(tmp_path / "data", 24)
    alive = True

    def script(body: dict[str, Any]) -> tuple[str, str]:
        if not alive or number_of(body["messages"][-1]["content"]) >= 16:
            raise ConnectionError
        return "C", "stop"

    with chat_server(script) as server, pytest.raises(UserError, match="goes on from here"):
        ask_address(server.url, tmp_path, chat=True)
    with chat_server(lambda body: ("C", "stop")) as second:
        monkeypatch.setattr(stage, "_describe_model", lambda *args: {"engine": "scripted"})
        row = ask_address(second.url, tmp_path, chat=True)
    asked = {number_of(body["messages"][-1]["content"]) for body in second.requests}
    assert row.score is not None and row.score.value == 1 and row.questions == 24
    assert len(second.requests) == len(asked) <= 8  # what had been answered is not asked again


@pytest.mark.parametrize(
    ("tasks", "settings", "told"),
    [
        (("lambada",), {}, "scores no given text"),
        (("lambada",), {"chat": True}, "has no form as a conversation"),
        (("mmlu",), {}, r"scores no given text.*--chat true"),
        (("mmlu",), {"thinking": True}, "`thinking` is a switch of the chat template"),
        (("mmlu",), {"served_model": "scriptet"}, "no model 'scriptet'.*did you mean scripted"),
    ],
    ids=["continuation", "continuation as chat", "plain", "thinking", "model"],
)
def test_what_an_address_cannot_do_is_one_sentence(
    tasks: tuple[str, ...], settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    write_exam(tmp_path / "data", 2)
    (tmp_path / "data" / "lambada_test_openai.jsonl").write_text('{"text": "one two three"}\n', encoding="utf-8")
    with chat_server(lambda body: ("C", "stop")) as server, pytest.raises(UserError, match=told):
        ask_address(server.url, tmp_path, tasks, shots=0, **settings)


def test_an_address_that_refuses_a_request_is_told_in_its_own_words(tmp_path: Path) -> None:
    write_exam(tmp_path / "data", 2)
    with pytest.raises(UserError, match="cannot be reached"):
        ask_address("http://127.0.0.1:9", tmp_path)


@pytest.mark.parametrize(
    ("output", "choices", "letter"),
    [
        ("A cat.", ("A dog", "A cat"), "B"),
        ("Vitamin C", ("Vitamin A", "Vitamin C", "Iron", "Zinc"), "B"),
        ("A", ("B", "A"), "A"),
        ("B. A dog", ("A cat", "A dog"), "B"),
    ],
)
def test_an_answer_that_is_the_text_of_a_choice_is_that_choice(
    output: str, choices: tuple[str, ...], letter: str
) -> None:
    assert extract_letter(output, choices) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("分别是3，5", 5),
        ("共12,345,678元", 12345678),
        ("3,5", 5),
        ("约2-3天", 3),
        ("x = -3", -3),
        ("1,048.5", 1048.5),
        ("答案：３／４", 0.75),
        ("25%", 0.25),
        ("占 50 %。", 0.5),
    ],
)
def test_the_last_number_of_a_text(text: str, number: float) -> None:
    assert last_number(text) == pytest.approx(number)


def test_scores_that_are_no_numbers_are_one_sentence(tiny_tokenizer: Path) -> None:
    """Compared with one another they would choose the first choice of every question."""

    class Broken(ScriptedEngine):
        def score(self, pairs: Any, on_score: Any) -> None:
            on_score(0, Score(float("nan"), False))

    loaded = scripted(tiny_tokenizer, lambda text, request: ("", "stop"))
    broken = replace(loaded, engine=Broken(loaded.tokenizer, lambda text, request: ("", "stop")))  # type: ignore[arg-type]
    item = Item("q1", "", {}, ("a", "b"), (0,))
    prompt = Prompt(item, "?", pairs=(((1,), (2,)), ((1,), (3,))), shots=0)
    task = packaged_tasks()["mmlu"]
    task_run = TaskRun("mmlu", task, "paper", task.profiles["paper"], "choices", False, None, 0, 64)
    with pytest.raises(UserError, match="not finite") as error:
        EngineRespondent(broken, ()).answer(task_run, [prompt], lambda index, outcome: None)
    assert error.value.where == "q1"


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("A. 上海\nB. 北京\nC. 广州\nD. 深圳", None),
        ("A. 上海\nB. 北京\nC. 广州\nD", None),  # cut at the longest answer
        ("（A）上海\n（B）北京\n\n（A）上海\n（B）北", None),
        ("A. 上海\nB. 北京\nC. 广州\nD. 深圳\n\nB. 北京", "B"),
        ("A. 上海\nB. 北京\nC. 广州\nD. 深圳\n答案：C", "C"),
        ("A. 上海", "A"),
        ("B. 北京\nC. 广州没有天安门", "B"),
        ("A. 上海，因为它大\nB. 北京不大", "A"),
    ],
)
def test_who_repeats_the_list_of_choices_has_chosen_none(output: str, letter: str | None) -> None:
    assert extract_letter(output, ("上海", "北京", "广州", "深圳")) == letter
