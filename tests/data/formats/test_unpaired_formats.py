"""Every format of unpaired preferences gives the same prompt, answer and label."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, UnpairedPreferences
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Preference, UnpairedPreference, read_jsonl, write_jsonl
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.content.labels import is_labeled_answer
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS, ParsedUnpaired
from hanlin.data.io.encodings import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from stage_runs import Made

Put = Callable[[str, Any], Path]
USER, ANSWER = {"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好呀"}
SHAREGPT = [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "你好呀"}]


def read(path: Path, **source: Any) -> tuple[str, list[ParsedUnpaired | Drop]]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        reader = open_records(file, input_file, UNPAIRED_FORMATS)
        return reader.format.partition(": ")[2], [found.item for found in reader.rows]


@pytest.mark.parametrize("good", [True, False])
@pytest.mark.parametrize(
    ("name", "row", "verdict"),
    [
        ("unpaired_messages", {"prompt": [USER], "completion": [ANSWER]}, "label"),
        ("unpaired_messages", {"messages": [USER, ANSWER]}, "label"),
        ("unpaired_sharegpt", {"conversations": SHAREGPT}, "kto_tag"),
        ("unpaired_alpaca", {"instruction": "你好", "input": "", "output": "你好呀"}, "kto_tag"),
        ("unpaired_prompt_response", {"prompt": "你好", "completion": "你好呀"}, "label"),
        (
            "unpaired_records",
            {
                "id": "a#1",
                "prompt": [{"role": "user", "text": "你好"}],
                "answer": {"role": "assistant", "text": "你好呀"},
            },
            "good",
        ),
    ],
)
def test_every_format_gives_the_same_unpaired_preference(
    put: Put, name: str, row: dict[str, Any], verdict: str, good: bool
) -> None:
    found, (judged,) = read(put("a.jsonl", [{**row, verdict: good}]))
    assert found == name and isinstance(judged, ParsedUnpaired)
    assert judged.prompt == (Message("user", "你好"),) and judged.answer == Message("assistant", "你好呀")
    assert judged.good is good and verdict not in judged.meta


def test_labels_in_a_csv_file_are_words(put: Put) -> None:
    text = "prompt,completion,label\n你好,你好呀,True\n你好,走开,false\n你好,嗯,1\n"
    _, judged = read(put("a.csv", text))
    assert [one.good for one in judged if isinstance(one, ParsedUnpaired)] == [True, False, True]


def test_fields_name_the_label(put: Put) -> None:
    fields = {"prompt": "问", "response": "答", "label": "对吗"}
    _, (judged,) = read(put("a.jsonl", [{"问": "你好", "答": "你好呀", "对吗": False}]), fields=fields)
    assert isinstance(judged, ParsedUnpaired) and not judged.good


def test_the_label_is_of_the_last_answer(put: Put) -> None:
    row = {"messages": [USER, ANSWER, USER, {"role": "assistant", "content": "又见面了"}], "label": True}
    _, (judged,) = read(put("a.jsonl", [row]))
    assert isinstance(judged, ParsedUnpaired) and len(judged.prompt) == 3 and judged.answer.text == "又见面了"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [USER, ANSWER]}, "no_label"),
        ({"messages": [USER, ANSWER], "label": "中"}, "no_label"),
        ({"messages": [USER, ANSWER], "label": 7}, "no_label"),
        ({"messages": [USER], "label": True}, "no_answer"),
        ({"messages": [ANSWER], "label": True}, "no_question"),
    ],
)
def test_a_row_without_labeled_answer_is_dropped_with_a_reason(put: Put, row: dict[str, Any], reason: str) -> None:
    _, (_, judged) = read(put("a.jsonl", [{"messages": [USER, ANSWER], "label": True}, row]))
    assert isinstance(judged, Drop) and judged.reason == reason


def test_pairs_are_sent_to_their_own_stage(put: Put, run: Callable[..., Made]) -> None:
    with pytest.raises(UserError) as refusal:
        run(UnpairedPreferences, put("a.jsonl", [{"prompt": "问", "chosen": "好", "rejected": "坏"}]))
    assert "preferences" in str(refusal.value.hint)


def test_the_stage_keeps_the_label_and_drops_untrainable_rows(put: Put, run: Callable[..., Made]) -> None:
    rows = [
        {"prompt": "问", "completion": "答", "label": True},
        {"prompt": "问", "completion": "答", "label": True},
        {"prompt": "问", "completion": "答", "label": False},
        {"prompt": "问", "completion": "别的", "label": False},
        {"messages": [USER, USER, ANSWER], "label": True},
        {"messages": [USER, {"role": "assistant", "content": ""}], "label": True},
    ]
    flat, turns = put("a.jsonl", rows[:4]), put("b.jsonl", rows[4:])
    made = run(UnpairedPreferences, flat, turns)
    assert [(row["answer"]["text"], row["good"]) for row in made.kept] == [
        ("答", True),
        ("答", False),
        ("别的", False),
    ]
    assert made.ledger["dropped"] == {"duplicate": 1, "turn_order": 1, "no_answer": 1}


def test_what_the_stage_writes_it_reads_again(put: Put, run: Callable[..., Made]) -> None:
    first = run(UnpairedPreferences, put("a.jsonl", [{"prompt": "问", "completion": "答", "label": False}]))
    again = run(UnpairedPreferences, first.out)
    assert [row["good"] for row in again.kept] == [False]


# -------------------------------------------------------------------------------------------------------- records

PAIR = Preference((Message("user", "问"),), Message("assistant", "好"), Message("assistant", "坏"), "p")


def test_a_pair_is_a_good_answer_and_a_bad_one() -> None:
    good, bad = UnpairedPreference.of_pair(PAIR)
    assert (good.answer, good.good, bad.answer, bad.good) == (PAIR.chosen, True, PAIR.rejected, False)
    assert good.prompt == bad.prompt == PAIR.prompt and len({good.id, bad.id, "p"}) == 3


def test_unpaired_preferences_survive_their_file(tmp_path: Path) -> None:
    records = list(UnpairedPreference.of_pair(PAIR))
    write_jsonl(tmp_path / "unpaired_preferences.jsonl", records)
    assert list(read_jsonl(tmp_path / "unpaired_preferences.jsonl", UnpairedPreference)) == records


def test_a_label_that_is_not_a_boolean_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unpaired_preferences.jsonl"
    answer = {"role": "assistant", "text": "答"}
    row = json.dumps({"id": "a", "prompt": [{"role": "user", "text": "问"}], "answer": answer, "good": 1})
    path.write_text(row + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="good is neither"):
        list(read_jsonl(path, UnpairedPreference))


# ---------------------------------------------------------------------------------------------------------- labels


def read_chats(path: Path) -> list[ParsedChat | Drop]:
    file = SourceFile(path, path.name, 0, Source(path=str(path)))
    with InputFile(path) as input_file:
        return [found.item for found in open_records(file, input_file, CHAT_FORMATS).rows]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        *((1, 0), (1, -1), (1.0, 0.0), ("1", "0"), ("true", "false"), ("True", "False"), ("yes", "no")),
        *(("chosen", "rejected"), ("good", "bad"), ("好", "坏"), ("是", "否")),
        *(("OK", "NG"), ("useful", "useless"), ("approved", "disapproved")),
        *(("接受", "拒绝"), ("采用", "不采用"), ("采用", "弃用"), ("达标", "不达标")),
    ],
)
@pytest.mark.parametrize("field", ["label", "kto_tag", "good"])
def test_labels_of_any_usual_form_are_labels(put: Put, good: object, bad: object, field: str) -> None:
    rows = [{"messages": [USER, ANSWER], field: good}, {"messages": [USER, ANSWER], field: bad}]
    _, parsed = read(put("a.jsonl", rows))
    assert [record.good for record in parsed if isinstance(record, ParsedUnpaired)] == [True, False]
    with pytest.raises(UserError, match="single answers labeled good or bad") as refusal:
        read_chats(put("b.jsonl", rows))
    assert "unpaired_preferences" in str(refusal.value.hint)


def test_a_label_far_down_in_a_file_of_chats_is_not_learned_as_good(put: Put, run: Callable[..., Made]) -> None:
    rows = [{"messages": [{"role": "user", "content": f"第{n}问？"}, ANSWER]} for n in range(60)]
    made = run(Conversations, put("a.jsonl", [*rows, {"messages": [USER, ANSWER], "label": 0}]), validation_fraction=0)
    assert len(made.kept) == 60 and made.ledger["dropped"] == {"labeled": 1}


def test_a_class_that_is_no_label_stays_in_the_metadata(put: Put) -> None:
    (chat,) = read_chats(put("a.jsonl", [{"messages": [USER, ANSWER], "label": "天气"}]))
    assert isinstance(chat, ParsedChat) and chat.meta == {"label": "天气"}


def test_tools_and_unread_fields_come_with_the_answer(put: Put, run: Callable[..., Made]) -> None:
    tool = {"name": "opening_hours", "parameters": {"type": "object", "properties": {}}}
    row = {"messages": [USER, ANSWER], "label": True, "tools": [tool], "boxes": {"x": 1}}
    made = run(UnpairedPreferences, put("a.jsonl", [row, {**row, "tools": []}]))
    assert [kept.get("tools") for kept in made.kept] == [[tool], None]
    assert made.ledger["unread_fields"] == {"boxes": 2} and all("meta" not in kept for kept in made.kept)
    again = run(UnpairedPreferences, made.out)
    assert again.kept[0]["tools"] == [tool] and again.ledger["unread_fields"] == {}


def test_chats_of_questions_with_their_answers_may_have_a_label(put: Put) -> None:
    row = {"conversation": [{"human": "你好", "assistant": "你好呀"}]}
    for label in ({"label": 0}, {"thumbs_up": False}, {"是否采纳": "否"}):
        name, (item,) = read(put("a.jsonl", [{**row, **label}]))
        assert name == "unpaired_firefly" and isinstance(item, ParsedUnpaired) and item.good is False


def test_a_label_that_is_the_answer_itself_judges_nothing() -> None:
    assert not is_labeled_answer({"instruction": "好评还是差评？", "output": "差评", "label": "差评"})
    assert is_labeled_answer({"instruction": "好评还是差评？", "output": "好评", "label": "差评"})
