"""A recipe by form: the text keeps its comments, the reader's own words refuse, plan and estimate follow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from hanlin.config.kinds import KINDS
from hanlin.config.recipe_file import parse_recipe, read_recipe
from hanlin.core.errors import UserError
from hanlin.web.recipes import routes
from hanlin.web.recipes.form import describe_form, parse_data
from hanlin.web.recipes.shipped import list_recipes, shipped_folder
from hanlin.web.recipes.text import REMOVED, change_setting, flow
from page_worlds import RECIPE, make_small_run, write_rows
from web_client import make_client

SHIPPED = sorted(shipped_folder().glob("*.yaml"))
TRAINING = """
name: trained
stages:
  chats: { kind: conversations, sources: [./chats.jsonl], validation_fraction: 0 }
  tuned: { kind: sft, model: ./model, data: [chats], max_seq_length: 64, epochs: 2 }
"""


def test_a_changed_value_leaves_the_rest_of_the_text_as_it_was() -> None:
    changed = change_setting(RECIPE, ["stages", "chats", "validation_fraction"], 0.1)
    assert changed == RECIPE.replace("validation_fraction: 0\n    dedup", "validation_fraction: 0.1\n    dedup")
    added = change_setting(RECIPE, ["stages", "text", "min_chars"], 9)
    assert added == RECIPE.replace("validation_fraction: 0 }", "validation_fraction: 0, min_chars: 9 }")
    removed = change_setting(RECIPE, ["stages", "chats", "dedup"], REMOVED)
    assert removed == RECIPE.replace("    dedup: minhash\n", "")
    nested = change_setting(RECIPE, ["stages", "chats", "identity", "name"], "小翰")
    assert nested == RECIPE.replace("    dedup: minhash\n", "    dedup: minhash\n    identity: { name: 小翰 }\n")
    assert change_setting(RECIPE, ["name"], "small") == RECIPE


@pytest.mark.slow
@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_setting_of_every_shipped_recipe_can_be_changed_and_taken_out(file: Path) -> None:
    """What comes out is what was asked for, and hardly a comment is lost, but where others refer to the value."""
    text = file.read_text(encoding="utf-8")
    data = yaml.safe_load(text)
    comments = text.count("#")
    for stage, row in data["stages"].items():
        for name in row:
            if name == "kind":
                continue
            for value in ("changed: [x]", 7, REMOVED):
                changed = change_setting(text, ["stages", stage, name], value)
                wanted = yaml.safe_load(text)
                if value is REMOVED:
                    del wanted["stages"][stage][name]
                else:
                    wanted["stages"][stage][name] = value
                assert parse_data(changed) == parse_data(yaml.safe_dump(wanted, allow_unicode=True))
                signs = (f"{name}: &", f"{name}: *", f"{stage}: &", f"{stage}: {{ <<: *")
                is_shared = any(sign in text for sign in signs)
                assert changed.count("#") >= comments - 3 or is_shared, (stage, name, value)


@pytest.mark.parametrize(
    "value",
    ["a", "", "1", "true", "null", "a: b", "[x]", "# no", "'", '"', "多行\n文字", " x ", 1e-5, -3, [1, ["a"]], {}],
)
def test_any_value_on_one_line_reads_back_as_itself(value: Any) -> None:
    text = change_setting(RECIPE, ["stages", "chats", "x"], {"inner": value})
    assert parse_data(text)["stages"]["chats"]["x"] == {"inner": value}
    assert "\n" not in flow(value)


def test_the_form_has_every_setting_of_every_kind() -> None:
    data = {"stages": {name: {"kind": name} for name in KINDS}}
    for stage in describe_form(data):
        names = {field["name"] for field in stage["fields"]}
        assert set(KINDS[stage["kind"]].settings.model_fields) <= names
        assert all(field["description"] for field in stage["fields"])


def test_a_field_names_stages_that_fit_and_values_to_choose_from() -> None:
    stages = {stage["name"]: stage for stage in describe_form(parse_data(TRAINING))}
    fields = {field["name"]: field for field in stages["tuned"]["fields"]}
    assert fields["data"]["reads"] == ["chats"] and fields["epochs"]["value"] == "2"
    assert fields["lr_scheduler"]["type"] == "choice" and "cosine" in fields["lr_scheduler"]["choices"]
    assert "lora.rank" not in fields
    with_lora = change_setting(TRAINING, ["stages", "tuned", "lora"], {"rank": 4})
    fields = {field["name"]: field for field in describe_form(parse_data(with_lora))[1]["fields"]}
    assert fields["lora.rank"]["value"] == "4"


@pytest.mark.parametrize(
    "data", [{}, {"stages": None}, {"stages": []}, {"stages": {"a": 1, "b": {"kind": "no"}, 3: {}}}]
)
def test_a_form_of_what_is_no_recipe_is_empty(data: Any) -> None:
    assert all(stage["fields"] == [] for stage in describe_form(data))


# --- the routes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return make_client(tmp_path)


def check(client: TestClient, text: str, **more: Any) -> dict[str, Any]:
    answer = client.post("/ui/recipes/check", json={"text": text, "name": "r", **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "stages: [",
        "stages: {a: {kind: corpse}}",
        "stages: {a: {kind: corpus}}",
        "stages: {a: {kind: corpus, sources: [./x], min_chars: 0}}",
        "stages: {a: {kind: corpus, sources: [./x], min_char: 5}}",
        "stages: {a: {kind: merge, adapter: b}}",
        "stages: {a: {kind: perplexity, model: a, data: ./x}}",
        "name: a/b\nstages: {}",
    ],
)
def test_what_the_recipe_reader_refuses_is_refused_in_its_words(text: str, client: TestClient) -> None:
    with pytest.raises(UserError) as told:
        parse_recipe(text, "r.yaml", (), "r")
    problem = check(client, text)["problem"]
    assert problem == {"what": told.value.what, "where": told.value.where, "hint": told.value.hint}


def test_a_change_of_the_form_is_checked_at_once(client: TestClient) -> None:
    change = {"path": ["stages", "chats", "validation_fraction"], "value": "0.9"}
    answer = check(client, RECIPE, change=change)
    assert "validation_fraction: 0.9" in answer["text"] and "less than or equal to 0.5" in answer["problem"]["what"]
    answer = check(client, RECIPE, change={**change, "value": "{"})
    assert answer["text"] == RECIPE and "is not valid YAML" in answer["problem"]["what"]


def test_plan_and_estimate_follow_the_machine_that_is_named(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"instruction": f"第{n}问？", "output": f"第{n}个回答。"} for n in range(9)]
    write_rows(tmp_path / "chats.jsonl", rows)
    shutil.copytree(tiny_model, tmp_path / "model")
    client = make_client(tmp_path)
    plan = check(client, TRAINING, memory="24GB", device="gpu")["plan"]
    assert [step["stage"] for step in plan["steps"]] == ["chats", "tuned"] and plan["fits"] is True
    plan = check(client, TRAINING, memory="801MB", device="gpu")["plan"]
    assert plan["fits"] is False and plan["estimates"][0]["stage"] == "tuned"
    told = check(client, TRAINING, memory="much")["plan_problem"]
    assert "not an amount of memory" in told["what"]
    missing = check(client, TRAINING.replace("./chats.jsonl", "./nothing.jsonl"))["plan_problem"]
    assert "nothing.jsonl" in missing["what"]


def test_files_outside_of_the_folder_are_looked_at_only_with_the_token(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    write_rows(tmp_path / "chats.jsonl", [{"instruction": "问？", "output": "答。"}])
    text = TRAINING.partition("  tuned")[0].replace("./chats.jsonl", "../chats.jsonl")
    assert (
        "outside of the page's folder" in check(make_client(home, with_start_token=False), text)["plan_problem"]["what"]
    )
    assert "plan" in check(make_client(home), text)


@pytest.mark.parametrize("source", ["./chats.jsonl", "./*.jsonl", "."])
def test_no_plan_reads_large_sources_while_a_reader_types_however_they_are_named(
    source: str, client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "chats.jsonl", [{"instruction": "问？", "output": "答。"}])
    text = TRAINING.partition("  tuned")[0].replace("./chats.jsonl", f'"{source}"')
    assert "plan" in check(client, text)
    monkeypatch.setattr("hanlin.web.recipes.check.PLANNED_BYTES", 10)
    assert "hanlin plan" in check(client, text)["plan_problem"]["hint"]


def test_a_valid_recipe_is_saved_and_another_of_its_name_is_not_replaced_unasked(
    client: TestClient, tmp_path: Path
) -> None:
    save = "/ui/recipes/save"
    assert client.post(save, json={"name": "mine", "text": RECIPE}).status_code == 200
    file = tmp_path / "recipes" / "mine.yaml"
    assert file.read_text(encoding="utf-8") == RECIPE and read_recipe(file).name == "small"
    other = RECIPE.replace("seed: 1", "seed: 2")
    assert client.post(save, json={"name": "mine", "text": other}).json()["error"]["code"] == "exists"
    assert client.post(save, json={"name": "mine", "text": other, "replace": True}).status_code == 200
    assert next(choice.name for choice in list_recipes(tmp_path)) == "mine"
    assert "a comment that stays" in client.get("/ui/recipes/edit/own/mine").text


@pytest.mark.parametrize("name", ["", "../x", "/etc/x", "a/b", ".x", "con", "x" * 300])
def test_a_recipe_is_saved_in_its_folder_alone(name: str, client: TestClient, tmp_path: Path) -> None:
    assert client.post("/ui/recipes/save", json={"name": name, "text": RECIPE}).status_code in (400, 422)
    assert not (tmp_path / "recipes").exists()


def test_an_invalid_recipe_is_not_saved_and_saving_needs_the_token(client: TestClient, tmp_path: Path) -> None:
    body = {"name": "mine", "text": "stages: {a: {kind: corpse}}"}
    assert "no stage kind 'corpse'" in client.post("/ui/recipes/save", json=body).text
    stranger = make_client(tmp_path, with_start_token=False)
    for path, data in (("save", {"name": "mine", "text": RECIPE}), ("start", {"name": "mine"})):
        assert stranger.post(f"/ui/recipes/{path}", json=data).status_code == 403
    assert not (tmp_path / "recipes" / "mine.yaml").exists()


def test_a_saved_recipe_is_started_in_the_folder(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[Any, Path]] = []

    def start(store: Any, source: Any, folder: Path) -> str:
        started.append((source, folder))
        return "small"

    monkeypatch.setattr(routes, "start_run", start)
    client.post("/ui/recipes/save", json={"name": "mine", "text": RECIPE})
    assert client.post("/ui/recipes/start", json={"name": "mine", "until": "text"}).json() == {"run": "small"}
    ((source, folder),) = started
    assert (source.recipe, source.until, folder) == (str(tmp_path / "recipes" / "mine.yaml"), "text", tmp_path)
    assert client.post("/ui/recipes/start", json={"name": "../small"}).status_code == 404


def test_a_recipe_that_runs_already_is_not_started_twice(tmp_path: Path) -> None:
    from hanlin.pipeline.run_record import RunSource, record_run
    from hanlin.web.runs.control import start_run

    store = make_small_run(tmp_path)
    with record_run("small", store), pytest.raises(UserError, match="a run of this recipe is going on"):
        start_run(store, RunSource(str(tmp_path / "small.yaml")), tmp_path)


def test_of_two_starts_at_the_same_time_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first has written its record: the second comes while the first process begins."""
    from hanlin.pipeline.run_record import RunSource
    from hanlin.web.runs import control

    store, source, refused, starts = make_small_run(tmp_path), RunSource(str(tmp_path / "small.yaml")), [], 0

    def start(*_: Any, **__: Any) -> int:
        nonlocal starts
        starts += 1
        with pytest.raises(UserError, match="a run of this recipe is going on") as error:
            control.start_run(store, source, tmp_path)
        refused.append(error)
        return os.getpid()

    monkeypatch.setattr(control, "start_detached", start)
    monkeypatch.setattr(control, "_wait_for_record", lambda folder, pid: None)
    (tmp_path / "kept").write_text("x", encoding="utf-8")
    (store.run_folder("small") / ".start.lock").symlink_to(tmp_path / "kept")
    control.start_run(store, source, tmp_path)
    assert starts == 1 and len(refused) == 1
    assert (tmp_path / "kept").read_text(encoding="utf-8") == "x"  # a lock empties the file that it is


@pytest.mark.parametrize(
    "path", ["own/..%2F..%2Fetc%2Fpasswd", "own/nothing", "other/quickstart", "shipped/..%2Fpyproject", "own/link"]
)
def test_only_recipes_can_be_opened(path: str, client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "link.yaml").symlink_to("/etc/passwd")
    assert client.get(f"/ui/recipes/edit/{path}").status_code in (400, 404)
    assert "link" not in {choice.name for choice in list_recipes(tmp_path)}


def test_the_choice_begins_with_the_quickstart_and_says_what_each_recipe_is(client: TestClient) -> None:
    page = client.get("/ui/recipes").text
    assert "The complete pipeline on a laptop" in page and "在一台笔记本上" not in page
    chinese = client.get("/ui/recipes", headers={"accept-language": "zh"}).text
    assert "在一台笔记本上" in chinese
