"""`import hanlin`: the names that it gives, what it loads, and what its thin functions do."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hanlin
from hanlin.api import _message_of
from hanlin.core.records import ToolCall

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hanlin" / "__init__.py"


def test_importing_hanlin_loads_nothing_but_its_version() -> None:
    code = "import sys; before = set(sys.modules); import hanlin; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.partition(".")[0] == "hanlin"]
    assert ours == ["hanlin", "hanlin.core", "hanlin.core.version"]
    assert not {"pydantic", "yaml", "numpy", "torch", "typer"} & set(done.stdout.split())


def test_planning_from_python_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys, hanlin; hanlin.plan(hanlin.Recipe.load(sys.argv[1]), sys.argv[2]); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    recipe = str(ROOT / "recipes" / "quickstart.yaml")
    subprocess.run([sys.executable, "-c", code, recipe, str(tmp_path)], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", hanlin.__all__)
def test_each_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(hanlin, name)
    assert name == "__version__" or inspect.getdoc(value)
    if inspect.isfunction(value):
        assert "Raises:" in (inspect.getdoc(value) or "")


def test_the_names_are_written_out_for_type_checkers() -> None:
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(hanlin.__all__) <= imported
    assert sorted(hanlin.__all__) == list(hanlin.__all__) and set(dir(hanlin)) >= set(hanlin.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recipes'"):
        hanlin.Recipes  # noqa: B018


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    file = tmp_path / "chats.json"
    rows = [{"instruction": f"第{n}问", "input": "", "output": "好。"} for n in range(3)]
    file.write_text(json.dumps([*rows, {"instruction": "", "output": ""}], ensure_ascii=False), encoding="utf-8")
    return file


def test_a_plan_prints_as_a_table_and_a_run_returns_folders_and_metrics(tmp_path: Path, chats: Path) -> None:
    stage = {"kind": "conversations", "sources": [str(chats)], "validation_fraction": 0}
    recipe = hanlin.Recipe.from_dict({"name": "small", "stages": {"chats": stage}})
    plan = hanlin.plan(recipe, tmp_path)
    assert [step.state for step in plan] == ["run"]
    assert str(plan).splitlines()[0].split() == ["stage", "kind", "state", "key", "why"]
    events: list[str] = []
    result = hanlin.run(recipe, tmp_path, on_event=lambda event, step: events.append(f"{step.stage.name} {event}"))
    assert events == ["chats start", "chats made"]
    assert result.metrics["chats"]["rows_kept"] == 3 and result.reached and result.report.is_file()
    assert len(list(hanlin.read_records(result.artifacts["chats"]))) == 3
    assert hanlin.plan(recipe, str(tmp_path))[0].state == "done"


def test_a_recipe_takes_changes_and_refuses_what_is_wrong() -> None:
    path = ROOT / "recipes" / "quickstart.yaml"
    assert hanlin.Recipe.load(str(path), ["seed=7"]).seed == 7
    with pytest.raises(hanlin.UserError, match="no such file"):
        hanlin.Recipe.load("none.yaml")
    with pytest.raises(hanlin.UserError, match="not a recipe"):
        hanlin.Recipe.from_dict({"stages": []})


def test_records_are_read_and_bad_rows_raise_or_are_skipped(chats: Path) -> None:
    records = list(hanlin.read_records(chats, on_error="skip"))
    assert len(records) == 3 and isinstance(records[0], hanlin.Conversation)
    with pytest.raises(hanlin.UserError):
        list(hanlin.read_records(str(chats)))


def test_records_are_converted(chats: Path, tmp_path: Path) -> None:
    (stats,) = hanlin.convert(str(chats), "sharegpt", tmp_path / "out.jsonl")
    assert (stats.rows_in, stats.kept) == (4, 3)


def test_template_and_tokenizer_load_from_a_path_as_text(tiny_tokenizer: Path) -> None:
    tokenizer = hanlin.Tokenizer.load(str(tiny_tokenizer))
    template = hanlin.ChatTemplate.load(str(tiny_tokenizer))
    assert template.tokenizer.encode("春天") == tokenizer.encode("春天")
    assert hanlin.Store(str(tiny_tokenizer)).home == tiny_tokenizer


def test_an_engine_answers_streams_and_completes(tiny_model: Path) -> None:
    messages = [{"role": "user", "content": "你是谁？"}]
    with hanlin.load_engine(str(tiny_model)) as engine:
        answer = engine.chat(messages, max_new_tokens=8)
        assert "".join(engine.stream([hanlin.Message("user", "你是谁？")], max_new_tokens=8)) == answer
        assert isinstance(engine.complete("春天", max_new_tokens=4), str)
        assert engine.context_length > 0
        with pytest.raises(hanlin.UserError, match="temprature"):
            engine.chat(messages, temprature=1.0)
        with pytest.raises(hanlin.UserError, match="not a message"):
            engine.chat([{"role": "robot", "content": "x"}])


def test_a_message_as_openai_has_it_keeps_its_calls_ids_and_reasoning() -> None:
    call = {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    assert _message_of({"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "先查。"}) == (
        hanlin.Message("assistant", "", (ToolCall("weather", {"city": "北京"}, "a1"),), reasoning="先查。")
    )
    assert _message_of({"role": "tool", "content": "晴", "tool_call_id": "a1"}) == (
        hanlin.Message("tool", "晴", tool_call_id="a1")
    )
    assert _message_of({"role": "assistant", "content": "<think>\n想\n</think>\n\n晴。"}).reasoning == "想"
    malformed: tuple[object, ...] = (7, [7], [{"function": {}}], "weather")
    for calls in malformed:
        with pytest.raises(hanlin.UserError, match="not a message"):
            _message_of({"role": "assistant", "content": None, "tool_calls": calls})
    with pytest.raises(hanlin.UserError, match="not a message"):
        _message_of({"role": "assistant", "content": None, "tool_calls": []})


def test_a_path_is_taken_where_a_recipe_has_a_text(tmp_path: Path, chats: Path) -> None:
    for source in (chats, Path(chats.name)):
        stage = {"kind": "conversations", "sources": [source], "validation_fraction": 0}
        recipe = hanlin.Recipe.from_dict({"root": chats.parent, "stages": {"chats": stage}})
        assert [step.state for step in hanlin.plan(recipe, tmp_path)] == ["run"]


def test_what_is_no_recipe_and_no_record_file_is_refused(tmp_path: Path, chats: Path) -> None:
    data: Any
    for data in (None, [1], "x", {}):
        with pytest.raises(hanlin.UserError, match="not a recipe"):
            hanlin.Recipe.from_dict(data)
    with pytest.raises(hanlin.UserError, match="not a recipe"):
        hanlin.plan({"stages": {}}, tmp_path)  # type: ignore[arg-type]
    assert hanlin.Recipe.load(ROOT / "recipes" / "quickstart.yaml", "seed=7").seed == 7
    with pytest.raises(hanlin.UserError, match="'raise' or 'skip'"):
        list(hanlin.read_records(chats, on_error="ignore"))  # type: ignore[arg-type]
    with pytest.raises(hanlin.UserError, match="no such file"):
        list(hanlin.read_records("x" * 300))
    with pytest.raises(hanlin.UserError, match="no files"):
        hanlin.convert([], "sharegpt", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_an_engine_refuses_what_it_cannot_answer(tiny_model: Path) -> None:
    user = {"role": "user", "content": "你好"}
    with hanlin.load_engine(tiny_model) as engine:
        for messages in (None, "你好", user, ["你好"], [None]):
            with pytest.raises(hanlin.UserError, match=r"not a (list of )?message"):
                engine.chat(messages, max_new_tokens=2)  # type: ignore[arg-type]
        for name, value in {"max_new_tokens": 2.5, "top_k": "5", "temperature": "1", "top_p": None, "seed": -1}.items():
            with pytest.raises(hanlin.UserError, match=f"{name} must be"):
                engine.chat([user], **{name: value})
        with pytest.raises(hanlin.UserError, match="a prompt is a text"):
            engine.complete(None)  # type: ignore[arg-type]
    engine.close()
    for call in (engine.chat, lambda turns: list(engine.stream(turns)), lambda turns: engine.complete("x")):
        with pytest.raises(hanlin.UserError, match="the engine is closed"):
            call([user])
    with pytest.raises(hanlin.UserError, match="has no option 'dtyp'"):
        hanlin.load_engine(tiny_model, dtyp="float32")
    with pytest.raises(hanlin.UserError, match="no device 'gpu9'"):
        hanlin.load_engine(tiny_model, device="gpu9")
