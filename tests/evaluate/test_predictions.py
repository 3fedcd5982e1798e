"""A file of questions becomes a file of answers: every prompt once, in order, resumed to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.records import Message
from hanlin.evaluate import predictions
from hanlin.evaluate.predictions import PredictSettings, Prompt, predict, read_prompts
from hanlin.inference.loading import LoadedEngine, load_engine
from hanlin.inference.protocol import Completion, GenerationRequest
from hanlin.tokenizer.tokenizer import Tokenizer
from taught_model import LESSONS
from waiting import wait_until

QUIET = Progress(quiet=True)
ASKING = PredictSettings(max_new_tokens=40)


def write_json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture()
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "questions.txt"
    file.write_text("\n".join(asked for asked, _ in LESSONS) + "\n\n", encoding="utf-8")
    return file


def test_each_line_of_a_text_is_answered_as_the_chat_template_asks(
    taught_model: Path, lines: Path, tmp_path: Path
) -> None:
    counts = predict(taught_model, lines, tmp_path / "predictions.json", ASKING, QUIET)
    rows = json.loads((tmp_path / "predictions.json").read_text(encoding="utf-8"))
    assert [(row["Input"], row["Output"]) for row in rows] == list(LESSONS)
    assert counts == {"prompts": 5, "stopped": 5, "tokens": sum(row["tokens"] for row in rows)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["predictions.json", "questions.txt"]


def test_an_answer_has_the_id_of_its_row_and_without_one_its_place(taught_model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "q-7"},
        {"question_id": 12},
        {},
        {"id": True},
        {"id": "", "uid": "u"},
        {"id": 0},
    ]
    data = write_json(tmp_path / "data.json", [{**row, "question": LESSONS[0][0]} for row in rows])
    predict(taught_model, data, tmp_path / "out.json", ASKING, QUIET)
    answers = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in answers] == ["q-7", 12, 3, 4, "u", 0]


def test_gguf_files_answer_the_same(taught_gguf: Path, lines: Path, tmp_path: Path) -> None:
    predict(f"{taught_gguf}:F32", lines, tmp_path / "out.jsonl", ASKING, QUIET)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["Output"] for row in rows] == [answer for _, answer in LESSONS]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "问"}]},
        {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "known"}]},
        {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "known"}]},
        {"instruction": "问"},
        {"instruction": "问", "input": "", "output": ""},
        {"instruction": "问", "output": "known"},
        {"prompt": "问"},
        {"question": "问", "answer": "known"},
    ],
    ids=",".join,
)
def test_records_ask_their_last_question_with_or_without_an_answer(row: dict, tmp_path: Path) -> None:
    (prompt,) = read_prompts(write_json(tmp_path / "data.json", [row]), system="系统")
    assert [(turn.role, turn.text) for turn in prompt.messages] == [("system", "系统"), ("user", "问")]


def test_earlier_turns_and_a_system_text_of_its_own_stay(tmp_path: Path) -> None:
    turns = [("system", "自己的"), ("user", "一"), ("assistant", "二"), ("user", "三"), ("assistant", "四")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (prompt,) = read_prompts(write_json(tmp_path / "data.json", [row]), system="别的")
    assert [(turn.role, turn.text) for turn in prompt.messages] == turns[:-1]


@pytest.mark.parametrize("answer", [{}, {"output": ""}, {"output": "四"}])
def test_the_turns_before_a_question_stay_with_or_without_an_answer(answer: dict, tmp_path: Path) -> None:
    row = {"system": "自己的", "instruction": "三", "history": [["一", "二"]], **answer}
    (prompt,) = read_prompts(write_json(tmp_path / "data.json", [row]))
    turns = [("system", "自己的"), ("user", "一"), ("assistant", "二"), ("user", "三")]
    assert [(turn.role, turn.text) for turn in prompt.messages] == turns


def test_the_tools_of_a_record_without_an_answer_stay(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "hours", "parameters": {"type": "object", "properties": {}}}}]
    rows = [{"instruction": "几点？", "tools": tools, **answer} for answer in ({}, {"output": "九点"})]
    bare, answered = read_prompts(write_json(tmp_path / "data.json", rows))
    assert len(bare.tools) == 1 and bare.tools == answered.tools


def test_a_record_without_a_question_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"instruction": "问"}\n{"instruction": "  "}\n', encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_prompts(file)
    assert raised.value.where == f"{file}:2"


def test_raw_text_is_gone_on_from_without_a_template(taught_model: Path, lines: Path, tmp_path: Path) -> None:
    predict(taught_model, lines, tmp_path / "raw.json", PredictSettings(raw=True, max_new_tokens=8), QUIET)
    rows = json.loads((tmp_path / "raw.json").read_text(encoding="utf-8"))
    assert [row["Output"] for row in rows] != [answer for _, answer in LESSONS]


@pytest.mark.parametrize(
    ("row", "settings", "told"),
    [
        ({"prompt": "问"}, PredictSettings(raw=True, system="系统"), "no place beside"),
        ({"system": "系统", "prompt": "问"}, PredictSettings(raw=True), "2 turns"),
        ({"instruction": "三", "history": [["一", "二"]]}, PredictSettings(raw=True), "3 turns"),
    ],
)
def test_what_raw_text_has_no_place_for_is_refused_and_not_left_out(
    row: dict, settings: PredictSettings, told: str, tmp_path: Path
) -> None:
    data = write_json(tmp_path / "data.json", [row])
    with pytest.raises(UserError, match=told):
        predict(tmp_path / "no model", data, tmp_path / "out.json", settings, QUIET)


def test_the_end_of_raw_text_that_is_too_long_is_cut(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    text = "长长的文字" * 60
    prompt = Prompt(1, text, (Message("user", text),))
    settings = PredictSettings(raw=True, cut=True, max_new_tokens=8)
    ids, cut = predictions._encode_prompt(prompt, tokenizer, None, settings, 64)
    assert 50 < len(ids) <= 56 and tokenizer.decode(ids) == text[:-cut]


def test_a_prompt_that_is_too_long_is_refused_by_its_line_or_cut(taught_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text("你叫什么名字？\n" + "长" * 300 + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="tokens long") as raised:
        predict(taught_model, file, tmp_path / "out.json", ASKING, QUIET)
    assert raised.value.where == "line 2"
    predict(taught_model, file, tmp_path / "out.json", PredictSettings(max_new_tokens=40, cut=True), QUIET)
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "cut" not in rows[0] and rows[1]["cut"] > 0


def test_random_choices_depend_on_the_seed_and_the_place_alone(tiny_model: Path, lines: Path, tmp_path: Path) -> None:
    outs = []
    for number, batch in enumerate((None, 2)):
        prediction = PredictSettings(
            max_new_tokens=8, sampling={"temperature": 1.0}, options={} if batch is None else {"batch": batch}
        )
        predict(tiny_model, lines, tmp_path / f"{number}.json", prediction, QUIET)
        outs.append((tmp_path / f"{number}.json").read_bytes())
    assert outs[0] == outs[1]


def test_a_broken_off_try_goes_on_to_the_same_bytes_and_asks_nothing_twice(
    taught_model: Path, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "_CHUNK_SIZE", 2)
    predict(taught_model, lines, tmp_path / "whole.json", ASKING, QUIET)
    asked: list[int] = []

    def breaking(*arguments: Any, **options: Any) -> LoadedEngine:
        opened = load_engine(*arguments, **options)
        generate = opened.engine.generate

        def counting_generate(
            requests: Sequence[GenerationRequest], progress: Progress | None = None
        ) -> list[Completion]:
            asked.append(len(requests))
            if len(asked) == 2:
                raise KeyboardInterrupt
            return generate(requests, progress)

        monkeypatch.setattr(opened.engine, "generate", counting_generate)
        return opened

    monkeypatch.setattr(predictions, "load_engine", breaking)
    with pytest.raises(KeyboardInterrupt):
        predict(taught_model, lines, tmp_path / "broken.json", ASKING, QUIET)
    assert not (tmp_path / "broken.json").exists()
    with pytest.raises(UserError, match="another model, data or settings"):
        predict(taught_model, lines, tmp_path / "broken.json", PredictSettings(max_new_tokens=39), QUIET)
    predict(taught_model, lines, tmp_path / "broken.json", ASKING, QUIET)
    assert asked == [2, 2, 2, 1]
    assert (tmp_path / "broken.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.slow
def test_a_killed_command_goes_on_to_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "many.txt"
    file.write_text("".join(f"第{number}个问题\n" for number in range(400)), encoding="utf-8")
    command = [sys.executable, "-m", "hanlin", "generate", str(tiny_model), "--data", str(file)]
    command += ["--max-new-tokens", "64"]
    subprocess.run([*command, "--out", str(tmp_path / "whole.json")], check=True, capture_output=True)
    partial = tmp_path / "killed.json.partial"
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed.json")], stderr=subprocess.DEVNULL)
    wait_until(lambda: list(partial.glob("rows-*.jsonl")))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed.json").exists() and list(partial.glob("rows-*.jsonl"))
    subprocess.run([*command, "--out", str(tmp_path / "killed.json")], check=True, capture_output=True)
    assert (tmp_path / "killed.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.parametrize("name", ["answers.txt", "none/answers.json", "there.json"])
def test_a_file_that_cannot_be_written_is_told_before_the_model_is_loaded(
    name: str, lines: Path, tmp_path: Path
) -> None:
    (tmp_path / "there.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError):
        predict(tmp_path / "no model", lines, tmp_path / name, ASKING, QUIET)
    assert not list(tmp_path.glob("*.partial"))
