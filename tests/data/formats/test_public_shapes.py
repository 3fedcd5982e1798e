"""Rows as public sets hold them, found in their cards: read, or named for what they are with the way out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Preferences
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.turns import ParsedChat
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
QUESTION, ANSWER, WORSE = "桥在哪里？", "在江边。", "不知道。"
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"context": [QUESTION], "target": ANSWER}, [QUESTION, ANSWER]),
        ({"context": [QUESTION, ANSWER, "多长？"], "target": "百米。"}, [QUESTION, ANSWER, "多长？", "百米。"]),
        ({"simple_messages": TURNS, "lang": "zh"}, [QUESTION, ANSWER]),
        ({"prompt": QUESTION, "gold_standard_solution": "江边", "llm_response": ANSWER}, [QUESTION, ANSWER]),
        ({"问题": QUESTION, "答案": ANSWER}, [QUESTION, ANSWER]),
        ({"context": QUESTION, "target": ANSWER}, [QUESTION, ANSWER]),
        ({"article": "桥跨江。", "question": QUESTION, "answer": ANSWER}, [f"{QUESTION}\n桥跨江。", ANSWER]),
        ({"对话": f"患者：{QUESTION}\n医生：{ANSWER}"}, [QUESTION, ANSWER]),
        ({"dialogue": f"Q: {QUESTION}\nA: 在江边\n不远。"}, [QUESTION, "在江边\n不远。"]),
        ({"chat": [{"sender": "客户", "msg": QUESTION}, {"sender": "客服", "msg": ANSWER}]}, [QUESTION, ANSWER]),
        ({"conversation": [{"message": QUESTION, "is_human": True}, {"message": ANSWER, "is_human": False}]}, None),
        ({"messages": [{"mes": QUESTION, "is_bot": False}, {"mes": ANSWER, "is_bot": True}]}, [QUESTION, ANSWER]),
        ({"title": QUESTION, "desc": "要过江。", "answer": ANSWER}, [f"{QUESTION}\n要过江。", ANSWER]),
        ({"text": "改成问句。", "input": "桥在那里。", "output": QUESTION}, ["改成问句。\n桥在那里。", QUESTION]),
        ({"text": QUESTION, "input": "", "output": ANSWER}, [QUESTION, ANSWER]),
        ({"query": QUESTION, "history": [f"[客户] {QUESTION}", f"[律师] {ANSWER}"]}, [QUESTION, ANSWER]),
        ({"dialogue": [{"speaker": "患者", "sentence": "发烧。"}, {"speaker": "医生", "sentence": "几天了？"}]}, None),
        ({"text": f"<human>: {QUESTION}\n<bot>: {ANSWER}"}, [QUESTION, ANSWER]),  # OIG
        ({"message_1": QUESTION, "message_2": ANSWER, "role_1": "数学家"}, [QUESTION, ANSWER]),  # CAMEL
        ({"problem": QUESTION, "generated_solution": ANSWER, "expected_answer": "江边"}, [QUESTION, ANSWER]),
        ({"inputs_pretokenized": QUESTION, "targets_pretokenized": ANSWER, "inputs": [1]}, [QUESTION, ANSWER]),  # P3
        ({"dialog_id": "1", "content": [QUESTION, ANSWER]}, [QUESTION, ANSWER]),  # NaturalConv
        ({"messages": [{"role": "usr", "content": QUESTION}, {"role": "sys", "content": ANSWER}]}, [QUESTION, ANSWER]),
        ({"task_id": 0, "reward": 1.0, "traj": TURNS, "info": {"a": 1}}, [QUESTION, ANSWER]),  # tau-bench
        (
            {"log": [{"turn id": 1, "user utterance": QUESTION, "system response": ANSWER}], "prompt": ["聊天"]},
            [QUESTION, ANSWER],  # DialogStudio
        ),
        ({"messages": [{"role": "使用者", "content": QUESTION}, {"role": "智能客服", "content": ANSWER}]}, None),
    ],
)
def test_conversations_are_read(put: Put, run: Run, row: dict[str, Any], said: list[str] | None) -> None:
    (kept,) = run(Conversations, put("a.jsonl", [row]), validation_fraction=0).kept
    assert [turn["role"] for turn in kept["messages"]] == ["user", "assistant"] * (len(kept["messages"]) // 2)
    assert said in (None, [turn["text"] for turn in kept["messages"]])


def test_a_conversation_of_baize_is_named_and_read_by_its_field(put: Put, run: Run) -> None:
    intro = "The conversation between human and AI assistant."
    rows = [{"topic": "桥", "input": f"{intro}\n[|Human|] {QUESTION}\n[|AI|] {ANSWER}\n[|Human|] "}]
    with pytest.raises(UserError, match="Baize"):
        run(Conversations, put("a.jsonl", rows))
    (kept,) = run(Conversations, put("a.jsonl", rows), source={"fields": {"text": "input"}}, validation_fraction=0).kept
    assert [turn["text"] for turn in kept["messages"]] == [QUESTION, ANSWER]


def test_the_turns_before_a_pair_may_be_its_trajectory(put: Put, run: Run) -> None:
    row = {"trajectory": [{"from": "user", "value": QUESTION}], "chosen": ANSWER, "rejected": WORSE}
    (kept,) = run(Preferences, put("a.jsonl", [row]), validation_fraction=0).kept
    assert [kept["prompt"][0]["text"], kept["chosen"]["text"]] == [QUESTION, ANSWER]


@pytest.mark.parametrize(
    ("beside", "unread"),
    [
        ({"resolved": False}, {"resolved": 1}),
        ({"success": "false"}, {"success": 1}),
        ({"resolved": True}, {}),
        ({"rationale": "先看地图。"}, {"rationale": 1}),
        ({"references": ["桥志", "江志"]}, {"references": 1}),
    ],
)
def test_failures_and_what_an_answer_rests_on_are_named(put: Put, run: Run, beside: Any, unread: Any) -> None:
    made = run(Conversations, put("a.jsonl", [{"messages": TURNS, **beside}]), validation_fraction=0)
    assert made.metrics["unread_fields"] == unread and len(made.kept) == 1


def test_a_text_that_the_model_should_read_and_no_turn_holds_is_named(put: Put, run: Run) -> None:
    """COIG's chats hold a task beside the turns: without it they teach to answer 你好 with Hello."""
    row = {
        "instruction": "译成英文",
        "conversations": [{"question": "你好", "answer": "Hello"}],
        "domain": "translation",
    }
    made = run(Conversations, put("a.jsonl", [row]), validation_fraction=0)
    assert made.metrics["unread_fields"] == {"instruction": 1}
    assert made.kept[0]["meta"]["domain"] == "translation"


def test_another_text_beside_question_and_answer_is_named_unless_it_is_both(put: Put, run: Run) -> None:
    rows = [
        {"instruction": QUESTION, "output": ANSWER, "text": "船夫说："},
        {"instruction": QUESTION + "？", "output": ANSWER, "text": f"问：{QUESTION} 答：{ANSWER}"},
    ]
    assert run(Conversations, put("a.jsonl", rows), validation_fraction=0).metrics["unread_fields"] == {"text": 1}


@pytest.mark.parametrize(
    ("field", "value"), [("corrected", "在桥头。"), ("document", "桥志。"), ("label", 0.7), ("revision", "在桥头。")]
)
def test_what_may_say_that_the_answer_is_not_the_best_is_named(put: Put, run: Run, field: str, value: Any) -> None:
    made = run(Conversations, put("a.jsonl", [{"messages": TURNS, field: value}]), validation_fraction=0)
    assert made.metrics["unread_fields"] == {field: 1} and made.kept[0]["meta"] == {field: value}


def test_thinking_turned_off_is_named_where_the_answer_thinks(put: Put, run: Run) -> None:
    thinking = [TURNS[0], {**TURNS[1], "reasoning_content": "记得。"}]
    rows = [{"messages": turns, "enable_thinking": flag} for turns in (TURNS, thinking) for flag in (True, False)]
    assert run(Conversations, put("a.jsonl", rows), validation_fraction=0).metrics["unread_fields"] == {
        "enable_thinking": 1
    }


def test_several_system_texts_are_one_and_that_of_plugins_lists_the_tools(put: Put, run: Run) -> None:
    tool = {"name": "find", "parameters": {}}
    plugin = {"role": "system", "name": "plugin", "content": json.dumps([tool])}
    row = {"messages": [{"role": "system", "content": "你答话短。"}, plugin, *TURNS]}
    (kept,) = run(Conversations, put("a.jsonl", [row]), validation_fraction=0).kept
    assert [turn["role"] for turn in kept["messages"]] == ["system", "user", "assistant"]
    assert kept["messages"][0]["text"] == "你答话短。" and kept["tools"] == [tool]


def test_a_list_that_pandas_wrote_of_numpys_is_read(put: Put, run: Run) -> None:
    cell = "[{'role': 'user', 'content': '桥在哪里？'}\n {'role': 'assistant', 'content': '在江边。'}]"
    made = run(Conversations, put("a.csv", f'messages\n"{cell}"\n'), validation_fraction=0)
    assert [turn["text"] for turn in made.kept[0]["messages"]] == [QUESTION, ANSWER]


def test_the_turns_before_a_pair_may_be_called_its_context_messages(put: Put, run: Run) -> None:
    row = {"context_messages": TURNS[:1], "chosen": TURNS[1:], "rejected": [{**TURNS[1], "content": WORSE}]}
    (kept,) = run(Preferences, put("a.jsonl", [row]), validation_fraction=0).kept
    assert kept["prompt"][0]["text"] == QUESTION and kept["rejected"]["text"] == WORSE


def test_lists_of_instructions_on_a_line_are_rows_each(put: Put, run: Run) -> None:
    rows = [[{"instruction": f"{n}加{m}？", "output": f"{n + m}。"} for m in range(2)] for n in range(2)]
    made = run(Conversations, put("a.json", json.dumps(rows, ensure_ascii=False)), validation_fraction=0)
    assert [kept["messages"][0]["text"] for kept in made.kept] == ["0加0？", "0加1？", "1加0？", "1加1？"]


def test_problems_by_their_files_are_rows(put: Put, run: Run) -> None:
    problems = {f"a/{n}.json": {"problem": f"{n}加一？", "level": "1", "solution": f"{n + 1}。"} for n in range(3)}
    made = run(Conversations, put("a.json", json.dumps(problems, ensure_ascii=False)), validation_fraction=0)
    assert [kept["messages"][1]["text"] for kept in made.kept] == ["1。", "2。", "3。"]


def test_a_pair_with_reasoning_in_fields_of_its_own_keeps_it(put: Put, run: Run) -> None:
    pair = {"prompt": QUESTION, "chosen": ANSWER, "rejected": WORSE}
    row = {**pair, "chosen_reasoning": "记得。", "rejected_reasoning": "忘了。"}
    (kept,) = run(Preferences, put("a.jsonl", [row]), validation_fraction=0).kept
    assert (kept["chosen"]["reasoning"], kept["rejected"]["reasoning"]) == ("记得。", "忘了。") and "meta" not in kept


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}, {"loss": "false"}])
def test_a_pair_that_is_not_to_be_learned_is_dropped_by_name(put: Put, run: Run, flag: dict[str, Any]) -> None:
    pair = {"prompt": QUESTION, "chosen": ANSWER, "rejected": WORSE}
    rows = [{**pair, **flag}, {**pair, "prompt": "多长？", "weight": 0.5}]
    made = run(Preferences, put("a.jsonl", rows), validation_fraction=0, max_dropped=0.9)
    assert made.metrics["dropped"] == {"nothing_to_learn": 1} and len(made.kept) == 1


@pytest.mark.parametrize(
    ("flag", "unread", "learned"),
    [
        ({"loss": "maybe"}, ("loss",), None),
        ({"train": "sometimes"}, ("train",), None),
        ({"train": ["x"]}, ("train",), None),
        ({"loss": 0.53}, (), None),
        ({"weight": "0.5"}, (), None),
        ({"train": "no"}, (), False),
        ({"loss": "否"}, (), False),
    ],
)
def test_a_flag_that_says_neither_yes_nor_no_is_named(put: Put, flag: Any, unread: Any, learned: Any) -> None:
    path = put("a.jsonl", [{"prompt": QUESTION, "response": ANSWER, **flag}])
    file = SourceFile(path, path.name, 0, Source(path=str(path)))
    with InputFile(path) as input_file:
        (row,) = open_records(file, input_file, CHAT_FORMATS).rows
    assert isinstance(row.item, ParsedChat) and row.unread == unread
    assert row.item.messages[1].train is learned


def test_a_label_of_a_conversation_in_words_that_say_nothing_known_is_named(put: Put, run: Run) -> None:
    rows = [{"conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}], "label": "😡"}]
    assert run(Conversations, put("a.jsonl", rows), validation_fraction=0).metrics["unread_fields"] == {"label": 1}


def test_tools_of_qwens_first_agents_are_read(put: Put, run: Run) -> None:
    city = {"name": "city", "description": "城市", "required": True, "schema": {"type": "string"}}
    days = {"name": "days", "type": "integer"}
    tool = {"name_for_model": "weather", "name_for_human": "天气", "description_for_model": "查天气"}
    row = {"messages": TURNS, "functions": [{**tool, "parameters": [city, days]}]}
    (kept,) = run(Conversations, put("a.jsonl", [row]), validation_fraction=0).kept
    properties = {"city": {"type": "string", "description": "城市"}, "days": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["city"]}
    assert kept["tools"] == [{"name": "weather", "description": "查天气", "parameters": schema}]


def test_calls_between_marks_of_their_own_are_read(put: Put, run: Run) -> None:
    call = '<|fn_start|>{"name": "find", "arguments": "{\\"what\\": \\"桥\\"}"}<|fn_end|>'
    turns = [("human", QUESTION), ("gpt", call), ("function", '{"at": "江边"}'), ("gpt", ANSWER)]
    row = {"conversations": [{"from": name, "value": text} for name, text in turns]}
    (kept,) = run(Conversations, put("a.jsonl", [row]), validation_fraction=0).kept
    assert kept["messages"][1]["tool_calls"] == [{"name": "find", "arguments": {"what": "桥"}}]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": QUESTION, "output": [WORSE, ANSWER], "scores": [0.1, 0.9]},
        {"instruction": QUESTION, "generations": [WORSE, ANSWER], "rating": [1, 5]},
        {"prompt": QUESTION, "responses": [WORSE, ANSWER], "score": [0.0, 1.0]},
        {"question": QUESTION, "answers": [{"text": WORSE, "pm_score": 1}, {"text": ANSWER, "pm_score": 5}]},
        {
            "chosen": [f"Human: {QUESTION}", f"Assistant: {ANSWER}"],
            "rejected": [f"Human: {QUESTION}", f"Assistant: {WORSE}"],
        },
    ],
)
def test_the_better_answer_is_chosen_by_its_score(put: Put, run: Run, row: dict[str, Any]) -> None:
    (pair,) = run(Preferences, put("a.jsonl", [row]), validation_fraction=0).kept
    assert [turn["text"] for turn in pair["prompt"]] == [QUESTION]
    assert (pair["chosen"]["text"], pair["rejected"]["text"]) == (ANSWER, WORSE)


@pytest.mark.parametrize(
    ("row", "what", "hint"),
    [
        ({"prompt": QUESTION, "response1": WORSE, "response2": ANSWER, "net_utility": -3.5}, "verdict", "response1"),
        ({"prompt": QUESTION, "reply_1": ANSWER, "reply_2": WORSE}, "verdict", "rejected: reply_2"),
        ({"prompt": QUESTION, "answer1": ANSWER, "answer2": WORSE}, "verdict", "rejected: answer2"),
        ({"prompt": QUESTION, "response_1": ANSWER, "response_2": WORSE, "choice": 1}, "verdict", "response_1"),
        ({"input_ids": [1, 2], "labels": [-100, 2], "attention_mask": [1, 1]}, "token ids", "another tokenizer"),
        (
            {"prompt": QUESTION, "completions": [{"response": ANSWER}, {"response": WORSE}]},
            "verdict",
            "list `completions`",
        ),
        (
            {"question": QUESTION, "answers": [{"answer_text": ANSWER}, {"answer_text": WORSE}]},  # PsyQA
            "verdict",
            "list `answers`",
        ),
        (
            {"messages": [{"role": "user", "content": "一步"}, {"role": "assistant", "content": "+"}] * 2},
            "label on each step",  # RLHFlow's
            "response",
        ),
        ({"english": "Where?", "chinese": "哪里？"}, "several languages", "prompt: english, response: chinese"),
        ({"translation": {"en": "Where?", "zh": "哪里？"}}, "several languages", "translation.en"),
    ],
)
def test_what_is_no_record_is_named_with_the_way_out(
    put: Put, run: Run, row: dict[str, Any], what: str, hint: str
) -> None:
    with pytest.raises(UserError, match=what) as error:
        run(Conversations, put("a.jsonl", [row, row]))
    assert error.value.hint is not None and hint in error.value.hint


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "response": ANSWER, "response_1": WORSE, "response_2": "无。"},
        {"instruction": QUESTION, "output": ANSWER, "candidates": ["甲", "乙"]},
        {"question": QUESTION, "answer": ANSWER, "zh": "中文", "en": "English"},
    ],
)
def test_a_row_with_an_answer_of_its_own_is_read_whatever_stands_beside_it(
    put: Put, run: Run, row: dict[str, Any]
) -> None:
    (kept,) = run(Conversations, put("a.jsonl", [row]), validation_fraction=0).kept
    assert [turn["text"] for turn in kept["messages"]] == [QUESTION, ANSWER]
