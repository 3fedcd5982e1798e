"""Labels, flags, histories, reasoning, pairs and calls under other names and in other shapes than the usual ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Preferences, UnpairedPreferences
from hanlin.core.errors import UserError
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
QUESTION, ANSWER = "桥有多长？", "一百二十米。"
USER, ASSISTANT = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}


def look(put: Put, rows: Any, name: str = "a.jsonl") -> dict[str, Any]:
    (found,) = inspect([str(put(name, rows))])
    return found


def read(put: Put, run: Run, rows: Any, kind: Any = Conversations, name: str = "a.jsonl") -> Made:
    return run(kind, put(name, rows), validation_fraction=0)


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("label", "正确", "错误"),
        ("label", "满意", "不满意"),
        ("label", "T", "F"),
        ("label", "pass", "fail"),
        ("kto_label", 1, 0),
        ("human_label", "positive", "negative"),
        ("is_chosen", True, False),
        ("chosen", 1, 0),
        ("是否合格", "是", "否"),
    ],
)
@pytest.mark.parametrize("fields", [("prompt", "completion"), ("q", "a"), ("问", "答")])
def test_labels_under_other_names_and_in_other_words_are_labels(
    put: Put, run: Run, name: str, good: Any, bad: Any, fields: tuple[str, str]
) -> None:
    question, answer = fields
    rows = [{question: QUESTION, answer: ANSWER, name: good}, {question: "哪座桥？", answer: "不知道。", name: bad}]
    made = read(put, run, rows, UnpairedPreferences)
    assert [row["good"] for row in made.kept] == [True, False]
    with pytest.raises(UserError, match="labeled"):
        read(put, run, rows)


@pytest.mark.parametrize(("name", "good", "bad"), [("label", 1, 0), ("feedback", "thumbs_up", "thumbs_down")])
def test_an_answer_with_a_bad_label_in_its_turn_is_not_learned(
    put: Put, run: Run, name: str, good: Any, bad: Any
) -> None:
    second = [{"role": "user", "content": "多宽？"}, {"role": "assistant", "content": "八米。", name: good}]
    made = read(put, run, [{"messages": [USER, {**ASSISTANT, name: bad}, *second]}])
    assert [turn.get("train") for turn in made.kept[0]["messages"]] == [None, False, None, None]
    assert made.ledger["unread_fields"] == {}


@pytest.mark.parametrize("labels", [(0, 1), (3, 0)])
def test_a_label_of_every_turn_is_a_class_of_what_is_said(put: Put, run: Run, labels: tuple[int, int]) -> None:
    made = read(put, run, [{"messages": [{**USER, "label": labels[0]}, {**ASSISTANT, "label": labels[1]}]}])
    assert "train" not in made.kept[0]["messages"][1] and made.ledger["unread_fields"] == {"turn.label": 1}


# --- flags ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "flags"), [("ignore", (True, False)), ("计算损失", (False, True)), ("不训练", (1, 0))]
)
def test_flags_under_other_names_are_obeyed(put: Put, run: Run, name: str, flags: tuple[Any, Any]) -> None:
    turns = [USER, {**ASSISTANT, name: flags[0]}, {**USER, "content": "多宽？"}, {**ASSISTANT, name: flags[1]}]
    made = read(put, run, [{"messages": turns}])
    assert [turn.get("train") for turn in made.kept[0]["messages"]] == [None, False, None, True]


@pytest.mark.parametrize("answer", ["是", "好", "no"])
def test_a_chosen_answer_in_a_word_is_no_label(put: Put, run: Run, answer: str) -> None:
    (kept,) = read(put, run, [{"prompt": "桥长吗？", "chosen": answer, "rejected": "不知道。"}], Preferences).kept
    assert kept["chosen"]["text"] == answer


def test_a_list_of_flags_may_be_of_the_answers_alone(put: Put, run: Run) -> None:
    turns = [{"role": "system", "content": "馆员"}, USER, ASSISTANT, {**USER, "content": "多宽？"}, ASSISTANT]
    for flags in ([False, True], [0, 0, 0, 1], [0, 0, 0, 0, 1]):
        made = read(put, run, [{"messages": turns, "train_on_turns": flags}])
        assert [turn.get("train") for turn in made.kept[0]["messages"]][2::2] == [False, True], flags


# --- turns and histories ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rounds", "dialogs", "会话", "多轮对话"])
@pytest.mark.parametrize(
    "turns",
    [
        [{"问": QUESTION, "答": ANSWER}, {"问": "多宽？", "答": "八米。"}],
        [
            {"角色": role, "内容": text}
            for role, text in (("用户", QUESTION), ("助手", ANSWER), ("用户", "多宽？"), ("助手", "八米。"))
        ],
    ],
)
def test_turns_under_other_names_are_one_conversation(put: Put, run: Run, name: str, turns: Any) -> None:
    (kept,) = read(put, run, [{name: turns}]).kept
    assert [turn["text"] for turn in kept["messages"]] == [QUESTION, ANSWER, "多宽？", "八米。"]


@pytest.mark.parametrize(
    "history",
    [
        json.dumps([{"role": "user", "content": "你好"}, {"role": "assistant", "content": "您好"}], ensure_ascii=False),
        "[('你好', '您好')]",
        "用户：你好\n助手：您好",
    ],
)
@pytest.mark.parametrize("name", ["历史", "history"])
def test_a_history_in_a_cell_comes_before_the_question(put: Put, run: Run, name: str, history: str) -> None:
    made = read(put, run, [{"问题": QUESTION, "回答": ANSWER, name: history}])
    assert [turn["text"] for turn in made.kept[0]["messages"]] == ["你好", "您好", QUESTION, ANSWER]


def test_what_is_no_history_under_such_a_name_is_named(put: Put, run: Run) -> None:
    made = read(put, run, [{"问题": QUESTION, "回答": ANSWER, "历史": "建于清朝"}])
    assert [turn["text"] for turn in made.kept[0]["messages"]] == [QUESTION, ANSWER]
    assert made.ledger["unread_fields"] == {"历史": 1}


@pytest.mark.parametrize("name", ["dialog", "dialogue", "utterances"])
def test_the_answer_to_what_was_said_in_turn_is_its_last_turn(put: Put, run: Run, name: str) -> None:
    (kept,) = read(put, run, [{name: ["你好", "您好", QUESTION], "response": ANSWER}]).kept
    assert [turn["text"] for turn in kept["messages"]] == ["你好", "您好", QUESTION, ANSWER] and "meta" not in kept


@pytest.mark.parametrize("name", ["data", "chats", "对话"])
def test_a_list_of_conversations_under_any_such_name_is_read(put: Put, run: Run, name: str) -> None:
    other = [USER, {**ASSISTANT, "content": "不知道。"}]
    made = read(put, run, json.dumps({name: [[USER, ASSISTANT], other]}, ensure_ascii=False), name="a.json")
    assert [row["messages"][1]["text"] for row in made.kept] == [ANSWER, "不知道。"]


@pytest.mark.parametrize("kind", [Conversations, Preferences])
def test_passages_beside_a_question_are_named(put: Put, run: Run, kind: Any) -> None:
    answers = {"chosen": ANSWER, "rejected": "不知道。"} if kind is Preferences else {"answer": ANSWER}
    made = read(put, run, [{"question": QUESTION, "context": ["桥建于清朝。", "桥长一百二十米。"], **answers}], kind)
    assert len(made.kept) == 1 and made.ledger["unread_fields"] == {"context": 1}


# --- reasoning --------------------------------------------------------------------------------------------------------


def test_a_redacted_thought_is_named_and_costs_no_row(put: Put, run: Run) -> None:
    parts = [{"type": "redacted_thinking", "data": "EmwKAh"}, {"type": "text", "text": ANSWER}]
    made = read(put, run, [{"messages": [USER, {"role": "assistant", "content": parts}]}])
    assert made.kept[0]["messages"][1] == {"role": "assistant", "text": ANSWER}
    assert made.ledger["unread_fields"] == {"turn.content.data": 1}


@pytest.mark.parametrize("name", ["thought_process", "thinking_process", "解题思路"])
def test_reasoning_beside_the_final_answer_is_reasoning(put: Put, run: Run, name: str) -> None:
    (kept,) = read(put, run, [{"question": QUESTION, name: "量过。", "final_answer": ANSWER}]).kept
    assert kept["messages"][1] == {"role": "assistant", "text": ANSWER, "reasoning": "量过。"}


@pytest.mark.parametrize(
    "text",
    [
        f"<|thinking|>量过。<|/thinking|>{ANSWER}",
        f"<Thought>\n量过。\n</Thought>\n<Output>\n{ANSWER}\n</Output>",
        f"<scratchpad>量过。</scratchpad>\n{ANSWER}",
    ],
)
def test_other_marks_around_reasoning_are_no_answer(put: Put, run: Run, text: str) -> None:
    (kept,) = read(put, run, [{"messages": [USER, {"role": "assistant", "content": text}]}]).kept
    assert kept["messages"][1] == {"role": "assistant", "text": ANSWER, "reasoning": "量过。"}


# --- pairs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [USER, ASSISTANT], "negative_response": "不知道。"},
        {"prompt": QUESTION, "completion": ANSWER, "bad_completion": "不知道。"},
        {"question": QUESTION, "answer": ANSWER, "answer_worse": "不知道。"},
        {"问题": QUESTION, "更好的回答": ANSWER, "更差的回答": "不知道。"},
        {"prompt": QUESTION, "正样本": ANSWER, "负样本": "不知道。"},
        {"prompt": QUESTION, "response": ANSWER, "response_reject": "不知道。"},
        {
            "instruction": QUESTION,
            "completions": [{"response": "不知道。", "rating": "1"}, {"response": ANSWER, "rating": "5"}],
        },
        {"prompt": QUESTION, "responses": [ANSWER, "不知道。"], "scores": ["0.9", "0.1"]},
    ],
)
def test_a_worse_answer_under_another_name_makes_a_pair(put: Put, run: Run, row: dict[str, Any]) -> None:
    (kept,) = read(put, run, [row], Preferences).kept
    assert (kept["chosen"]["text"], kept["rejected"]["text"]) == (ANSWER, "不知道。")
    assert look(put, [row])["stage"] == "preferences"


def test_a_query_with_a_negative_passage_is_no_pair(put: Put) -> None:
    found = look(put, [{"query": QUESTION, "positive": "桥长一百二十米。", "negative": "河宽八十米。"}])
    assert "embedding models" in found["error"]


# --- calls, pictures --------------------------------------------------------------------------------------------------

_TOOLS = [{"name": "get_hours", "parameters": {"type": "object", "properties": {"place": {"type": "string"}}}}]


@pytest.mark.parametrize(
    "text",
    [
        '<|tool_call|>[{"name": "get_hours", "arguments": {"place": "甲"}}]<|/tool_call|>',
        '<|tool_call_start|>[get_hours(place="甲")]<|tool_call_end|>',
        '✿FUNCTION✿: get_hours\n✿ARGS✿: {"place": "甲"}',
    ],
)
def test_calls_between_other_marks_are_calls(put: Put, run: Run, text: str) -> None:
    turns = [USER, {"role": "assistant", "content": text}, {"role": "tool", "content": "21:00"}, ASSISTANT]
    (kept,) = read(put, run, [{"tools": _TOOLS, "messages": turns}]).kept
    assert kept["messages"][1]["tool_calls"] == [{"name": "get_hours", "arguments": {"place": "甲"}}]
    assert not kept["messages"][1]["text"]


@pytest.mark.parametrize(
    ("text", "calls"),
    [("get_hours(place='甲')", 1), ("get_hours(place='甲') 查的是开放时间。", 0), ("other(place='甲')", 0)],
)
def test_a_call_in_python_of_a_known_tool_is_a_call(put: Put, run: Run, text: str, calls: int) -> None:
    (kept,) = read(put, run, [{"query": QUESTION, "tools": _TOOLS, "response": text}]).kept
    assert len(kept["messages"][1].get("tool_calls", ())) == calls


def test_the_heading_over_a_list_of_tools_goes_with_it(put: Put, run: Run) -> None:
    system = (
        "你是馆员。\n\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"<tools>\n{json.dumps(_TOOLS[0])}\n</tools>"
    )
    (kept,) = read(put, run, [{"messages": [{"role": "system", "content": system}, USER, ASSISTANT]}]).kept
    assert kept["messages"][0]["text"] == "你是馆员。" and kept["tools"][0]["name"] == "get_hours"


def test_a_result_in_the_turn_of_its_call_is_not_learned(put: Put, run: Run) -> None:
    text = '✿FUNCTION✿: get_hours\n✿ARGS✿: {"place": "甲"}\n✿RESULT✿: 21:00\n✿RETURN✿: 九点。'
    row = {"tools": _TOOLS, "messages": [USER, {"role": "assistant", "content": text}]}
    assert look(put, [row])["dropped"] == {"broken_tool_call": 1}


@pytest.mark.parametrize("shown", ["![图](https://example.org/a.png)", "data:image/png;base64,iVBORw0KGgo="])
def test_a_picture_that_a_question_shows_is_a_picture(put: Put, shown: str) -> None:
    found = look(put, [{"messages": [{"role": "user", "content": f"{shown}\n这是什么？"}, ASSISTANT]}])
    assert found["dropped"] == {"media": 1}


@pytest.mark.parametrize(
    "text",
    [
        "Markdown 里 ![图](a.png) 的语法是什么意思？",
        "`![图](a.png)` 为什么不显示？",
        "背景不显示：body { background: url(data:image/png;base64,iVBORw0KGgo=); }",
        "翻译这篇介绍：\n![标志](a.png)\n" + "翰林是一个工具箱，帮助模型学好中文，从文本到对话。" * 4,
    ],
)
def test_talk_about_markup_and_an_article_with_a_picture_stay(put: Put, text: str) -> None:
    assert look(put, [{"messages": [{"role": "user", "content": text}, ASSISTANT]}])["kept"] == 1


# --- what a file is ---------------------------------------------------------------------------------------------------


def test_a_file_of_several_shapes_is_of_the_stage_of_most_of_its_rows(put: Put) -> None:
    rows = [{"messages": [USER, {**ASSISTANT, "content": f"{number} 米。"}]} for number in range(5)]
    found = look(put, [*rows, {"prompt": QUESTION, "chosen": ANSWER, "rejected": "不知道。"}, {"text": "桥。" * 30}])
    assert found["stage"] == "conversations" and found["kept"] == 5 and sum(found["dropped"].values()) == 2


def test_a_question_of_an_exam_among_chats_is_not_learned(put: Put) -> None:
    rows = [{"messages": [USER, {**ASSISTANT, "content": f"{number} 米。"}]} for number in range(3)]
    exam = {"question": "哪座桥最长？", "A": "甲", "B": "乙", "C": "丙", "D": "丁", "answer": "A"}
    assert look(put, [*rows, exam])["dropped"] == {"other_format": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"article": "桥建于清朝。", "questions": ["何时建？"], "options": [["清朝", "明朝"]], "answers": ["A"]},
        {"ctx": "他走上桥，", "endings": ["停下来看河。", "变成了鱼。"], "label": 0},
    ],
)
def test_other_exams_are_named(put: Put, row: dict[str, Any]) -> None:
    assert "exam" in look(put, [row])["error"]


def test_the_description_of_data_sets_beside_them_is_no_data(put: Put) -> None:
    put("folder/train.jsonl", [{"instruction": QUESTION, "output": ANSWER}])
    description = {"桥": {"file_name": "train.jsonl", "columns": {"prompt": "instruction"}}}
    folder = put("folder/dataset_info.json", json.dumps(description, ensure_ascii=False)).parent
    found = {Path(row["path"]).name: row for row in inspect([str(folder)])}
    assert found["train.jsonl"]["kept"] == 1 and found["dataset_info.json"]["skipped"]


@pytest.mark.parametrize("fields", [("q", "a"), ("问", "答")])
def test_rows_by_their_numbers_are_rows_and_the_objects_of_a_row_are_none(put: Put, fields: tuple[str, str]) -> None:
    question, answer = fields
    rows = {str(number): {question: QUESTION, answer: f"{number} 米。"} for number in range(2)}
    assert look(put, json.dumps(rows, ensure_ascii=False), "a.json")["kept"] == 2
    assert "prompt" in look(put, [{"prompt": {"text": QUESTION}, "completion": {"text": ANSWER}}], "b.jsonl")["error"]


@pytest.mark.parametrize("name", ["json", "text", "数据"])
def test_rows_as_text_in_a_field_are_named_with_the_command_that_decodes_them(put: Put, name: str) -> None:
    encoded = json.dumps({"messages": [USER, ASSISTANT]}, ensure_ascii=False)
    found = look(put, [{"id": 1, name: encoded}])
    assert f"`{name}`" in found["error"] and "fromjson" in found["error"]


_SENTENCE = "桥建于清朝，长一百二十米，宽八米，两边各有三十二根望柱。"


@pytest.mark.parametrize(
    ("row", "text", "unread"),
    [
        (
            {"ID": 1, "主题": "老桥", "回复": [{"楼ID": "1", "回复": _SENTENCE}, {"楼ID": "2", "回复": "我去过。"}]},
            f"老桥\n{_SENTENCE}\n我去过。",
            {"回复.楼ID": 1},
        ),
        (
            {"文件名": "a.txt", "段落": [{"行号": 1, "内容": _SENTENCE}, {"行号": 2, "内容": "我去过。"}]},
            f"{_SENTENCE}\n我去过。",
            {"段落.行号": 1},
        ),
        ({"chunks": [{"text": _SENTENCE, "page": 3}]}, _SENTENCE, {"chunks.page": 1}),
    ],
)
def test_a_text_in_parts_is_one_document_and_what_else_its_parts_hold_is_named(
    put: Put, row: dict[str, Any], text: str, unread: dict[str, int]
) -> None:
    found = look(put, [row, {**row, "文件名": "b.txt"}])
    assert (found["stage"], found["samples"][0]["text"], found["unread_fields"]) == (
        "corpus",
        text,
        dict.fromkeys(unread, 2),
    )


def test_a_later_turn_on_a_row_of_its_own_is_named(put: Put, run: Run) -> None:
    rows = [
        {"问": QUESTION, "答": ANSWER, "会话": "c1", "多轮序号": 1},
        {"问": "多宽？", "答": "八米。", "会话": "c1", "多轮序号": 2},
    ]
    made = read(put, run, rows)
    assert len(made.kept) == 2 and made.ledger["unread_fields"] == {"多轮序号": 1}


def test_a_text_of_json_that_is_no_row_is_a_document(put: Put) -> None:
    text = json.dumps({"city": "桥镇", "note": "桥建于清朝，长一百二十米，宽八米。"}, ensure_ascii=False)
    assert look(put, [{"text": text}])["stage"] == "corpus"


@pytest.mark.parametrize("field", ["tools", "score"])
def test_chats_given_for_pairs_are_named_as_data_of_their_stage(put: Put, run: Run, field: str) -> None:
    with pytest.raises(UserError) as refused:
        read(put, run, [{"messages": [USER, ASSISTANT], field: [1] if field == "tools" else 3}], Preferences)
    assert "`conversations`" in str(refused.value.hint)
