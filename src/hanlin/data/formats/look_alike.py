"""Data that is known for what it is, but is no record as it stands: exams and reading comprehension.

Read as conversations, an exam would teach bare letters without the choices that they stand for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from unicodedata import normalize

from hanlin.core.i18n import join_list, mark, tr
from hanlin.data.formats.agents.benchmarks import is_bfcl_answer, is_bfcl_question
from hanlin.data.formats.content.labels import is_labeled_answer
from hanlin.data.formats.content.reasoning import ROW_REASONING_FIELDS
from hanlin.data.formats.documents import TEXT_FIELDS
from hanlin.data.formats.traces.event_logs import find_joining_command, is_event_log
from hanlin.data.formats.trees.judged import find_undecided
from hanlin.data.formats.trees.languages import find_parallel
from hanlin.data.formats.trees.retrieval import is_retrieval
from hanlin.data.io.tables import is_numbered

_EXAM_QUESTIONS = (
    "question",
    "q",
    "input",
    "stem",
    "passage",
    "query",
    "prompt",
    "problem",
    "statement",
    "sentence",
    "ctx",
    "questions",
    "题干",
    "题目",
    "问题",
)
_CHOICE_LISTS = (
    "choices",
    "options",
    "option",
    "choice",
    "candidates",
    "选项",
    "option_list",
    "answer_option_list",
    "endings",
)
_CHOICE_NAMES = (
    ("a", "b", "c"),
    ("choice0", "choice1", "choice2"),
    ("choice1", "choice2"),
    ("option0", "option1", "option2"),
    ("option1", "option2"),
    ("choice_a", "choice_b", "choice_c"),
    ("option_a", "option_b", "option_c"),
    ("optiona", "optionb", "optionc"),
    ("opa", "opb", "opc"),
    ("选项a", "选项b", "选项c"),
    ("ending0", "ending1", "ending2"),
)
_ANSWERS = (
    "answer",
    "answers",
    "label",
    "answerkey",
    "answer_key",
    "answer_idx",
    "gold",
    "correct",
    "cop",
    "答案",
    "正确答案",
)
_LETTERS = re.compile(r"\(?[A-Ha-h0-9]\)?(?:[\s,，、;]*[A-Ha-h])*\.?")
_CHAT_FIELDS = ("messages", "conversations", "conversation", "instruction", "output", "chosen")
_MAX_OUTER = 3
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TOKEN_FIELDS = ("labels", "attention_mask", "loss_mask", "target_ids")
_QAS_FIELDS = ("qas", "questions")

EXAM = mark("these are questions of an exam, with choices")
UNDECIDED = mark("these are several answers to one question, without a verdict that is known")
PARALLEL = mark("these are sentences in several languages")
TOKENIZED = mark("these are rows that a tokenizer has made token ids of")
NESTED = mark("these are lists of rows inside other objects: {names}")
TURNS_TO_ASK = mark("these are questions to ask one after another, as in MT-Bench")
READING = mark("these are passages with questions about them, as in SQuAD")
STEPS = mark("these are solutions with a label on each step, for reward models")
RETRIEVAL = mark("these are queries with passages to find or not to find, for embedding models")
CALLS_TO_ASK = mark("these are questions of BFCL, without the calls that answer them")
BATCH_ANSWERS = mark("these are the answers of a batch of API requests, without the requests")
BATCH_REQUESTS = mark("these are requests of a batch to an API, without their answers")
AGENT_LOG = mark("this is the log of an agent's session, with an event on each row")
TURNS_ELSEWHERE = mark("the turns of these conversations are under `{field}`, beside other things")
TASKS_WITH_CALLS = mark("these are tasks of ToolAlpaca with the calls that are right, without their results")
ANNOTATIONS = mark("these are tasks of Label Studio with their annotations")
ROWS_AS_TEXT = mark("the field `{field}` holds rows as JSON text")
CALLS_ALONE = mark("these are the answers of BFCL, without their questions")


def describe_look_alike(row: Any) -> tuple[str, str] | None:
    """Describe a row that is no record: (what it is, the way out) in the user's language; None for any other row."""
    if not isinstance(row, dict):
        return None
    encoded = _find_encoded_row(row)
    if encoded:
        path = f".{encoded}" if _IDENTIFIER.fullmatch(encoded) else f".{json.dumps(encoded, ensure_ascii=False)}"
        command = f"`jq -c '{path} | fromjson' in.jsonl > out.jsonl`"
        return tr(ROWS_AS_TEXT, field=encoded), tr("decode them, such as with {command}", command=command)
    if is_exam(row):
        hint = tr(
            "the stage `evaluate` asks C-Eval, CMMLU, MMLU and others with `tasks`, and questions with answers; "
            "to learn from them, write choices and answer out, or name the fields with `fields`"
        )
        return tr(EXAM), hint
    if _is_reading({str(name).lower(): value for name, value in row.items()}):
        hint = tr(
            "`evaluate --questions` asks them; to learn from them, write passage and question as the prompt of a "
            "conversation, or name the fields with `fields`"
        )
        return tr(READING), hint
    if is_turns_to_ask(row):
        return tr(TURNS_TO_ASK), tr("`generate` asks them; they hold no answers to learn")
    if _has_step_labels(row):
        return tr(STEPS), tr(
            "write the steps of each as one `response`: the right ones for the stage `conversations`, or all with a "
            "`label`, right or wrong, for `unpaired_preferences`"
        )
    if is_retrieval(row):
        return tr(RETRIEVAL), tr(
            "if both are answers, name them with `fields`, such as {example}, for the stage `preferences`",
            example="{prompt: query, chosen: positive, rejected: negative}",
        )
    if is_bfcl_question(row):
        return tr(CALLS_TO_ASK), tr(
            "join them with the `ground_truth` of the same `id` in the folder `possible_answer`, such as with "
            "{command}; questions of several turns have none that can be read",
            command=_JOIN_BY_ID,
        )
    batch = _find_batch_part(row)
    if batch:
        return tr(batch), tr(
            "write request and response of the same `custom_id` into one row: {example}", example=_BATCH_ROW
        )
    if isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list) and "id" in row:
        return tr(ANNOTATIONS), tr(
            "write each as a row of its own, with text and answer; {command} takes the texts out",
            command="`jq -c '.[].data' in.json > out.jsonl`",
        )
    if is_bfcl_answer(row):
        return tr(CALLS_ALONE), tr(
            "join them with the questions of the same `id`, such as with {command}", command=_JOIN_BY_ID
        )
    return None


_JOIN_BY_ID = (
    "`jq -c -s 'group_by(.id)[] | add | select(.question and .ground_truth)' BFCL_v3_simple.json "
    "possible_answer/BFCL_v3_simple.json > out.jsonl`"
)
_BATCH_ROW = '{"request": {"messages": [...]}, "response": {...}}'


def _find_batch_part(row: Mapping[str, Any]) -> str:
    """What a row of one of the two files of a batch is; empty for any other row, and for a request with its answer."""
    if "custom_id" not in row:
        return ""
    is_unfolded = "url" in row and isinstance(row.get("messages"), list)  # by `unfold_request`, out of `body`
    body = row if is_unfolded else row.get("body", row.get("params"))
    if isinstance(body, dict):
        turns = _find_list(body, ("messages", "input"))
        last = turns[-1] if turns else None
        is_answered = isinstance(last, dict) and last.get("role") == "assistant"
        return "" if is_answered or "response" in row or "result" in row else BATCH_REQUESTS
    is_alone = not any(name in row for name in ("request", "messages", "prompt", "question", "input"))
    is_answer = isinstance(row.get("response"), dict) or isinstance(row.get("result"), dict)
    return BATCH_ANSWERS if is_alone and is_answer else ""


_STEP_ENDS = (" +", " -", " ки")
_STEP_LABELS = ("label", "labels", "rating", "ratings", "score", "scores", "step_labels", "rewards", "correctness")
_STEP_FIELDS = frozenset(("label", "rating", "score", "completions", "is_correct", "correct", "reward"))
_WHOLE_ANSWERS = frozenset(("response", "output", "messages", "conversations", "conversation", "chosen"))


def _has_step_labels(row: Mapping[str, Any]) -> bool:
    """Whether a row labels each step of a solution: PRM800K, Math-Shepherd, ProcessBench, TRL's stepwise rows."""
    label = row.get("label")
    turns = _find_list(row, ("conversations", "messages"))
    if turns and _are_labels_in_turn(turns):
        return True
    if not _WHOLE_ANSWERS.isdisjoint(row):
        return False
    if isinstance(label, dict):
        return isinstance(label.get("steps"), list)
    if isinstance(label, str) and isinstance(row.get("input"), str):
        return sum(line.rstrip().endswith(_STEP_ENDS) for line in label.splitlines()) > 1
    if isinstance(label, list) and isinstance(row.get("process"), str):
        return True
    steps = _find_list(row, ("steps", "completions"))
    if "steps" in row and steps and all(isinstance(step, dict) for step in steps):
        return not any(_STEP_FIELDS.isdisjoint(step) for step in steps)
    if not steps or not all(isinstance(step, str) for step in steps):
        return False
    if "steps" in row and "answer" not in row and type(label) is int:
        return True  # the number of the first wrong step
    lists = [row[name] for name in _STEP_LABELS if isinstance(row.get(name), list)]
    return any(len(labels) == len(steps) and _are_step_labels(labels, "steps" in row) for labels in lists)


def _find_list(row: Mapping[str, Any], names: Collection[str]) -> list[Any]:
    """The first list under one of some names that is not empty; empty without any."""
    return next((row[name] for name in names if isinstance(row.get(name), list) and row[name]), [])


def _are_labels_in_turn(turns: list[Any]) -> bool:
    """Whether the answers of a chat are nothing but labels of the steps that the user says, + and -."""
    said = [str(turn.get("content", turn.get("value"))).strip() for turn in turns[1::2] if isinstance(turn, dict)]
    return len(said) > 1 and all(text in ("+", "-") for text in said)


def _are_step_labels(labels: list[Any], has_steps: bool) -> bool:
    """Whether labels say right or wrong, of steps also by numbers; those beside several answers would rank them."""
    if not has_steps:
        return all(isinstance(label, bool) for label in labels)
    return all(isinstance(label, int | float) or label in ("+", "-") for label in labels)


_ROW_NAMES = frozenset((*_CHAT_FIELDS, "prompt", "question", "query", "response", "completion", "answer", "text"))


def _find_encoded_row(row: Mapping[str, Any]) -> str:
    """The field of a row that holds a row of chats or texts as JSON text, beside no other text; else empty."""
    texts = [name for name, value in row.items() if isinstance(value, str) and (len(value) > 64 or "{" in value)]
    if len(texts) != 1 or any(isinstance(value, list | dict) for value in row.values()):
        return ""
    text = row[texts[0]].strip()
    if not text.startswith("{") or not text.endswith("}") or not _ROW_NAMES.isdisjoint(row.keys() - {"text"}):
        return ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    names = _ROW_NAMES & value.keys() if isinstance(value, dict) else ()
    is_row = bool(names) and any(isinstance(value[name], str | list) for name in names)
    return str(texts[0]) if is_row and (texts[0] != "text" or names != {"text"}) else ""


def describe_unknown(row: Any) -> tuple[str, str] | None:
    """Describe a row in no known format: (what it is, the way out) in the user's language; None if nothing is known."""
    if not isinstance(row, dict):
        return None
    undecided = find_undecided(row)
    if undecided:
        if len(undecided) == 1:
            return tr(UNDECIDED), tr(
                "write the best of the list `{field}` as `chosen` and the others as `rejected` for the stage "
                "`preferences`, or the one to learn as `response` for `conversations`",
                field=undecided[0],
            )
        example = f"{{chosen: {undecided[0]}, rejected: {undecided[-1]}}}"
        hint = tr(
            "name the better one with `fields` where it is always the same, such as {example} for the stage "
            "`preferences`, or {answer} for `conversations`; else write `chosen` and `rejected`",
            example=example,
            answer=f"{{response: {undecided[0]}}}",
        )
        return tr(UNDECIDED), hint
    if _is_event(row):
        return describe_log([row])
    if isinstance(row.get("Instructions"), list) and isinstance(row.get("Golden_Answers"), list):
        return tr(TASKS_WITH_CALLS), tr(
            "what an agent did for them is read: rows whose `Instances` have `intermediate_steps`"
        )
    field = _find_turn_field(row)
    if field:
        hint = tr("name the field with `fields`: {example}", example=f"{{messages: {field}}}")
        return tr(TURNS_ELSEWHERE, field=field), hint
    if _is_tokenized(row):
        hint = tr("read the texts that they were made of: the ids mean other texts to another tokenizer")
        return tr(TOKENIZED), hint
    languages = find_parallel(row)
    if languages:
        hint = tr(
            "to learn to translate, name them with `fields`, such as {example}, or write an instruction beside them",
            example=f"{{prompt: {languages[0]}, response: {languages[1]}}}",
        )
        return tr(PARALLEL), hint
    return None


def describe_log(rows: Sequence[Any]) -> tuple[str, str]:
    """Describe the rows of a session's log, as `describe_unknown` does."""
    command = find_joining_command(rows)
    if command:
        return tr(AGENT_LOG), tr(
            "write the messages of a session into one row, such as with {command}", command=command
        )
    return tr(AGENT_LOG), tr("write the messages of each session into one row: {example}", example=_CHAT_ROW)


_CHAT_ROW = '{"messages": [{"role": ..., "content": ...}, ...]}'
_SESSION_FIELDS = ("sessionId", "session_id", "leafUuid")


def _is_event(row: Mapping[str, Any]) -> bool:
    """Whether a row is an event in a log: {type, sessionId, message} of Claude Code, {type, payload} of Codex."""
    if not isinstance(row.get("type"), str):
        return False
    is_claude = any(name in row for name in _SESSION_FIELDS) and any(name in row for name in ("message", "summary"))
    return is_claude or isinstance(row.get("payload"), dict)


def _find_turn_field(row: Mapping[str, Any]) -> str:
    """The field of a row that holds turns of a user and of the assistant, if it is the only one; else empty.

    One with a usual name is read by itself: the row is of another stage, or has something that says what it is.
    """
    found = [str(name) for name, value in row.items() if isinstance(value, list) and _holds_both_roles(value)]
    return found[0] if len(found) == 1 and found[0] not in _CHAT_FIELDS else ""


def _holds_both_roles(turns: list[Any]) -> bool:
    roles = {turn.get("role") for turn in turns if isinstance(turn, dict) and isinstance(turn.get("content"), str)}
    return {"user", "assistant"} <= roles


def _is_tokenized(row: Mapping[str, Any]) -> bool:
    """Whether a row holds token ids, and nothing of the text that they stand for."""
    ids = row.get("input_ids")
    is_ids = isinstance(ids, list) and bool(ids) and all(isinstance(token_id, int) for token_id in ids[:20])
    return is_ids and (len(row) == 1 or any(name in row for name in _TOKEN_FIELDS))


def find_nested_log(row: Any) -> tuple[str, str] | None:
    """Describe the only row of a file that holds the log of a session as a list; None for any other row."""
    lists = row.values() if isinstance(row, dict) else ()
    log = next((value for value in lists if isinstance(value, list) and is_event_log(value)), None)
    return None if log is None else describe_log(())


def describe_nested(row: Any, depth: int = 2) -> tuple[str, str] | None:
    """Describe the only row of a file that holds lists of objects, as `describe_unknown` does.

    Args:
        row: The row.
        depth: Names on the way to a list that counts: 2 for those below objects, 1 for those of the row itself too.
    """
    found = [names for names in _list_nested(row, ()) if len(names) >= depth] if isinstance(row, dict) else []
    if not found or any(path[0].lower() in (*_CHAT_FIELDS, *_DIALOGUE_FIELDS) for path in found):
        return None
    names = [".".join(path) for path in found]
    path = "".join(
        f".{name}" if _IDENTIFIER.fullmatch(name) else f".{json.dumps(name, ensure_ascii=False)}" for name in found[0]
    )
    example = f"jq '{path}' in.json > out.json"
    hint = tr("write each list to a file of its own, such as with {example}", example=example)
    return tr(NESTED, names=join_list(names[:5])), hint


def _list_nested(value: Any, outer: tuple[str, ...]) -> list[tuple[str, ...]]:
    """The lists of objects in an object and in those below it, each as the names on the way to it."""
    found: list[tuple[str, ...]] = []
    for name, content in value.items():
        if isinstance(content, dict) and len(outer) < _MAX_OUTER:
            found += _list_nested(content, (*outer, str(name)))
        elif isinstance(content, list) and content and isinstance(content[0], dict):
            found.append((*outer, str(name)))
    return found


def is_turns_to_ask(row: Any) -> bool:
    """Whether a row has questions to ask one after another, as MT-Bench: as a dialogue, half would pass for answers."""
    turns = row.get("turns") if isinstance(row, dict) else None
    is_text = isinstance(turns, list) and bool(turns) and all(isinstance(turn, str) for turn in turns)
    return is_text and "question_id" in row


def is_exam(row: Any) -> bool:
    """Whether a row is a question with its choices: in fields, in a list, or in the columns of MMLU's tables."""
    if not isinstance(row, dict):
        return False
    if is_numbered(row) and len(row) == 6:
        return row["6"] in ("A", "B", "C", "D")
    names = {str(name).lower(): value for name, value in row.items()}
    if any(name in names for name in _CHAT_FIELDS) or not any(name in names for name in _EXAM_QUESTIONS):
        return False
    if isinstance(names.get("response"), str) and not ROW_REASONING_FIELDS.isdisjoint(names):
        return False  # a question with its reasoning and answer, which keeps the choices it was made of
    if any(all(isinstance(names.get(name), str | int | float) for name in group) for group in _CHOICE_NAMES):
        return True
    if isinstance(names.get("target_scores"), dict):
        return True
    lists = [_read_choices(names.get(name)) for name in _CHOICE_LISTS]
    choices = next((found for found in lists if found), None)
    if choices and isinstance(names.get("questions"), list) and isinstance(choices, list):
        return isinstance(choices[0], list | dict)  # a passage with several questions, as in RACE
    if not choices or len(choices) < 2:
        return False
    answers = [names[name] for name in _ANSWERS if names.get(name) not in (None, "", [])]
    return not answers or any(_names_choice(answer, choices) for answer in answers)


def _read_choices(value: Any) -> Any:
    """The choices of a question as a list or an object; a text has one on each line."""
    if isinstance(value, str):
        return [line.strip() for line in value.splitlines() if line.strip()]
    return value if isinstance(value, list | dict) else None


def _names_choice(answer: Any, choices: Any) -> bool:
    """Whether an answer is the letter, the index or the text of a choice, or a list of them."""
    if isinstance(answer, list):
        return all(_names_choice(item, choices) for item in answer)
    if isinstance(answer, int):
        return True
    return isinstance(answer, str) and (
        bool(_LETTERS.fullmatch(normalize("NFKC", answer).strip())) or answer in choices
    )


def _is_reading(names: Mapping[str, Any]) -> bool:
    if isinstance(names.get("context"), str) and isinstance(names.get("question"), str):
        answers = names.get("answers")
        return (isinstance(answers, dict) and "text" in answers) or _is_answer_spans(answers)
    paragraphs = names.get("paragraphs", [names])
    first = paragraphs[0] if isinstance(paragraphs, list) and paragraphs else None
    return isinstance(first, dict) and any(
        isinstance(first.get(name), list) and first[name] and isinstance(first[name][0], dict)
        for name in _QAS_FIELDS
    )  # fmt: skip


def _is_answer_spans(answers: Any) -> bool:
    return isinstance(answers, list) and bool(answers) and isinstance(answers[0], dict) and "text" in answers[0]


_DIALOGUE_FIELDS = ("dialogue", "dialog", "turns", "history")


_PAIRED_WORDS = (
    *(("chosen", "rejected"), ("chosen", "reject"), ("accepted", "rejected"), ("accept", "reject")),
    *(("preferred", "rejected"), ("better", "worse"), ("best", "worst"), ("winner", "loser"), ("win", "lose")),
    *(
        ("good", "bad"),
        ("好", "坏"),
        ("好", "差"),
        ("优", "劣"),
        ("优", "差"),
        ("正", "负"),
        ("采纳", "拒绝"),
        ("接受", "拒绝"),
    ),
)
"""Words in the names of a better and of a worse answer."""


def _is_named_as_pair(names: Collection[str]) -> bool:
    """Whether two of the names are those of a better and a worse answer."""
    return any(name.startswith("rejected") for name in names) or any(
        better in name and name.replace(better, worse) in names for name in names for better, worse in _PAIRED_WORDS
    )


_WORD_ENDS = re.compile(r"[^a-z]+")


def guess_stage(rows: list[Any]) -> str:
    """Guess the stage that rows in no known format are for, by the names of their fields."""
    from hanlin.data.formats.preferences import PAIRED_FIELDS  # a stage that reads documents needs no other formats
    from hanlin.data.formats.questions import ANSWER_FIELDS, QUESTION_FIELDS

    names = {str(name).lower() for row in rows if isinstance(row, dict) for name in row}
    if names & PAIRED_FIELDS or _is_named_as_pair(names):
        return "preferences"
    if any(map(is_labeled_answer, rows)):
        return "unpaired_preferences"
    chat_fields = (*QUESTION_FIELDS, *ANSWER_FIELDS, *_CHAT_FIELDS, *_DIALOGUE_FIELDS)
    if not names.isdisjoint(chat_fields) or any(_holds_objects(row) for row in rows):
        return "conversations"
    words = {word for name in names for word in (name, *_WORD_ENDS.split(name))}
    is_text = len(names) < 2 or not words.isdisjoint((*TEXT_FIELDS, "review", "reviews", "html"))
    return "corpus" if is_text else "conversations"


def _holds_objects(row: Any) -> bool:
    values = row.values() if isinstance(row, dict) else [row]
    return any(isinstance(value, list) and value and isinstance(value[0], dict) for value in values)
