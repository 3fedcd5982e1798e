"""Rows of BFCL, the Berkeley function calling leaderboard, and answer trees of ToolBench, in forms that others share.

    {"question": [[turns]], "function": [tools], "ground_truth": [{"name": {"argument": [20, "20"]}}]}
    {"tree": {...}, "answer_generation": {"function": [tools], "train_messages": [[turns], [turns, more turns]]}}

The first value that BFCL allows for an argument is read; an empty first one means that it is left out. Of ToolBench's
conversations each begins with the one before it, so that the last one holds them all.

Source: the files of gorilla/berkeley-function-call-leaderboard and of OpenBMB/ToolBench.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.data.formats.content.call_texts import parse_calls
from hanlin.data.ledger import Drop

_TREE = "answer_generation"
BENCHMARK_FIELDS = frozenset(("ground_truth", _TREE))
"""Fields that only rows with an answer have."""
_ANSWERED = frozenset((
    *("answer", "answers", "response", "output", "completion", "messages", "conversations", "chosen", "tools"),
))  # fmt: skip
"""Fields of rows that say themselves what answers them."""
_TREE_READ = ("function", "train_messages", "query", "final_answer")
Row = dict[str, Any]


def unfold_benchmark(row: Any) -> Any:
    """Write a row of BFCL with its answer as a query, tools and calls, and a tree of ToolBench as messages with tools.

    Returns:
        The new row, a Drop for a tree without a valid answer, or any other row as it is.
    """
    if not isinstance(row, dict) or BENCHMARK_FIELDS.isdisjoint(row):
        return row
    if isinstance(row.get(_TREE), dict) and isinstance(row[_TREE].get("train_messages"), list):
        return _unfold_tree(row)
    calls = _read_truth(row.get("ground_truth")) if is_bfcl_question(row) else None
    turns = _find_only_turns(row.get("question"))
    if calls is None or turns is None or "function" not in row:
        return row
    rest = {name: value for name, value in row.items() if name not in ("question", "function", "ground_truth")}
    tools = row["function"] if isinstance(row["function"], list) else [row["function"]]
    return {**rest, "query": turns, "tools": tools, "answers": calls}


def is_bfcl_question(row: Mapping[str, Any]) -> bool:
    """Whether a row asks for calls as BFCL does: turns and functions, or turns and the classes that it simulates."""
    question = row.get("question")
    if not _ANSWERED.isdisjoint(row) or not (isinstance(question, str) or _find_lists_of_turns(question) is not None):
        return False
    functions = row.get("function")
    if not functions:
        return "involved_classes" in row
    functions = functions if isinstance(functions, list) else [functions]
    return all(isinstance(tool, dict) and "name" in tool and "parameters" in tool for tool in functions)


def is_bfcl_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row is of the other file of BFCL, which holds the answers only."""
    truth = row.get("ground_truth")
    if not row.keys() <= {"id", "ground_truth"} or not isinstance(truth, list) or not truth:
        return False
    turns = truth if all(isinstance(calls, list) for calls in truth) else [truth]
    return any(turns) and all(not calls or _read_truth(calls) is not None for calls in turns)


def _find_lists_of_turns(question: Any) -> list[list[Row]] | None:
    is_lists = isinstance(question, list) and bool(question) and all(isinstance(turns, list) for turns in question)
    if not is_lists or not all(isinstance(turn, dict) and "role" in turn for turns in question for turn in turns):
        return None
    return question  # type: ignore[no-any-return]


def _find_only_turns(question: Any) -> str | list[Row] | None:
    lists = _find_lists_of_turns(question)
    return question if isinstance(question, str) else lists[0] if lists is not None and len(lists) == 1 else None


def _read_truth(truth: Any) -> list[Row] | None:
    """The calls of an answer: objects with the values that are allowed, or texts of Python; None for anything else."""
    if not isinstance(truth, list) or not truth:
        return None
    if all(isinstance(call, str) for call in truth):
        calls = parse_calls(f"[{', '.join(truth)}]")
        return None if isinstance(calls, Drop) else [{"name": c.name, "arguments": dict(c.arguments)} for c in calls]
    read = []
    for call in truth:
        if not isinstance(call, dict) or len(call) != 1 or not isinstance(next(iter(call.values())), dict):
            return None
        ((name, allowed),) = call.items()
        read.append({"name": name, "arguments": _take_first_values(allowed)})
    return read


def _take_first_values(allowed: Mapping[str, Any]) -> Row:
    first = {name: values[0] if isinstance(values, list) and values else values for name, values in allowed.items()}
    return {name: _take_inner_values(value) for name, value in first.items() if value != ""}


def _take_inner_values(value: Any) -> Any:
    if isinstance(value, dict):
        return _take_first_values(value)
    return [_take_inner_values(item) for item in value] if isinstance(value, list) else value


def _unfold_tree(row: Row) -> Row | Drop:
    answer = row[_TREE]
    for name, flag in (("win", row.get("win")), ("valid_data", answer.get("valid_data"))):
        if flag is False:
            return Drop("marked_wrong", f"{name}: false")
    chats = [chat for chat in answer["train_messages"] if isinstance(chat, list)]
    rest = {name: value for name, value in row.items() if name != _TREE}
    more = {f"{_TREE}.{name}": value for name, value in answer.items() if name not in _TREE_READ}
    return {**rest, **more, "messages": chats[-1] if chats else [], "tools": answer.get("function") or []}
