"""`hanlin recipe new`: three answers make a recipe that plans, fits the machine and says what it does."""

from __future__ import annotations

import io
import json
import sys
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

from hanlin.catalog.answers import NEEDS, WANTS, Answers, FromHub, Have, TargetMachine
from hanlin.catalog.entries import models
from hanlin.catalog.starter import USABLE_MEMORY, make_recipe
from hanlin.cli.commands.start.recipe import read_have, read_hub, read_machine, read_want
from hanlin.cli.main import app
from hanlin.config.recipe_file import read_recipe
from hanlin.core.errors import UserError
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan

ROOT = Path(__file__).resolve().parents[2]
MACHINES = (TargetMachine(False, 16e9), TargetMachine(True, 8e9), TargetMachine(True, 24e9), TargetMachine(True, 80e9))
ROWS = {
    "chats": '{"instruction": "你好", "input": "", "output": "你好！"}',
    "text": '{"text": "春天来了，花园里的花都开了。"}',
    "preferences": '{"prompt": "你好", "chosen": "你好！", "rejected": "Hello!"}',
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[Have, str]:
    monkeypatch.chdir(tmp_path)
    for name, row in ROWS.items():
        (tmp_path / f"{name}.jsonl").write_text(row + "\n", encoding="utf-8")
    return {have: f"./{have}.jsonl" for have in get_args(Have)}


def test_every_model_whose_entry_names_the_command_gets_a_recipe_that_plans(data: dict[Have, str]) -> None:
    chosen = [model for model in models() if model.first_recipe is not None]
    assert len(chosen) > 50
    for model in chosen:
        assert model.first_recipe == f"hanlin recipe new --model {model.id}"
        have: dict[Have, str] = {"chats": data["chats"]}
        starter = make_recipe(Answers(have, "chat", TargetMachine(True, 640e9), model.id))
        assert starter.base is not None and starter.base.entry == model and starter.peaks


def call(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    get_command(app)(list(words), standalone_mode=False)
    return capsys.readouterr().out


def test_who_has_no_checkout_gets_the_recipes_that_come_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = [row["name"] for row in json.loads(call(capsys, "recipe", "ls", "--json"))]
    assert listed[0] == "quickstart" and len(listed) == len(list((ROOT / "recipes").glob("*.yaml")))
    assert "quickstart" in call(capsys, "recipe", "ls")
    shown = json.loads(call(capsys, "recipe", "copy", "recipes/quickstart.yaml", "--json"))
    assert shown == {"recipe": "quickstart.yaml", "next": ["hanlin plan quickstart.yaml"]}
    assert read_recipe(tmp_path / "quickstart.yaml").stages
    with pytest.raises(UserError, match="is not overwritten"):
        call(capsys, "recipe", "copy", "quickstart")
    with pytest.raises(UserError, match="did you mean quickstart"):
        call(capsys, "recipe", "copy", "quikstart", "--out", "x.yaml")


@pytest.mark.parametrize(("language", "machines"), [("en", MACHINES), ("zh", MACHINES[2:3])])
def test_every_aim_on_every_machine_gets_a_recipe_that_plans_and_fits(
    data: dict[Have, str],
    tmp_path: Path,
    language: str,
    machines: tuple[TargetMachine, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HANLIN_LANG", language)
    for number, (want, machine) in enumerate(product(WANTS, machines)):
        needed = NEEDS[want]
        given: list[dict[Have, str]] = [{}] if needed is None else [{needed: data[needed]}, data]
        for have in given:
            starter = make_recipe(Answers(have, want, machine, name=f"r{number}"))
            path = tmp_path / f"r{number}.yaml"
            path.write_text(starter.text, encoding="utf-8")
            steps = plan(read_recipe(path), Store(tmp_path))
            assert steps[-1].stage.kind.name == "gguf"
            assert all(peak <= machine.memory * USABLE_MEMORY for peak in starter.peaks.values())
            assert starter.text.count("#") > 5


def test_all_data_that_are_given_are_used(data: dict[Have, str]) -> None:
    recipe = make_recipe(Answers(data, "chat", MACHINES[3])).recipe
    kinds = [stage.kind.name for stage in recipe.stages.values()]
    assert {"pretrain", "sft", "dpo", "perplexity", "gguf"} <= set(kinds)


def test_a_larger_machine_gets_a_larger_model_or_more_bits(data: dict[Have, str]) -> None:
    chats: dict[Have, str] = {"chats": data["chats"]}
    made = [make_recipe(Answers(chats, "chat", TargetMachine(True, size))) for size in (4e9, 8e9, 16e9, 40e9)]
    names = [(starter.base.entry.id, starter.method) for starter in made if starter.base and starter.base.entry]
    assert names == [
        ("smollm2-135m-instruct", "lora"),
        ("llama-3.2-3b-instruct", "qlora"),
        ("llama-3.1-8b-instruct", "qlora"),
        ("llama-3.1-8b-instruct", "lora"),
    ]


def test_what_would_not_be_used_is_refused(data: dict[Have, str]) -> None:
    for have, model in ((data, None), ({}, "llama-3.1-8b")):
        with pytest.raises(UserError, match="would not be used"):
            make_recipe(Answers(have, "try", MACHINES[0], model))


def test_rows_that_no_stage_reads_are_refused(data: dict[Have, str], tmp_path: Path) -> None:
    (tmp_path / "odd.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "kto.jsonl").write_text(
        '{"instruction": "你好", "output": "你好！", "label": true}\n', encoding="utf-8"
    )
    for name in ("odd.jsonl", "empty.jsonl", "kto.jsonl"):
        with pytest.raises(UserError):
            read_have([name])


def test_a_small_vocabulary_grows_if_there_is_text(data: dict[Have, str]) -> None:
    recipe = make_recipe(Answers(data, "knowledge", MACHINES[0])).recipe
    assert recipe.stages["grown"].kind.name == "extend_vocabulary"


def test_special_tokens_of_a_base_are_trained(data: dict[Have, str]) -> None:
    assert "trainable_tokens: untrained" in make_recipe(Answers(data, "chat", MACHINES[3])).text


def test_a_model_of_ones_own_is_taken(data: dict[Have, str], tiny_model: Path) -> None:
    chats: dict[Have, str] = {"chats": data["chats"]}
    starter = make_recipe(Answers(chats, "chat", MACHINES[0], str(tiny_model)))
    assert starter.base is not None and starter.base.reference == str(tiny_model)
    assert starter.peaks["tuned"] < 2e9
    pinned = make_recipe(Answers(chats, "chat", MACHINES[2], "hf:somebody/llama@abc123"))
    assert "hf:somebody/llama@abc123" in pinned.text and pinned.peaks == {}


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("cogvlm2", "cannot be trained here"),
        ("chinese-alpaca-pro-7b", "cannot be trained here"),
        ("ms:meta-llama/Llama-3.1-8B@", "nothing follows the @"),
        ("ms:no", "names no repository"),
        ("llama-9", "no model 'llama-9'"),
        ("./nowhere", "no such folder"),
        ("llama-3.1-8b-instruct", "the machine has 4"),
    ],
)
def test_a_model_that_does_not_do_is_refused(data: dict[Have, str], model: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_recipe(Answers(data, "chat", TargetMachine(True, 4e9), model))


def first_model(data: dict[Have, str], model: str | None = None, hub: FromHub | None = None) -> tuple[str, str]:
    """The reference of the model that a recipe for conversations begins with, and the recipe's text."""
    chats: dict[Have, str] = {"chats": data["chats"]}
    starter = make_recipe(Answers(chats, "chat", TargetMachine(True, 200e9), model, hub=hub))
    assert starter.base is not None and f'model: "{starter.base.reference}"' in starter.text
    return starter.base.reference, starter.text


def test_a_model_comes_from_the_hub_where_it_is_better_had(data: dict[Have, str]) -> None:
    gated, text = first_model(data)
    assert gated == "ms:LLM-Research/Meta-Llama-3.1-8B-Instruct@master"
    assert "asks for no agreement" in text and "From Hugging Face: hf:meta-llama/Llama-3.1-8B-Instruct@" in text
    only_there, _ = first_model(data, "openbuddy-llama3-8b")
    assert only_there == "ms:OpenBuddy/openbuddy-llama3-8b-v21.1-8k@master"
    without_commit, text = first_model(data, "yi-34b-chat")
    assert without_commit == "ms:01ai/Yi-34B-Chat@master" and "From Hugging Face" not in text
    open_to_all, text = first_model(data, "smollm2-135m-instruct")
    assert open_to_all.startswith("hf:HuggingFaceTB/") and "From ModelScope: ms:HuggingFaceTB/" in text


def test_a_model_comes_from_the_hub_that_was_asked_for(data: dict[Have, str]) -> None:
    assert first_model(data, "smollm2-135m-instruct", "ms")[0] == "ms:HuggingFaceTB/SmolLM2-135M-Instruct@master"
    reference, text = first_model(data, "llama-3.1-8b-instruct", "hf")
    assert reference.startswith("hf:meta-llama/Llama-3.1-8B-Instruct@") and "an agreement first" in text
    pinned, text = first_model(data, "ms:LLM-Research/Meta-Llama-3-8B-Instruct@0123abc")
    assert pinned.endswith("@0123abc") and "template: llama3" in text and "It may change" not in text
    assert first_model(data, "ms:HuggingFaceTB/SmolLM2-135M-Instruct")[0].startswith("ms:HuggingFaceTB/")


@pytest.mark.parametrize(
    ("model", "hub", "said"),
    [
        ("yi-34b", "hf", "no commit"),
        ("hf:somebody/llama@abc123", "ms", "says by itself"),
        ("./somewhere", "hf", "says by itself"),
    ],
)
def test_a_hub_that_does_not_do_is_refused(data: dict[Have, str], model: str, hub: FromHub, said: str) -> None:
    with pytest.raises(UserError, match=said):
        first_model(data, model, hub)
    with pytest.raises(UserError, match="would not be used"):
        make_recipe(Answers({}, "try", MACHINES[0], hub=hub))


def test_what_a_path_holds_is_recognized(data: dict[Have, str]) -> None:
    assert read_have(["chats.jsonl", "text.jsonl", "preferences.jsonl"]) == {have: f"{have}.jsonl" for have in data}
    assert read_have(["nothing"]) == {}
    assert read_have(["text=chats.jsonl"]) == {"text": "chats.jsonl"}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["nowhere.jsonl"], "no such file"),
        (["chats="], "no such file"),
        (["pictures=chats.jsonl"], "no data 'pictures'"),
        (["chats.jsonl", "chats=text.jsonl"], "are both chats"),
    ],
)
def test_data_that_are_not_there_are_refused(data: dict[Have, str], typed: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_have(typed)


def test_an_aim_and_a_machine_are_read_as_they_are_typed() -> None:
    assert [read_want(text) for text in ("1", "chinese-answers", "try")] == ["chat", "chinese_answers", "try"]
    assert read_machine("24GB") == TargetMachine(True, 24e9)
    assert read_machine("CPU").gpu is False
    assert [read_hub(text) for text in ("", "ms", "HF:")] == [None, "ms", "hf"]
    with pytest.raises(UserError, match="no model is taken from"):
        read_hub("wisemodel")
    for reader, text in ((read_want, "5"), (read_want, ""), (read_machine, "large"), (read_machine, "0.1GB")):
        with pytest.raises(UserError):
            reader(text)


def hanlin(*words: str) -> None:
    """Run the command in this process."""
    get_command(app)(["recipe", "new", *words], standalone_mode=False)


def test_the_command_asks_three_questions_and_overwrites_nothing(
    data: dict[Have, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HANLIN_LANG", "en")
    monkeypatch.setattr(sys, "stdin", io.StringIO("./chats.jsonl\n1\n24GB\n"))
    hanlin()
    shown = capsys.readouterr().out
    assert shown.count("of 3.") == 3 and "hanlin plan my_recipe.yaml" in shown
    written = (tmp_path / "my_recipe.yaml").read_bytes()
    with pytest.raises(UserError, match="not overwritten"):
        hanlin("--have", "nothing", "--want", "try", "--machine", "cpu")
    assert (tmp_path / "my_recipe.yaml").read_bytes() == written


def test_nobody_at_the_keyboard_is_one_sentence(
    data: dict[Have, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="nobody answers"):
        hanlin()
    assert not (tmp_path / "my_recipe.yaml").exists()


def test_options_answer_for_scripts(data: dict[Have, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--have", "chats.jsonl", "preferences.jsonl", "--want", "chat", "--machine", "80GB", "--out", "mine.yaml")
    hanlin(*words, "--json")
    made = json.loads(capsys.readouterr().out)
    assert made["recipe"] == "mine.yaml" and made["method"] == "lora"
    assert set(made["peak_memory"]) == {"tuned", "aligned"}
    with pytest.raises(UserError, match="nothing is asked"):
        hanlin("--json", "--out", "other.yaml")
    assert not (tmp_path / "other.yaml").exists()


@pytest.mark.parametrize("out", ["recipe.txt", "../nowhere/at/all.yaml", "a b.yaml", "chats.jsonl"])
def test_a_file_that_is_no_recipe_is_refused(data: dict[Have, str], out: str) -> None:
    with pytest.raises(UserError):
        hanlin("--have", "nothing", "--want", "try", "--machine", "cpu", "--out", out)


def test_comments_speak_the_language_that_was_asked_for(
    data: dict[Have, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANLIN_LANG", "en")
    hanlin("--have", "chats.jsonl", "--want", "chat", "--machine", "24GB", "--lang", "zh")
    assert "一个用中文回答的对话模型" in (tmp_path / "my_recipe.yaml").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="fr"):
        hanlin("--have", "nothing", "--want", "try", "--machine", "cpu", "--lang", "fr")


def test_a_model_in_a_hidden_folder_is_named_by_a_path(data: dict[Have, str], tiny_model: Path) -> None:
    """In a recipe `.models/mine` is no path: one begins with `./`."""
    Path(".models").mkdir()
    Path(".models/mine").symlink_to(tiny_model)
    starter = make_recipe(Answers(data, "chat", MACHINES[3], ".models/mine"))
    assert starter.base is not None and starter.base.reference == "./.models/mine"
