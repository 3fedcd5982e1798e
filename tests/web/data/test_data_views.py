"""Data on the page: rows, search, ledger, near copies, tokens; corrections go into the overlay that the stage reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from hanlin.config.recipe_file import read_recipe
from hanlin.core.errors import UserError
from hanlin.data.overlay import Overlay
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import build_request
from hanlin.pipeline.worker import run_stage
from hanlin.web.data.corrections import find_overlay
from hanlin.web.data.dataset import Dataset, Query
from hanlin.web.data.tokens import TokenDesk, list_tokenizers
from page_worlds import commit, make_small_run, write_rows
from web_client import make_client


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, which tests that change nothing share."""
    return make_small_run(tmp_path_factory.mktemp("made") / "home").home


@pytest.fixture(scope="module")
def reader(made: Path) -> TestClient:
    """A client of that folder."""
    return make_client(made)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(shutil.copytree(made, tmp_path / "home", symlinks=True))


@pytest.fixture
def chats(store: Store) -> Path:
    return next(store.artifacts.glob("conversations-*"))


@pytest.fixture
def client(store: Store) -> TestClient:
    return make_client(store.home)


def view(client: TestClient, chats: Path, more: str = "") -> str:
    answer = client.get(f"/ui/data/view/{chats.name}{more}")
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_a_dataset_is_listed_and_shows_rows_ledger_and_lengths(client: TestClient, chats: Path) -> None:
    assert "small / chats" in client.get("/ui/data").text
    assert "第0个问题是什么？" in view(client, chats)
    assert "validation" in view(client, chats, "?part=validation")
    ledger = view(client, chats, "/ledger")
    assert "it is a near-duplicate" in ledger and "chats.jsonl" in ledger and "it has no answer" in ledger
    assert "median" in view(client, chats, "/lengths")


def test_dropped_rows_are_shown_by_reason_and_copies_beside_what_was_kept(client: TestClient, chats: Path) -> None:
    dropped = view(client, chats, "?part=dropped&reason=no_answer")
    assert "空的" in dropped and "说说四季" not in dropped
    copies = view(client, chats, "/copies?reason=near_duplicate")
    assert "<mark>！</mark>" in copies and "<mark>。</mark>" in copies and "kept: chats.jsonl#6" in copies


def test_search_and_filters_find_rows(chats: Path) -> None:
    dataset = Dataset(chats)
    assert [row.number for row in dataset.page("kept", 0, Query(text="第3个")).rows] == [3]
    assert [row.number for row in dataset.page("kept", 0, Query(least=50)).rows] == [5]
    assert [row.number for row in dataset.page("kept", 0, Query(most=30, turns=2, source="chats.jsonl:4")).rows] == [3]
    assert dataset.page("kept", 0, Query(turns=3)).rows == ()
    assert dataset.size("kept") == dataset.count_lines("kept") == 6


def test_a_text_with_quotes_is_searched_as_it_is_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "documents.jsonl", [{"id": "a#1", "text": 'say "你好"\\n'}, {"id": "a#2", "text": "x\ny"}])
    dataset = Dataset(tmp_path)
    assert [row.number for row in dataset.page("kept", 0, Query(text='"你好"\\')).rows] == [0]
    assert [row.number for row in dataset.page("kept", 0, Query(text="x\ny")).rows] == [1]


def test_pages_follow_each_other_over_several_files(tmp_path: Path) -> None:
    for part in range(3):
        rows = [{"id": f"a#{part}-{n}", "text": f"{part}-{n}"} for n in range(7)]
        write_rows(tmp_path / f"documents-{part}.jsonl", rows)
    dataset, seen, first = Dataset(tmp_path), [], 0
    while first is not None:
        page = dataset.page("kept", first, count=4)
        seen += [row.data["text"] for row in page.rows]
        first = page.next  # type: ignore[assignment]
    assert seen == [f"{part}-{n}" for part in range(3) for n in range(7)]
    found = dataset.find_id("a#2-3")
    assert found is not None and found.number == 17 == dataset.row("kept", 17).number
    assert len(dataset.sample("kept", 5)) == 5
    with pytest.raises(UserError, match="there is no row 22"):
        dataset.row("kept", 21)


def test_a_search_that_runs_out_of_time_goes_on_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hanlin.web.data import dataset as module

    write_rows(tmp_path / "documents.jsonl", [{"id": f"a#{n}", "text": str(n)} for n in range(500)])
    monkeypatch.setattr(module, "SEARCH_SECONDS", -1.0)
    monkeypatch.setattr("hanlin.web.data.lines._SEARCH_BYTES", 2000)
    dataset, first, steps, found = Dataset(tmp_path), 0, 0, []
    while first is not None:
        page = dataset.page("kept", first, Query(text='"text": "499"'.replace('"text": ', "").strip('"')))
        found += [row.number for row in page.rows]
        first, steps = page.next, steps + 1  # type: ignore[assignment]
    assert found == [499] and steps > 3


def test_a_line_that_is_no_json_is_shown_as_such(tmp_path: Path, store: Store) -> None:
    commit(store, "corpus", "documents", "9" * 16, {"documents.jsonl": '{"id": "a#1", "text": "好"}\n{broken\n'})
    page = make_client(store.home).get(f"/ui/data/view/corpus-{'9' * 16}").text
    assert "好" in page and "Expecting" in page


# --- corrections ------------------------------------------------------------------------------------------------------


def correct(client: TestClient, chats: Path, row: Any = None, **body: Any) -> Any:
    if row is not None:
        body["content"] = json.dumps(row, ensure_ascii=False)
    return client.post(f"/ui/data/view/{chats.name}/correct", json={"part": "kept", **body})


def test_corrections_go_into_an_overlay_that_the_stage_applies(client: TestClient, chats: Path, store: Store) -> None:
    source = store.home / "chats.jsonl"
    before = source.read_bytes()
    turns = [{"role": "user", "text": "改过的问题？"}, {"role": "assistant", "text": "改过的回答。"}]
    made = correct(client, chats, number=1, id="chats.jsonl#2", action="drop", note="an advertisement").json()
    assert made["overlay"] == str(store.home / "overlays" / "small-chats.jsonl")
    assert (
        correct(client, chats, number=2, id="chats.jsonl#3", action="fix", row={"messages": turns}).status_code == 200
    )
    assert correct(client, chats, number=3, id="chats.jsonl#4", action="note", note="ask").status_code == 200
    assert source.read_bytes() == before
    assert "an advertisement" in view(client, chats, "/overlay") and "to be dropped" in view(client, chats)

    recipe = store.home / "small.yaml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(
        text.replace("    validation_fraction: 0\n", f"    {made['setting']}\n    validation_fraction: 0\n")
    )
    checked = read_recipe(recipe, [f"root={store.home}"])
    step = plan(checked, store)[0]
    run_stage(build_request(checked, step, store))
    folder = store.folder(step.stage.kind.name, step.key)
    rows = {row["id"]: row for row in map(json.loads, (folder / "conversations.jsonl").read_text("utf-8").splitlines())}
    assert "chats.jsonl#2" not in rows
    assert rows["chats.jsonl#3"]["messages"] == turns and rows["chats.jsonl#4"]["meta"]["note"] == "ask"
    assert find_overlay(store, folder).is_applied

    again = make_client(store.home)  # a row that was fixed is fixed once more, under the hash that it had first
    turns[1]["text"] = "再改一次。"
    number = list(rows).index("chats.jsonl#3")
    assert correct(again, folder, number=number, id="chats.jsonl#3", action="fix", row={"messages": turns}).is_success
    overlay = Overlay.read(store.home / "overlays" / "small-chats.jsonl")
    assert len(overlay.entries) == 3 and overlay.entries[1].row["messages"][1]["text"] == "再改一次。"


def test_a_correction_is_taken_back(client: TestClient, chats: Path, store: Store) -> None:
    entry = correct(client, chats, number=0, id="chats.jsonl#1", action="drop").json()["entry"]
    undo = f"/ui/data/view/{chats.name}/undo"
    assert client.post(undo, json={"sha256": entry["sha256"]}).status_code == 200
    assert Overlay.read(store.home / "overlays" / "small-chats.jsonl").entries == ()
    assert "no longer there" in client.post(undo, json={"sha256": entry["sha256"]}).text


def test_a_fix_keeps_every_number_as_it_was_typed(client: TestClient, chats: Path, store: Store) -> None:
    arguments = '{"card": 110105199003071234567, "price": 1.0}'
    turns = (
        '[{"role": "user", "text": "查一下"}, {"role": "assistant", "text": "好。", "tool_calls": '
        f'[{{"name": "look_up", "arguments": {arguments}}}]}}]'
    )
    made = correct(client, chats, number=0, id="chats.jsonl#1", action="fix", content=f'{{"messages": {turns}}}')
    assert made.status_code == 200, made.text
    assert arguments in (store.home / "overlays" / "small-chats.jsonl").read_text(encoding="utf-8")


def test_a_dataset_that_was_made_again_in_other_files_is_read_anew(client: TestClient, chats: Path) -> None:
    assert "chats.jsonl#2" in view(client, chats)
    rows = (chats / "conversations.jsonl").read_bytes().splitlines(keepends=True)
    again = chats.with_name(f"{chats.name}.again")
    shutil.copytree(chats, again)
    (again / "conversations.jsonl").unlink()
    for shard in range(2):
        (again / f"conversations-{shard:05d}-of-00002.jsonl").write_bytes(b"".join(rows[shard : shard + 1]))
    ledger = json.loads((again / "ledger.json").read_text(encoding="utf-8"))
    ledger |= {"rows_kept": 2, "rows_written": 2}
    (again / "ledger.json").write_text(json.dumps(ledger), encoding="utf-8")
    shutil.rmtree(chats)
    again.rename(chats)
    page = view(client, chats)
    assert "chats.jsonl#2" in page and "chats.jsonl#3" not in page
    assert 'kept <span class="soft">2</span>' in page


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"action": "drop", "id": "chats.jsonl#9"}, "the data has changed"),
        ({"action": "drop", "number": 99}, "there is no row 100"),
        ({"action": "burn"}, "there is no action 'burn'"),
        ({"action": "note"}, "the note is empty"),
        ({"action": "note", "note": "x" * 3000}, "longer than"),
        ({"action": "fix", "content": "[]"}, "not a JSON object"),
        ({"action": "fix"}, "The new content is not JSON"),
        ({"action": "fix", "content": '{"messages": "\\ud800"}'}, "half of a surrogate pair"),
        ({"action": "fix", "row": {"messages": []}}, "it has no answer"),
        ({"action": "fix", "row": {"text": "x"}}, "it has no field 'text'"),
        ({"action": "drop", "part": "dropped"}, "only kept rows"),
    ],
)
def test_a_correction_that_cannot_be_applied_is_refused(
    body: dict[str, Any], problem: str, client: TestClient, chats: Path, store: Store
) -> None:
    answer = correct(client, chats, **{"number": 0, "id": "chats.jsonl#1", **body})
    assert answer.status_code == 400 and problem in answer.json()["error"]["message"]
    assert not (store.home / "overlays" / "small-chats.jsonl").exists()


def test_a_fix_that_changes_nothing_is_refused(client: TestClient, chats: Path) -> None:
    row = Dataset(chats).row("kept", 0).data
    answer = correct(client, chats, number=0, id=row["id"], action="fix", row={"messages": row["messages"]})
    assert "the new content is the old one" in answer.text


def test_an_overlay_that_is_a_link_or_damaged_is_told_and_not_written(
    client: TestClient, chats: Path, store: Store
) -> None:
    overlays = store.home / "overlays"
    overlays.mkdir()
    file = overlays / "small-chats.jsonl"
    file.write_text("{", encoding="utf-8")
    assert "not JSON" in view(client, chats)
    assert correct(client, chats, number=0, id="chats.jsonl#1", action="drop").status_code == 400
    assert file.read_text(encoding="utf-8") == "{"
    file.unlink()
    file.symlink_to(store.home / "elsewhere")
    assert "a link is here" in correct(client, chats, number=0, id="chats.jsonl#1", action="drop").text
    assert not (store.home / "elsewhere").exists()


def test_a_request_without_the_token_of_the_page_changes_nothing(store: Store, chats: Path) -> None:
    stranger = make_client(store.home)
    del stranger.headers["x-hanlin-page"]
    assert correct(stranger, chats, number=0, id="chats.jsonl#1", action="drop").status_code == 403


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_told_apart_by_turn_and_by_loss(tiny_tokenizer: Path) -> None:
    row = {
        "id": "a#1",
        "messages": [
            {"role": "system", "text": "你是助手。"},
            {"role": "user", "text": "你好？"},
            {"role": "assistant", "text": "你好。"},
            {"role": "user", "text": "几点？"},
            {"role": "assistant", "text": "七点。"},
        ],
    }
    (part,) = TokenDesk().parts("conversations", row, tiny_tokenizer, "")
    roles = [token.role for token in part.tokens]
    assert list(dict.fromkeys(roles)) == ["system", "user", "assistant"] and "" not in roles
    changes = [role for index, role in enumerate(roles) if index == 0 or role != roles[index - 1]]
    assert changes == [turn["role"] for turn in row["messages"]]  # type: ignore[index]
    assert {token.role for token in part.tokens if token.learned} == {"assistant"}
    assert sum(token.learned for token in part.tokens) == part.num_learned > 0


def test_tokens_of_pairs_and_documents_are_shown_too(tiny_tokenizer: Path) -> None:
    desk = TokenDesk()
    turns = {"prompt": [{"role": "user", "text": "问？"}], "chosen": {"role": "assistant", "text": "好。"}}
    pair = {"id": "a#1", **turns, "rejected": {"role": "assistant", "text": "不。"}}
    assert [part.part for part in desk.parts("preferences", pair, tiny_tokenizer, "")] == ["chosen", "rejected"]
    (document,) = desk.parts("documents", {"id": "a#2", "text": "你好。"}, tiny_tokenizer, "")
    assert document.num_tokens > 2 and {token.role for token in document.tokens} == {""}
    with pytest.raises(UserError, match="no chat template 'nothing'"):
        desk.parts("preferences", pair, tiny_tokenizer, "nothing")


def test_a_tokenizer_is_chosen_from_the_folder_and_never_from_outside(
    client: TestClient, chats: Path, store: Store, tiny_tokenizer: Path
) -> None:
    shutil.copytree(tiny_tokenizer, store.home / "models" / "tiny")
    assert [choice.path for choice in list_tokenizers(store)] == ["models/tiny"]
    page = view(client, chats, "/row?number=0&tokenizer=models/tiny")
    assert 'class="tok assistant learned' in page and "tokens," in page
    for name in (str(tiny_tokenizer), "../..", "models/../../x"):
        told = view(client, chats, f"/row?number=0&tokenizer={name}")
        assert "outside of the page" in told and 'class="tok assistant' not in told.replace(
            'class="tok assistant">a', ""
        )
    file = view(client, chats, "/row?number=0&tokenizer=models/tiny&template=/etc/passwd.jinja")
    assert "no chat template" in file


@pytest.mark.parametrize("name", ["..%2F..%2Fetc", "nothing", "corpus-x.partial", "%2Fetc"])
@pytest.mark.parametrize("page", ["", "/row", "/ledger", "/lengths", "/copies", "/overlay"])
def test_no_other_folder_can_be_named(name: str, page: str, reader: TestClient) -> None:
    assert reader.get(f"/ui/data/view/{name}{page}").status_code in (400, 404)


@pytest.mark.parametrize(
    "query",
    ["?part=other", "?least=x", "?least=-5", "?turns=1e3", "/row?number=-1", "/row?number=x", "/copies?reason=x"],
)
def test_a_query_that_cannot_be_meant_is_refused(query: str, reader: TestClient, chats: Path) -> None:
    assert reader.get(f"/ui/data/view/{chats.name}{query}").status_code in (400, 422)


def test_what_a_row_holds_is_text_and_never_markup(store: Store) -> None:
    text = json.dumps({"id": "a<b>#1", "text": "<script>alert(1)</script>"}) + "\n"
    commit(store, "corpus", "documents", "8" * 16, {"documents.jsonl": text})
    client = make_client(store.home)
    for page in ("", "/row?number=0"):
        shown = client.get(f"/ui/data/view/corpus-{'8' * 16}{page}").text
        assert "<script>alert" not in shown and "&lt;script&gt;alert" in shown
