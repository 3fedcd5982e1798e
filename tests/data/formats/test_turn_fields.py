"""What a row says beside its texts: who speaks, what is learned, pictures, history, and fields that nothing carries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences
from hanlin.config.settings.sources import Source
from hanlin.core.records import Message
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop

Put = Callable[[str, Any], Path]
USER, ANSWER = {"role": "user", "content": "几点闭馆？"}, {"role": "assistant", "content": "九点。"}
ASK, TELL = Message("user", "几点闭馆？"), Message("assistant", "九点。")


def read_row(row: Any) -> ParsedChat | Drop:
    chosen = next(candidate for candidate in CHAT_FORMATS if candidate.recognize(row))
    (item,) = chosen.read(row)
    return item


def read_chat(row: Any) -> ParsedChat:
    item = read_row(row)
    assert isinstance(item, ParsedChat), item
    return item


def read_file(path: Path, **source: Any) -> list[ParsedChat | Drop]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        return [row.item for row in open_records(file, input_file, CHAT_FORMATS).rows]


# --- what is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "train"),
    [
        ({"loss": False}, False),
        ({"loss": True}, True),
        ({"loss": None}, None),
        ({"weight": 0}, False),
        ({"weight": 1}, True),
        ({"loss_weight": 0.0}, False),
        ({"loss_weight": 1.0}, True),
        ({"train": "false"}, False),
        ({"train": "1"}, True),
        ({"masked": True}, False),
        ({"loss": True, "weight": 0}, False),
        ({}, None),
    ],
)
def test_the_flag_of_an_answer_is_obeyed(flag: dict[str, Any], train: bool | None) -> None:
    chat = read_chat({"messages": [USER, {**ANSWER, **flag}]})
    assert chat.messages[1].train is train and chat.unread == ()


@pytest.mark.parametrize("flag", [{"weight": 0.5}, {"loss_weight": -1.0}, {"loss_scale": 2}])
def test_a_weight_that_training_does_not_have_is_dropped_by_name(flag: dict[str, Any]) -> None:
    item = read_row({"messages": [USER, {**ANSWER, **flag}]})
    assert item == Drop("loss_weight", f"{next(iter(flag))}: {next(iter(flag.values()))}")


def test_a_flag_that_would_teach_questions_is_named() -> None:
    assert read_chat({"messages": [{**USER, "loss": True}, ANSWER]}).unread == ("turn.loss",)
    assert read_chat({"messages": [{**USER, "loss": False}, ANSWER]}).unread == ()


@pytest.mark.parametrize("name", ["loss_mask", "train_mask"])
@pytest.mark.parametrize(
    "mask",
    [[0, 0, 0, 1], [False, False, False, True], ["0", "0", "0", "1"], [0, 0, None, 1.0], "[0, 0, 0, 1]", "0,0,0,1"],
)
def test_a_list_of_flags_as_long_as_the_turns_is_obeyed(name: str, mask: Any) -> None:
    chat = read_chat({"messages": [USER, ANSWER, USER, ANSWER], name: mask})
    assert [turn.train for turn in chat.messages] == [None, False, None, True]
    assert chat.unread == () and not chat.meta


def test_a_list_of_flags_is_obeyed_beside_the_flags_of_turns_and_for_pairs() -> None:
    assert read_chat({"messages": [USER, {**ANSWER, "loss": False}], "loss_mask": [0, 1]}).messages[1].train is False
    assert read_chat({"messages": [USER, {**ANSWER, "loss_mask": 1}], "loss_mask": [0, 0]}).messages[1].train is False
    pairs = {"conversation": [{"human": "甲", "assistant": "乙"}] * 2, "loss_mask": [0, 1]}
    assert [turn.train for turn in read_chat(pairs).messages] == [None, False, None, True]
    assert read_chat({"messages": [USER, ANSWER], "loss_mask": [1, 1]}).unread == ("turn.loss_mask",)


def test_a_list_of_flags_of_another_length_or_with_weights_is_dropped_by_name() -> None:
    item = read_row({"messages": [USER, ANSWER], "loss_mask": [0, 0, 1]})
    assert item == Drop("other_loss_mask", "loss_mask: 3 flags, 2 turns")
    assert read_row({"messages": [USER, ANSWER], "loss_mask": [0, 0.5]}) == Drop("loss_weight", "loss_mask: 0.5")
    broken = read_row({"messages": [USER, ANSWER], "loss_mask": ["甲", "乙"]})
    assert isinstance(broken, Drop) and broken.reason == "loss_weight"


@pytest.mark.parametrize("mask", [[0, 1], [0, 0, 0, 1], [0, 0, 0, 0, 1], "[0, 1]", "0, 1", [False, True]])
@pytest.mark.parametrize("names", [("instruction", "output"), ("prompt", "response"), ("问", "答")])
def test_a_list_of_flags_beside_a_question_with_history_is_for_each_turn_or_answer(
    names: tuple[str, str], mask: Any
) -> None:
    row = {names[0]: "几点闭馆？", names[1]: "九点。", "history": [["几点开馆？", "八点。"]], "system": "你是馆员。"}
    chat = read_chat({**row, "loss_mask": mask})
    assert [turn.train for turn in chat.messages] == [None, None, False, None, True]
    assert chat.unread == () and not chat.meta


def test_a_list_of_flags_beside_a_question_of_another_length_is_dropped_by_name() -> None:
    row = {"instruction": "几点闭馆？", "output": "九点。"}
    assert read_row({**row, "loss_mask": [0, 0, 0, 1, 1]}) == Drop("other_loss_mask", "loss_mask: 5 flags, 2 turns")
    assert read_row({**row, "loss_weights": [0.5]}) == Drop("loss_weight", "loss_weights: [0.5]")
    assert read_chat({**row, "loss_mask": [1, 1]}).unread == ("turn.loss_mask",)


def test_a_list_of_flags_beside_texts_said_in_turn_is_obeyed() -> None:
    chat = read_chat({"dialogue": ["甲", "乙", "丙", "丁"], "loss_mask": [0, 0, 0, 1]})
    assert [turn.train for turn in chat.messages] == [None, False, None, True]


def test_a_flag_of_a_question_and_answer_in_the_history_is_obeyed() -> None:
    history = [{"question": "几点开馆？", "answer": "八点。", "loss": False}]
    chat = read_chat({"instruction": "几点闭馆？", "output": "九点。", "history": history})
    assert [turn.train for turn in chat.messages] == [None, False, None, None] and chat.unread == ()


@pytest.mark.parametrize(
    "flag",
    [
        *({"loss": False}, {"loss": "false"}, {"output_with_loss": False}, {"loss_mask": 0}, {"loss_weight": 0}),
        *({"with_loss": 0}, {"masked": True}, {"is_masked": 1}, {"train": "false"}, {"loss_scale": 0.0}),
    ],
)
@pytest.mark.parametrize("names", [("instruction", "output"), ("prompt", "response")])
def test_a_flag_beside_a_question_and_its_answer_is_obeyed(names: tuple[str, str], flag: dict[str, Any]) -> None:
    assert read_chat({names[0]: "几点闭馆？", names[1]: "九点。", **flag}).messages[1].train is False


@pytest.mark.parametrize("flag", [{"loss": 0.53}, {"loss": 0}, {"weight": 2}, {"mask": "口罩"}, {"train": "一"}])
def test_a_figure_or_word_beside_a_question_is_no_flag(flag: dict[str, Any]) -> None:
    chat = read_chat({"instruction": "几点闭馆？", "output": "九点。", **flag})
    assert chat.messages[1].train is None and chat.meta == flag


def test_xtuner_pairs_have_system_texts_and_flags() -> None:
    pairs = [
        {"system": "你是图书馆助手。", "input": "几点开馆？", "output": "八点。", "output_with_loss": False},
        {"input": "几点闭馆？", "output": "九点。"},
    ]
    assert read_chat({"conversation": pairs}).messages == (
        Message("system", "你是图书馆助手。"),
        Message("user", "几点开馆？"),
        Message("assistant", "八点。", train=False),
        ASK,
        TELL,
    )


@pytest.mark.parametrize("before", [[], [{"from": "system", "value": "你是图书馆助手。"}]])
def test_a_greeting_is_read_and_not_learned(before: list[dict[str, Any]]) -> None:
    turns = [*before, {"from": "gpt", "value": "欢迎。"}, {"from": "human", "value": ASK.text}]
    chat = read_chat({"conversations": [*turns, {"from": "gpt", "value": TELL.text}]})
    assert chat.messages[len(before) :] == (Message("assistant", "欢迎。", train=False), ASK, TELL)


# --- who speaks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "assistant"),
    [("Human", "AI"), ("患者", "医生"), ("客户", "客服"), ("patient", "doctor"), ("用户", "机器人")],
)
def test_usual_names_of_roles_are_known(user: str, assistant: str) -> None:
    turns = [{"role": user, "content": ASK.text}, {"role": assistant, "content": TELL.text}]
    assert read_chat({"messages": turns}).messages == (ASK, TELL)


def test_names_of_roles_are_mapped_by_the_recipe(put: Put) -> None:
    row = {"dialogue": [{"speaker": "读者", "content": ASK.text}, {"speaker": "馆员", "content": TELL.text}]}
    path = put("a.jsonl", [row])
    (unknown,) = read_file(path)
    assert isinstance(unknown, Drop) and unknown.reason == "unknown_role"
    (chat,) = read_file(path, roles={"读者": "user", "馆员": "assistant"})
    assert isinstance(chat, ParsedChat) and chat.messages == (ASK, TELL)


def test_numbers_may_be_names_of_roles(put: Put) -> None:
    row = {"dialogue": [{"speaker": 0, "content": ASK.text}, {"speaker": 1, "content": TELL.text}]}
    settings = Conversations.model_validate({"sources": "a", "roles": {0: "user", 1: "assistant"}})
    (chat,) = read_file(put("a.jsonl", [row]), roles=settings.sources[0].roles)
    assert isinstance(chat, ParsedChat) and chat.messages == (ASK, TELL)


def test_roles_of_the_stage_are_those_of_all_sources() -> None:
    roles = {"患者": "user", "医生": "assistant"}
    settings = Conversations.model_validate(
        {"sources": ["a", {"path": "b", "roles": {"医生": "user"}}], "roles": roles}
    )
    assert [source.roles for source in settings.sources] == [roles, {"患者": "user", "医生": "user"}]
    assert Preferences.model_validate({"sources": "a", "roles": roles}).sources[0].roles == roles
    assert Conversations.model_validate(settings.model_dump()) == settings


@pytest.mark.parametrize("roles", [{"医生": "doctor"}, {"医生": ""}])
def test_a_role_that_there_is_not_is_refused(roles: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="no role"):
        Conversations.model_validate({"sources": "a", "roles": roles})


def test_documents_have_no_roles() -> None:
    with pytest.raises(ValueError, match="documents have no turns"):
        Corpus.model_validate({"sources": {"path": "a", "roles": {"医生": "user"}}})


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ANSWER], "images": ["a.jpg"]},
        {"instruction": "图里是谁？", "output": "老师。", "image": "a.jpg"},
        {"messages": [{"role": "user", "content": "<image>图里是谁？"}, ANSWER]},
        {"messages": [{"role": "user", "content": "听一听\n<audio>"}, ANSWER]},
        {"messages": [{"role": "user", "content": "<|vision_start|><|image_pad|><|vision_end|>谁？"}, ANSWER]},
        {"messages": [{"role": "user", "content": "Picture 1: <img>a/b.jpg</img>\n谁？"}, ANSWER]},
        {"prompt": "[图片]这是什么？", "response": "猫。"},
        {"prompt": "这是什么？<image_1>", "response": "猫。"},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}, ANSWER]},
        ["看看【图片】", "好看"],
    ],
)
def test_a_row_that_needs_pictures_or_sound_is_dropped_by_name(row: Any) -> None:
    item = read_row(row)
    assert isinstance(item, Drop) and item.reason == "media"


@pytest.mark.parametrize(
    "text",
    [
        "<video>标签怎么用？",
        "写法是 <audio src='a.mp3'></audio>",
        "看代码：\n```html\n<image>\n```",
        "`<image>` 是占位符吗？",
        "<video>...</video> 里放什么？",
        "数组写成 [1, 2] 或者 【说明】",
    ],
)
def test_talk_about_markup_is_no_picture(text: str) -> None:
    assert read_chat({"prompt": text, "response": "好。", "images": []}).messages[0].text == text


# --- what comes before ------------------------------------------------------------------------------------------------

BEFORE = (Message("user", "几点开馆？"), Message("assistant", "八点。"))


@pytest.mark.parametrize(
    "history",
    [
        [["几点开馆？", "八点。"]],
        ["几点开馆？", "八点。"],
        [{"role": "user", "content": "几点开馆？"}, {"role": "assistant", "content": "八点。"}],
        [{"from": "human", "value": "几点开馆？"}, {"from": "gpt", "value": "八点。"}],
        [{"question": "几点开馆？", "answer": "八点。"}],
        '[["几点开馆？", "八点。"]]',
        "[['几点开馆？', '八点。']]",
        [],
        "[]",
        None,
        "",
    ],
)
def test_history_is_read_in_every_form(history: Any) -> None:
    chat = read_chat({"instruction": ASK.text, "output": TELL.text, "history": history})
    expected = () if history in ([], "[]", None, "") else BEFORE
    assert chat.messages == (*expected, ASK, TELL) and chat.meta == {}


@pytest.mark.parametrize("history", ["昨天问过", [1], [["几点开馆？"]], {"a": 1}, ["只有一句"]])
def test_a_history_that_cannot_be_read_is_dropped_by_name(history: Any) -> None:
    item = read_row({"prompt": ASK.text, "response": TELL.text, "history": history})
    assert isinstance(item, Drop) and item.reason == "broken_history"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK.text, "response": TELL.text},
        {"instruction": ASK.text, "output": TELL.text},
        {"conversation": [{"human": ASK.text, "assistant": TELL.text}]},
        {"messages": [USER, ANSWER]},
        {"text": f"Human: {ASK.text}\n\nAssistant: {TELL.text}"},
        {"dialog": [ASK.text, TELL.text]},
    ],
)
def test_no_format_loses_a_system_text_or_tools(row: dict[str, Any]) -> None:
    chat = read_chat({**row, "system_prompt": "你是助手。", "tools": [{"name": "f", "description": "g"}]})
    assert chat.messages == (Message("system", "你是助手。"), ASK, TELL)
    assert chat.tools == ({"name": "f", "description": "g"},) and chat.meta == {} and chat.unread == ()


def test_a_second_system_text_is_carried_as_other_fields_are() -> None:
    turns = [{"role": "system", "content": "你是助手。"}, USER, ANSWER]
    assert read_chat({"messages": turns, "system": "你是馆员。"}).meta == {"system": "你是馆员。"}
    assert read_chat({"messages": turns, "system": "长" * 400}).unread == ("system",)
    assert read_chat({"messages": turns, "system": "你是助手。"}).meta == {}


# --- fields that nothing carries --------------------------------------------------------------------------------------


def test_fields_that_are_not_carried_are_named() -> None:
    turns = [{**USER, "lang": "zh"}, {**ANSWER, "score": 5, "refusal": None, "annotations": []}]
    chat = read_chat(
        {"messages": turns, "topic": "图书", "long": "长" * 400, "scores": {"a": 1}, "id": "x", "empty": ""}
    )
    assert chat.meta == {"topic": "图书", "id": "x"}
    assert chat.unread == ("long", "scores", "turn.lang", "turn.score")


def test_a_second_answer_is_carried_or_named() -> None:
    assert read_chat({"instruction": "问", "output": "答", "response": "另答"}).meta == {"response": "另答"}
    assert read_chat({"instruction": "问", "output": "答", "response": "另" * 400}).unread == ("response",)


def test_the_source_that_a_set_names_is_carried() -> None:
    assert read_chat({"messages": [USER, ANSWER], "source": "某馆"}).meta == {"source": "某馆"}


def test_rows_of_other_shapes_are_read_one_by_one(put: Put) -> None:
    rows = [
        {"instruction": ASK.text, "output": TELL.text},
        {"conversations": [{"from": "human", "value": ASK.text}, {"from": "gpt", "value": TELL.text}]},
        {"messages": [USER, ANSWER]},
        {"prompt": ASK.text, "response": TELL.text},
        {"nothing": "known"},
    ]
    path = put("a.jsonl", rows)
    *chats, other = read_file(path)
    assert [chat.messages for chat in chats if isinstance(chat, ParsedChat)] == [(ASK, TELL)] * 4
    assert isinstance(other, Drop)
    assert sum(isinstance(item, ParsedChat) for item in read_file(path, format="alpaca")) == 1


def test_a_second_system_text_is_named_and_an_empty_turn_of_the_system_gives_way() -> None:
    turns = [{"role": "system", "content": "你是馆员。"}, USER, ANSWER]
    assert read_chat({"messages": turns, "system": "你是助手。"}).meta == {"system": "你是助手。"}
    assert read_chat({"messages": turns, "system": "你是助" * 200}).unread == ("system",)
    assert read_chat({"messages": turns, "system": "你是馆员。"}).meta == {}
    pairs = [{"system": "你是馆员。", "input": "几点闭馆？", "output": "九点。"}]
    assert read_chat({"conversation": pairs, "system": "你是助手。"}).meta == {"system": "你是助手。"}
    empty = read_chat({"messages": [{"role": "system", "content": ""}, USER, ANSWER], "system": "你是助手。"})
    assert empty.messages == (Message("system", "你是助手。"), ASK, TELL) and empty.unread == ()


def test_of_two_contents_the_one_with_text_is_read_and_another_text_is_named() -> None:
    assert read_chat({"messages": [{**USER, "text": "别的"}, {**ANSWER, "value": "九点。"}]}).unread == ("turn.text",)
    blank = [
        {"role": "user", "content": "", "value": ASK.text},
        {"role": "assistant", "content": None, "text": TELL.text},
    ]
    assert read_chat({"messages": blank}).messages == (ASK, TELL)
    assert read_chat({"messages": [USER, {**ANSWER, "from": "human"}]}).unread == ("turn.from",)
    assert read_chat({"messages": [USER, {**ANSWER, "from": "gpt"}]}).unread == ()


@pytest.mark.parametrize(
    "part", [{"type": "thinking", "thinking": "想"}, {"type": "tool_use", "name": "f", "input": {}}]
)
def test_a_user_with_an_assistants_parts_is_not_read_without_them(part: dict[str, Any]) -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": ASK.text}, part]}
    item = read_row({"messages": [turn, ANSWER]})
    assert isinstance(item, Drop) and item.reason == "not_text"


@pytest.mark.parametrize("field", ["history", "chat_history", "conversation_history", "对话历史"])
@pytest.mark.parametrize(
    "turns",
    [
        [["几点开馆？", "八点。"]],
        [{"question": "几点开馆？", "answer": "八点。"}],
        [{"human": "几点开馆？", "gpt": "八点。"}],
        [{"role": "user", "content": "几点开馆？"}, {"role": "assistant", "content": "八点。"}],
        '[["几点开馆？", "八点。"]]',
    ],
)
@pytest.mark.parametrize("row", [{"prompt": ASK.text, "response": TELL.text}, {"messages": [USER, ANSWER]}])
def test_history_comes_first_whatever_its_form(row: dict[str, Any], turns: Any, field: str) -> None:
    chat = read_chat({**row, field: turns})
    assert chat.messages == (Message("user", "几点开馆？"), Message("assistant", "八点。"), ASK, TELL)
    assert chat.unread == () and chat.meta == {}


def test_history_goes_after_the_system_text_and_is_not_doubled() -> None:
    before = [{"role": "user", "content": "几点开馆？"}, {"role": "assistant", "content": "八点。"}]
    system = {"role": "system", "content": "你是馆员。"}
    chat = read_chat({"messages": [system, USER, ANSWER], "history": before})
    assert [message.role for message in chat.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert read_chat({"messages": [system, *before, USER, ANSWER], "history": before}).messages == chat.messages
    assert read_chat({"messages": [USER, ANSWER], "context": ["一篇", "又一篇"]}).messages == (ASK, TELL)


@pytest.mark.parametrize("nothing", ["None", "nan", "null", "[]", " "])
def test_tables_write_no_history_in_words(nothing: str) -> None:
    assert read_chat({"instruction": ASK.text, "output": TELL.text, "history": nothing}).messages == (ASK, TELL)


def test_a_question_is_asked_with_its_context() -> None:
    for row in ({"question": "几点？", "answer": "九点。"}, {"prompt": "几点？", "response": "九点。"}):
        assert read_chat({**row, "context": "九点闭馆。"}).messages[0].text == "几点？\n九点闭馆。"
    assert read_chat({"instruction": "几点？", "input": {"馆": "九点"}, "output": "九点。"}).unread == ("input",)


@pytest.mark.parametrize(
    "flag",
    [{"train_on_turn": False}, {"compute_loss": 0}, {"loss_mask": 0}, {"is_train": "false"}, {"is_masked": True}],
)
def test_more_names_of_flags_are_obeyed(flag: dict[str, Any]) -> None:
    assert [message.train for message in read_chat({"messages": [USER, {**ANSWER, **flag}]}).messages] == [None, False]


def test_a_turn_of_which_some_characters_are_learned_is_dropped() -> None:
    detail = [{"begin_offset": 0, "end_offset": 1, "train": False}]
    item = read_row({"messages": [USER, {**ANSWER, "train_detail": detail}]})
    assert isinstance(item, Drop) and item.reason == "loss_weight"


def test_pictures_beside_the_text_of_a_turn_drop_the_row() -> None:
    item = read_row({"messages": [{**USER, "images": ["a.jpg"]}, ANSWER]})
    assert isinstance(item, Drop) and item.reason == "media"
    assert read_chat({"messages": [{**USER, "images": []}, ANSWER]}).messages == (ASK, TELL)
