"""Questions of Hanlin's tasks in the columns of the data sets that lm-evaluation-harness's task files name.

So that its task files ask what lies in a local folder in its authors' layout, which is not that of the hub.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hanlin.evaluate.tasks.items import Item

LETTERS = "ABCDEFGH"
Convert = Callable[[Item], dict[str, Any]]


def _lettered(item: Item) -> dict[str, Any]:
    return {"text": list(item.choices), "label": list(LETTERS[: len(item.choices)])}


def _blank(item: Item, gap: str = "_") -> tuple[str, list[str], int]:
    """A sentence from its two beginnings: what they share with a gap, the two fillings, and where the gap is."""
    first, second = item.choices
    words = zip(first.split(" "), second.split(" "), strict=False)
    common = " ".join(itertools.takewhile(bool, (one if one == two else "" for one, two in words)))
    start = len(common) + bool(common)
    return f"{first[:start]}{gap} {item.fields['ending']}", [first[start:], second[start:]], start


def _winogrande(item: Item) -> dict[str, Any]:
    sentence, (first, second), _ = _blank(item)
    return {"sentence": sentence, "option1": first, "option2": second, "answer": str(item.gold[0] + 1)}


def _winograd(item: Item) -> dict[str, Any]:
    text, options, start = _blank(item, "it")
    return {"text": text, "pronoun": "it", "pronoun_loc": start, "options": options, "label": item.gold[0]}


def _answer_key(item: Item) -> str:
    return LETTERS[item.gold[0]]


def _science(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "choices": _lettered(item), "answerKey": _answer_key(item)}


def _stem(item: Item) -> dict[str, Any]:
    return {"question_stem": item.fields["question"], "choices": _lettered(item), "answerKey": _answer_key(item)}


def _scene(item: Item) -> dict[str, Any]:
    return {"query": item.fields["question"], "choices": list(item.choices), "label": item.gold[0]}


def _goal(item: Item) -> dict[str, Any]:
    first, second = item.choices
    return {"goal": item.fields["question"], "sol1": first, "sol2": second, "label": item.gold[0]}


def _columns(*names: str) -> Convert:
    return lambda item: {name: item.row[name] for name in names}


def _passage(item: Item) -> dict[str, Any]:
    return {"passage": item.fields["passage"], "question": item.fields["question"], "label": item.gold[0]}


def _cause(item: Item) -> dict[str, Any]:
    first, second = item.choices
    asks = {"because": "cause", "therefore": "effect"}[item.fields["connector"]]
    premise = item.fields["premise"] + "."
    return {"premise": premise, "question": asks, "choice1": first, "choice2": second, "label": item.gold[0]}


def _social(item: Item) -> dict[str, Any]:
    answers = {f"answer{letter}": text for letter, text in zip("ABC", item.choices, strict=True)}
    fields = {name: item.fields[name] for name in ("context", "question")}
    return {**fields, **answers, "label": str(item.gold[0] + 1)}


def _trivia(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "answer": {"aliases": list(item.answers)}}


def _mmlu(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "choices": list(item.choices), "answer": item.gold[0]}


def _exam(question: str, answer: str) -> Convert:
    def convert(item: Item) -> dict[str, Any]:
        texts = dict(zip(LETTERS[:4], item.choices, strict=True))
        return {question: item.fields["question"], **texts, answer: LETTERS[item.gold[0]]}

    return convert


def _open(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "answer": list(item.answers)}


def _worked(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "answer": item.answers[0]}


HUB_DATA: dict[tuple[str, str], tuple[str, Convert]] = {
    ("cais/mmlu", "*"): ("mmlu", _mmlu),
    ("haonan-li/cmmlu", "*"): ("cmmlu", _exam("Question", "Answer")),
    ("ceval/ceval-exam", "*"): ("ceval", _exam("question", "answer")),
    ("allenai/ai2_arc", "ARC-Easy"): ("arc_easy", _science),
    ("allenai/ai2_arc", "ARC-Challenge"): ("arc_challenge", _science),
    ("Rowan/hellaswag", ""): ("hellaswag", _scene),
    ("baber/piqa", ""): ("piqa", _goal),
    ("allenai/sciq", ""): (
        "sciq",
        _columns("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer"),
    ),
    ("EleutherAI/lambada_openai", "default"): ("lambada", _columns("text")),
    ("allenai/winogrande", "winogrande_xl"): ("winogrande", _winogrande),
    ("lighteval/winograd_wsc", "wsc273"): ("wsc273", _winograd),
    ("aps/super_glue", "boolq"): ("boolq", _passage),
    ("aps/super_glue", "copa"): ("copa", _cause),
    ("allenai/openbookqa", "main"): ("openbookqa", _stem),
    ("tau/commonsense_qa", ""): ("commonsense_qa", _science),
    ("lighteval/siqa", ""): ("siqa", _social),
    ("nyu-mll/blimp", "*"): ("blimp", _columns("sentence_good", "sentence_bad")),
    ("mandarjoshi/trivia_qa", "rc.nocontext"): ("triviaqa", _trivia),
    ("google-research-datasets/nq_open", ""): ("nq_open", _open),
    ("openai/gsm8k", "main"): ("gsm8k", _worked),
    ("TIGER-Lab/MMLU-Pro", ""): (
        "mmlu_pro",
        _columns("question_id", "question", "options", "answer", "answer_index", "cot_content", "category"),
    ),
    ("google/IFEval", ""): ("ifeval", _columns("key", "prompt", "instruction_id_list", "kwargs")),
    ("cambridgeltl/xcopa", "zh"): ("xcopa_zh", _columns("premise", "question", "choice1", "choice2", "label")),
}
"""By a data set of the hub and its configuration: our task, and how a question looks there. `*`: each configuration is
a subject of the task.
"""

CHOSEN_BY_TASK_FILE = ("TIGER-Lab/MMLU-Pro",)
"""Data sets of whose rows a task file's `process_docs` chooses its own: those of one subject."""


def find_local_task(path: str, name: str) -> tuple[str, str, Convert] | None:
    """Our task, the subject of it (empty: all) and the columns for a data set; None if no task of ours has it."""
    if (path, name) in HUB_DATA:
        return (HUB_DATA[path, name][0], "", HUB_DATA[path, name][1])
    if name and (path, "*") in HUB_DATA:
        task, convert = HUB_DATA[path, "*"]
        return task, name, convert
    return None
