"""Every format of preference pairs gives the same prompt and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Preferences
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.core.records import Message, Preference, read_jsonl
from hanlin.data.formats.convert import convert
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.preferences import PREFERENCE_FORMATS, ParsedPreference
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
USER = {"role": "user", "content": "你好"}
GOOD, BAD = {"role": "assistant", "content": "你好呀"}, {"role": "assistant", "content": "Hello"}


def read(path: Path, **source: Any) -> tuple[str, list[ParsedPreference | Drop]]:
    file = SourceFile(path, path.name, 0, Source(path=str(path), **source))
    with InputFile(path) as input_file:
        reader = open_records(file, input_file, PREFERENCE_FORMATS)
        return reader.format.partition(": ")[2], [found.item for found in reader.rows]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("paired_messages", {"prompt": "你好", "chosen": [USER, GOOD], "rejected": [USER, BAD]}),
        ("paired_messages", {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}),
        ("paired_messages", {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}),
        ("paired_messages", {"prompt": "你好", "chosen": [GOOD], "rejected": [BAD]}),
        (
            "paired_sharegpt",
            {
                "conversations": [{"from": "human", "value": "你好"}],
                "chosen": {"from": "gpt", "value": "你好呀"},
                "rejected": {"from": "gpt", "value": "Hello"},
            },
        ),
        ("paired_sharegpt", {"prompt": [USER], "chosen": "你好呀", "rejected": "Hello"}),
        (
            "paired_sharegpt",
            {
                "id": "a#1",
                "prompt": [{"role": "user", "text": "你好"}],
                "chosen": {"role": "assistant", "text": "你好呀"},
                "rejected": {"role": "assistant", "text": "Hello"},
            },
        ),
        ("paired_alpaca", {"instruction": "你好", "input": "", "chosen": "你好呀", "rejected": "Hello"}),
        ("paired_alpaca", {"instruction": "你好", "input": "", "output": ["你好呀", "Hello"]}),
        ("language_pairs", {"question": "你好", "answer_zh": "你好呀", "answer_en": "Hello"}),
        ("language_pairs", {"prompt": "你好", "english": "Hello", "chinese": "你好呀"}),
        ("paired_answers", {"prompt": "你好", "chosen": "你好呀", "rejected": "Hello"}),
        ("paired_answers", {"question": "你好", "response_j": "你好呀", "response_k": "Hello"}),
        (
            "paired_answers",
            {"chosen": "\n\nHuman: 你好\n\nAssistant: 你好呀", "rejected": "\n\nHuman: 你好\n\nAssistant: Hello"},
        ),
    ],
)
def test_every_format_gives_the_same_preference(put: Put, name: str, row: dict[str, Any]) -> None:
    found, (pair,) = read(put("a.jsonl", [row]))
    assert found == name and isinstance(pair, ParsedPreference)
    assert pair.prompt == (Message("user", "你好"),)
    assert (pair.chosen.text, pair.rejected.text) == ("你好呀", "Hello")


def test_scores_are_kept(put: Put) -> None:
    row = {"prompt": "问", "chosen": "好", "rejected": "坏", "score_chosen": 8.5, "score_rejected": 7}
    _, (pair,) = read(put("a.jsonl", [row]))
    assert isinstance(pair, ParsedPreference) and pair.scores == (8.5, 7.0)


def test_fields_name_the_answers(put: Put) -> None:
    fields = {"prompt": "题", "chosen": "中", "rejected": "英"}
    _, (pair,) = read(put("a.jsonl", [{"题": "你好", "中": "你好呀", "英": "Hello"}]), fields=fields)
    assert isinstance(pair, ParsedPreference) and pair.chosen.text == "你好呀"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": [USER, GOOD], "rejected": [{"role": "user", "content": "别的"}, BAD]}, "different_prompts"),
        ({"chosen": [USER], "rejected": [USER]}, "no_answer"),
        ({"conversations": [{"from": "gpt", "value": "你好"}], "chosen": "甲", "rejected": "乙"}, "no_question"),
        ({"conversations": [{"from": "human", "value": "你好"}], "chosen": USER, "rejected": BAD}, "unknown_role"),
        ({"instruction": "", "chosen": "甲", "rejected": "乙"}, "no_question"),
    ],
)
def test_a_row_without_two_answers_is_dropped_with_a_reason(put: Put, row: dict[str, Any], reason: str) -> None:
    _, (pair,) = read(put("a.jsonl", [row]))
    assert isinstance(pair, Drop) and pair.reason == reason


def test_unpaired_answers_are_refused_in_one_sentence(put: Put) -> None:
    with pytest.raises(UserError, match="single answers labeled good or bad"):
        read(put("a.jsonl", [{"messages": [USER, GOOD], "label": True}]))


# ------------------------------------------------------------------------------------------- more forms of pairs


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("paired_answers", {"chosen": "Human: 你好\nAssistant: 你好呀", "rejected": "Human: 你好\nAssistant: Hello"}),
        ("paired_answers", {"prompt": "\n\nHuman: 你好\n\nAssistant:", "chosen": " 你好呀", "rejected": " Hello"}),
        ("paired_answers", {"prompt": "Human: 你好", "chosen": "Assistant: 你好呀", "rejected": "Assistant: Hello"}),
        ("paired_answers", {"prompt": "你好", "pos_resp": "你好呀", "neg_resp": "Hello", "type": "拒绝"}),
        ("paired_answers", {"prompt": "你好", "chosen": ["你好呀"], "rejected": ["Hello"]}),
        ("paired_answers", {"query": "你好", "response": "你好呀", "rejected_response": "Hello"}),
        ("paired_alpaca", {"instruction": "你好", "output": "你好呀", "rejected": "Hello"}),
        ("paired_sharegpt", {"messages": [USER, GOOD], "rejected_response": "Hello"}),
        ("paired_messages", {"messages": [USER, GOOD], "rejected_messages": [BAD]}),
        ("paired_messages", {"messages": [USER, GOOD], "rejected_messages": [USER, BAD]}),
        (
            "paired_messages",
            {"prompt": "你好", "messages": [USER, GOOD], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        ),
        ("paired_messages", {"chosen_messages": [USER, GOOD], "rejected_messages": [USER, BAD]}),
        (
            "paired_sharegpt",
            {
                "context": [{"role": "human", "text": "你好"}],
                "chosen": {"role": "assistant", "text": "你好呀"},
                "rejected": {"role": "assistant", "text": "Hello"},
            },
        ),
        ("paired_messages", {"chosen": json.dumps([USER, GOOD]), "rejected": json.dumps([USER, BAD])}),
    ],
)
def test_other_tools_forms_give_the_same_preference(put: Put, name: str, row: dict[str, Any]) -> None:
    found, (pair,) = read(put("a.jsonl", [row]))
    assert found == name and isinstance(pair, ParsedPreference)
    assert pair.prompt == (Message("user", "你好"),) and pair.unread == ()
    assert (pair.chosen, pair.rejected) == (Message("assistant", "你好呀"), Message("assistant", "Hello"))


@pytest.mark.parametrize(
    "history",
    [
        [["一楼有什么？", "阅览室。"]],
        [{"role": "user", "content": "一楼有什么？"}, {"role": "assistant", "content": "阅览室。"}],
    ],
)
def test_turns_before_the_question_are_part_of_the_prompt(put: Put, history: list[Any]) -> None:
    answers = {"response_chosen": "期刊室。", "response_rejected": "不知道。"}
    row = {"system": "你是馆员。", "history": history, "question": "二楼呢？", **answers}
    _, (pair,) = read(put("a.jsonl", [row]))
    assert isinstance(pair, ParsedPreference) and pair.unread == ()
    assert [turn.role for turn in pair.prompt] == ["system", "user", "assistant", "user"]
    assert [turn.text for turn in pair.prompt] == ["你是馆员。", "一楼有什么？", "阅览室。", "二楼呢？"]


@pytest.mark.parametrize("question", ["问题", "提问"])
@pytest.mark.parametrize(
    ("good", "bad"),
    [("好回答", "坏回答"), ("优质回答", "劣质回答"), ("好答案", "坏答案"), ("正例", "负例"), ("回答", "差回答")],
)
def test_columns_with_chinese_names_are_pairs(put: Put, question: str, good: str, bad: str) -> None:
    form, (pair,) = read(put("a.jsonl", [{question: "你好", good: "你好呀", bad: "Hello"}]))
    assert isinstance(pair, ParsedPreference) and form == "paired_answers" and pair.unread == ()
    assert [pair.prompt[0].text, pair.chosen.text, pair.rejected.text] == ["你好", "你好呀", "Hello"]


@pytest.mark.parametrize(
    "names", [("rejected_1", "rejected_2"), ("rejected2", "rejected10"), ("rejected", "rejected_0")]
)
@pytest.mark.parametrize("as_turns", [False, True])
def test_rejected_answers_in_numbered_columns_are_as_many_pairs(
    put: Put, names: tuple[str, str], as_turns: bool
) -> None:
    answers = [[USER, BAD], [USER, GOOD | {"content": "嗯"}]] if as_turns else ["Hello", "嗯"]
    row = {"prompt": "你好", "chosen": [USER, GOOD] if as_turns else "你好呀", "rejected_3": ""}
    _, pairs = read(put("a.jsonl", [row | dict(zip(names, answers, strict=True))]))
    assert [pair.rejected.text for pair in pairs if isinstance(pair, ParsedPreference)] == ["Hello", "嗯"]
    assert all(isinstance(pair, ParsedPreference) and pair.unread == () and not pair.meta for pair in pairs)


def test_numbered_columns_may_hold_lists_of_rejected_answers(put: Put) -> None:
    row = {"prompt": "你好", "chosen": "你好呀", "rejected_1": "Hello", "rejected_2": ["嗯", "哦"]}
    _, pairs = read(put("a.jsonl", [row]))
    assert [pair.rejected.text for pair in pairs if isinstance(pair, ParsedPreference)] == ["Hello", "嗯", "哦"]


def test_several_rejected_answers_are_as_many_pairs(put: Put, run: Callable[..., Made]) -> None:
    row = {"prompt": "怎么挑西瓜？", "chosen": "听声音。", "rejected": ["不清楚。", "都行。"]}
    _, pairs = read(put("a.jsonl", [row]))
    assert [pair.rejected.text for pair in pairs if isinstance(pair, ParsedPreference)] == ["不清楚。", "都行。"]
    turns = [[USER, BAD], [USER, {"role": "assistant", "content": "Hi"}]]
    _, pairs = read(put("b.jsonl", [{"messages": [USER, GOOD], "rejected_messages": turns}]))
    assert [pair.rejected.text for pair in pairs if isinstance(pair, ParsedPreference)] == ["Hello", "Hi"]
    made = run(Preferences, put("c.jsonl", [row]))
    assert made.ledger["rows_in"] == 2 == len(made.kept)


TOOL = {"name": "opening_hours", "description": "查询开放时间", "parameters": {"type": "object", "properties": {}}}


def test_tools_are_part_of_a_pair_and_never_text_of_its_metadata(put: Put, run: Callable[..., Made]) -> None:
    call = json.dumps({"name": "opening_hours", "arguments": {"room": "阅览室"}}, ensure_ascii=False)
    human = {"from": "human", "value": "阅览室几点关门？"}
    called = {"conversations": [human], "chosen": {"from": "function_call", "value": call}, "rejected": "五点吧。"}
    answered = {
        "conversations": [human, {"from": "function_call", "value": call}, {"from": "observation", "value": "九点"}],
        "chosen": "晚上九点。",
        "rejected": "不知道。",
    }
    rows = [{**row, "tools": json.dumps([TOOL], ensure_ascii=False)} for row in (called, answered)]
    made = run(Preferences, put("a.jsonl", rows))
    assert [row["tools"] for row in made.kept] == [[TOOL]] * 2 and all("meta" not in row for row in made.kept)
    assert made.kept[0]["chosen"]["tool_calls"][0]["name"] == "opening_hours"
    assert [turn["role"] for turn in made.kept[1]["prompt"]] == ["user", "assistant", "tool"]
    assert made.ledger["unread_fields"] == {}
    assert [row["tools"] for row in run(Preferences, made.out).kept] == [[TOOL]] * 2


def test_pairs_with_other_tools_are_no_duplicates(put: Put, run: Callable[..., Made]) -> None:
    row = {"prompt": "几点？", "chosen": "九点。", "rejected": "不知道。"}
    assert len(run(Preferences, put("a.jsonl", [row, {**row, "tools": [TOOL]}])).kept) == 2


def test_converted_pairs_keep_their_tools(put: Put, tmp_path: Path) -> None:
    source = put("a.jsonl", [{"prompt": "几点？", "chosen": "九点。", "rejected": "不知道。", "tools": [TOOL]}])
    convert([str(source)], "dpo", tmp_path / "out.jsonl")
    _, (pair,) = read(tmp_path / "out.jsonl")
    assert isinstance(pair, ParsedPreference) and pair.tools == (TOOL,)


def test_fields_that_a_pair_does_not_carry_are_named(put: Put) -> None:
    turns = [{**USER, "lang": "zh"}, {**GOOD, "score": 5}]
    _, (pair,) = read(put("a.jsonl", [{"messages": turns, "rejected_response": "Hello", "boxes": {"x": 1}}]))
    assert isinstance(pair, ParsedPreference) and pair.unread == ("boxes", "turn.lang", "turn.score")


def test_reasoning_is_part_of_both_answers(put: Put) -> None:
    row = {"prompt": "一加一？", "chosen": "<think>数一数。</think>二。", "rejected": "<think>猜。</think>三。"}
    _, (pair,) = read(put("a.jsonl", [row]))
    assert isinstance(pair, ParsedPreference) and (pair.chosen.text, pair.rejected.reasoning) == ("二。", "猜。")


def test_a_question_that_only_begins_like_a_tag_is_a_question(put: Put) -> None:
    _, (pair,) = read(put("a.jsonl", [{"prompt": "用户：这个词怎么翻译？", "chosen": "user", "rejected": "别的"}]))
    assert isinstance(pair, ParsedPreference) and pair.prompt[0].text == "用户：这个词怎么翻译？"


def test_rows_in_other_forms_than_the_first_are_read_as_what_they_are(put: Put) -> None:
    rows = [
        {"prompt": "你好", "chosen": "你好呀", "rejected": "Hello"},
        {"messages": [USER, GOOD], "rejected_response": "Hello"},
        {"question": "你好", "answer_zh": "你好呀", "answer_en": "Hello"},
    ]
    _, pairs = read(put("a.jsonl", rows))
    answers = [(pair.chosen.text, pair.rejected.text) for pair in pairs if isinstance(pair, ParsedPreference)]
    assert answers == [("你好呀", "Hello")] * 3


@pytest.mark.parametrize(
    "before",
    [
        {"history": [{"human": "几点？", "assistant": "八点。"}]},
        {"context": [{"role": "user", "content": "几点？"}, {"role": "assistant", "content": "八点。"}]},
        {"chat_history": '[["几点？", "八点。"]]'},
    ],
)
def test_every_form_of_history_is_read_and_none_of_its_fields_called_unread(put: Put, before: dict[str, Any]) -> None:
    _, (item,) = read(put("a.jsonl", [{**before, "question": "你好", "chosen": "你好呀", "rejected": "Hello"}]))
    assert isinstance(item, ParsedPreference) and item.unread == () and item.meta == {}
    assert [turn.text for turn in item.prompt] == ["几点？", "八点。", "你好"]


def test_a_second_system_text_of_a_pair_is_named(put: Put) -> None:
    row = {"prompt": [{"role": "system", "content": "你是馆员。"}, USER], "chosen": [GOOD], "rejected": [BAD]}
    _, (item,) = read(put("a.jsonl", [{**row, "system": "你是助手。"}]))
    assert isinstance(item, ParsedPreference) and item.meta == {"system": "你是助手。"}


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        *(("preferred", "other"), ("preferred_response", "dispreferred_response"), ("better", "worse"), ("y_w", "y_l")),
        *(("winner", "loser"), ("best", "worst"), ("accept", "reject"), ("chosen", "reject"), ("win", "lose")),
        *(("good_response", "bad_response"), ("preferred_answer", "rejected_answer"), ("response_w", "response_l")),
        *(("chosen_answer", "rejected_answer"), ("winning_response", "losing_response"), ("superior", "inferior")),
        *(
            ("preferred", "non_preferred"),
            ("better_answer", "worse_answer"),
            ("positive_response", "negative_response"),
        ),
    ],
)
def test_two_answers_whose_names_say_which_is_better_are_a_pair(put: Put, run: Run, better: str, worse: str) -> None:
    made = run(Preferences, put("a.jsonl", [{"prompt": "几点开门？", better: "九点。", worse: "不知道。"}]))
    (pair,) = read_jsonl(made.out / "preferences.jsonl", Preference)
    assert (pair.prompt[-1].text, pair.chosen.text, pair.rejected.text) == ("几点开门？", "九点。", "不知道。")
    assert made.ledger["unread_fields"] == {}
