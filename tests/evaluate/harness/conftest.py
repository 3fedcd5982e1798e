"""Questions of many tasks, made up, in the layouts of their authors."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

WORDS = ("院子", "春天", "town", "library", "three", "名字", "stands", "seven", "开满", "花", "is", "the", "east")


def _text(generator: random.Random, count: int) -> str:
    return " ".join(generator.choice(WORDS) for _ in range(count))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def made_up_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven tasks with six questions each, and three exams of two subjects with worked examples."""
    folder, draw = tmp_path_factory.mktemp("made_up"), random.Random(7)

    def texts(count: int) -> list[str]:
        return [f"{_text(draw, 3)} {index}" for index in range(count)]

    choice: list[dict[str, Any]] = [
        {"query": f"{_text(draw, 6)}?", "choices": texts(4), "gold": index % 4} for index in range(6)
    ]
    _write(folder / "arc_easy_test.jsonl", [{**row, "query": "Question: " + row["query"]} for row in choice])
    _write(folder / "openbookqa_test.jsonl", choice)
    _write(folder / "hellaswag_6.jsonl", [{"id": i, "context": row["query"], "choices": row["choices"], "label": i % 4}
                                         for i, row in enumerate(choice)])  # fmt: skip
    _write(folder / "piqa_valid.jsonl", [dict(zip(("goal", "sol1", "sol2"), texts(3), strict=True)) for _ in range(6)])
    (folder / "piqa_valid_labels.lst").write_text("0\n1\n0\n1\n1\n0\n", encoding="utf-8")
    names = ("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer")
    _write(folder / "sciq_test.jsonl", [dict(zip(names, texts(6), strict=True)) for _ in range(6)])
    _write(folder / "lambada_test_openai.jsonl", [{"text": _text(draw, 12)} for _ in range(6)])
    _write(
        folder / "winogrande_dev.jsonl",
        [
            {
                "context_options": [f"{before} so Ann", f"{before} so Bob"],
                "continuation": _text(draw, 4),
                "gold": i % 2,
            }
            for i, before in enumerate(texts(6))
        ],
    )
    _write(
        folder / "boolq_dev.jsonl",
        [
            {
                "query": f"Passage: {_text(draw, 9)}\nQuestion: is the town east?\n",
                "choices": ["no", "yes"],
                "gold": i % 2,
            }
            for i in range(6)
        ],
    )
    for name, split in (("test", "gsm8k_test.jsonl"), ("train", "gsm8k_train.jsonl")):
        rows = [{"question": f"{name}: {_text(draw, 3)} {i}?", "answer": f"It is {i}. #### {i}"} for i in range(6)]
        _write(folder / split, rows)
    for split, count in (("validation", 2), ("sample", 4)):
        asked: list[dict[str, Any]] = []
        for index, subject in enumerate(["law"] * count + ["history"] * count):
            letter = "ABCDE"[index % 5]
            thought = f"A: Let's think step by step. {_text(draw, 4)}. The answer is ({letter})."
            asked.append({
                "question_id": 100 * count + index, "question": f"{split} {_text(draw, 3)} {index}?",
                "options": texts(5), "answer": letter, "answer_index": index % 5, "category": subject,
                "cot_content": thought if split == "validation" else "",
            })  # fmt: skip
        _write(folder / f"mmlu_pro_{split}.jsonl", asked)
    instructions: list[tuple[str, dict[str, Any]]] = [
        ("punctuation:no_comma", {}),
        ("keywords:existence", {"keywords": ["town", "east"]}),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 3}),
        ("detectable_format:title", {}),
        ("keywords:frequency", {"relation": "less than", "keyword": "the", "frequency": 2}),
        ("startend:quotation", {}),
    ]
    _write(
        folder / "ifeval_input_data.jsonl",
        [
            {
                "key": index,
                "prompt": f"{_text(draw, 8)} {index}.",
                "instruction_id_list": [name, instructions[0][0]],
                "kwargs": [arguments, {}],
            }
            for index, (name, arguments) in enumerate(instructions)
        ],
    )
    for exam, heading in (("mmlu", ""), ("cmmlu", ",Question,A,B,C,D,Answer\n")):
        for split, count in (("dev", 5), ("test", 4)):
            for subject in ("anatomy", "virology"):
                path = folder / exam / split / (f"{subject}_{split}.csv" if exam == "mmlu" else f"{subject}.csv")
                path.parent.mkdir(parents=True, exist_ok=True)
                lines = [
                    ",".join([*([str(i)] if heading else []), f"{_text(draw, 3)}?", *texts(4), "ABCD"[i % 4]])
                    for i in range(count)
                ]
                path.write_text(heading + "\n".join(lines) + "\n", encoding="utf-8")
    return folder
