"""Compares tasks, question by question and in time, with lm-evaluation-harness's own `hf` model.

    python bench/evaluate.py [MODEL DATA] [--tasks mmlu,cmmlu,arc_easy,...] [--limit 8] [--subjects 20] [--batch 8]
        [--shots 8] [--max-new-tokens 128] [--dtype float32] [--precision bfloat16] [--perplexity]

MODEL is a model folder (or HANLIN_MODEL), DATA a folder with the tasks' files (or HANLIN_DATA). Both sides get the same
questions: Hanlin reads the local files, lm-evaluation-harness gets the same rows in the columns of its data sets, and
asks by its own task files. Needs lm_eval 0.4.13, for `ifeval` its extra of that name with NLTK's `punkt_tab`. For each
task: questions, answers that are equal, the largest difference of a log probability, seconds on the clock and of the
processor, and the ratios. `--precision bfloat16` lets Hanlin multiply in bfloat16, and lm-evaluation-harness in float32
as before. `--perplexity` compares the windows of `perplexity`, in its own precision where none is given, with the
strided loop of the transformers documentation on the same windows. `--rounds` repeats each, and prints the median ratio
and the least and greatest. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import itertools
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from command_line import existing_path, names_among, non_negative_int, positive_int, run_main

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import StageContext
from hanlin.evaluate.harness.columns import HUB_DATA
from hanlin.evaluate.perplexity import split_windows
from hanlin.evaluate.tasks import stage
from hanlin.evaluate.tasks.definition import Task, packaged_tasks
from hanlin.evaluate.tasks.items import Item, Items, read_items
from hanlin.evaluate.tasks.respond import EngineRespondent
from hanlin.inference.loading import load_engine

LETTERS = "ABCD"
FILES = {
    "mmlu": "mmlu/default/mmlu_{subject}.yaml",
    "cmmlu": "cmmlu/cmmlu_{subject}.yaml",
    "ceval": "ceval/ceval-valid_{subject}.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "sciq": "sciq/sciq.yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "winogrande": "winogrande/default.yaml",
    "wsc273": "wsc273/default.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "commonsense_qa": "commonsense_qa/default.yaml",
    "siqa": "siqa/siqa.yaml",
    "copa": "super_glue/copa/default.yaml",
    "blimp": "blimp/{subject}.yaml",
    "triviaqa": "triviaqa/default.yaml",
    "nq_open": "nq_open/nq_open.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "xcopa_zh": "xcopa/default_zh.yaml",
    "mmlu_pro": "mmlu_pro/mmlu_pro_{subject}.yaml",
    "ifeval": "ifeval/ifeval.yaml",
}
"""For each task lm-evaluation-harness's own file."""
COLUMNS = dict(HUB_DATA.values())
"""For each task a question in the columns of its data set."""
SUBJECTS = [name for name, file in FILES.items() if "{subject}" in file]


def theirs(
    name: str, items: Items, model: Any, shots: int, tokens: int | None
) -> tuple[dict[str, dict[str, Any]], float, float]:
    """Ask with lm-evaluation-harness: an answer for each id, seconds on the clock and of the processor."""
    import lm_eval
    from datasets import Dataset, DatasetDict
    from lm_eval.tasks._yaml_loader import load_yaml

    file, convert = FILES[name], COLUMNS[name]
    groups: dict[str, list[Item]] = {}
    for item in items.questions:
        groups.setdefault(item.subject if name in SUBJECTS else "", []).append(item)
    answers: dict[str, dict[str, Any]] = {}
    configs, ids = [], {}
    for subject, questions in groups.items():
        config = dict(
            load_yaml(
                Path(lm_eval.__file__).parent / "tasks" / file.format(subject=subject.replace(" ", "_")),
                resolve_func=True,
            )
        )
        rows = [convert(item) for item in questions]
        examples = [convert(item) for item in items.examples.get(subject, items.examples.get("", ()))]
        others = Dataset.from_list(examples if shots else rows[:1])
        test = Dataset.from_list(rows)
        splits = {"test": test, "validation": test, "val": test, "dev": others, "train": others}
        asked = config.get("test_split") or config.get("validation_split")
        if config.get("fewshot_split") not in (None, asked):
            splits[config["fewshot_split"]] = others
        splits[asked] = test
        for key in ("process_docs", "dataset_path", "dataset_name", "tag", "task_alias", "include"):
            config.pop(key, None)
        config |= {"task": f"{name}_{subject or 'all'}", "custom_dataset": _returns(DatasetDict(splits))}
        if config.get("generation_kwargs") and tokens is not None:
            config["generation_kwargs"] = {**config["generation_kwargs"], "max_gen_toks": tokens}
        configs.append(config)
        ids[config["task"]] = [item.id for item in questions]
    start, processor = time.perf_counter(), time.process_time()
    results = lm_eval.simple_evaluate(model, tasks=configs, num_fewshot=shots, log_samples=True, bootstrap_iters=0)
    seconds, spent = time.perf_counter() - start, time.process_time() - processor
    for task, samples in results["samples"].items():
        for sample in samples:
            answers.setdefault(ids[task][sample["doc_id"]], {})[sample.get("filter", "none")] = sample
    return answers, seconds, spent


def _returns(data: Any) -> Callable[..., Any]:
    return lambda **options: data


def read_questions(name: str, task: Task, options: argparse.Namespace) -> tuple[Any, Items]:
    """The way to ask a task as lm-evaluation-harness does, and its questions."""
    is_made = name in ("ceval", "commonsense_qa", "siqa", "mmlu_pro")
    data = complete_rows(name, options) if is_made else options.data
    limit = options.limit if name in SUBJECTS else options.most
    settings = Evaluate(
        model="m",
        tasks=(name,),
        data="d",
        limit=limit,
        chat=False,
        profiles=("lm_eval",),
        shots=options.shots,
        max_new_tokens=options.max_new_tokens,
    )
    (task_run,) = stage._task_runs(settings, name, task)
    items = stage._items(settings, name, task, data, 42)
    if name in SUBJECTS:
        subjects = sorted({item.subject for item in items.questions})
        chosen = subjects[:: max(1, len(subjects) // options.subjects)][: options.subjects]
        items = replace(items, questions=[item for item in items.questions if item.subject in chosen])
    return (settings, task_run), items


def complete_rows(name: str, options: argparse.Namespace) -> Path:
    """A folder with the questions of a task in the layout of its data set, made from those of the local file.

    C-Eval's 49 questions, whose subjects the file does not name, become those of two subjects, five of each worked
    examples; a question of common sense gets a last choice, that of another question, instead of the one that the local
    file leaves out. Five questions of each subject of MMLU-Pro, whose validation split is not here, become worked
    examples whose reasoning names the right option.
    """
    folder = options.scratch / name
    folder.mkdir(exist_ok=True)
    if name == "ceval":
        items = read_items("ceval_sample", packaged_tasks()["ceval_sample"], options.data).questions
        rows = [[part.strip() for part in re.split(r"\n(?=[A-D]\. )", item.fields["question"])] for item in items]
        split = [
            [row[0], *(text[3:] for text in row[1:]), LETTERS[item.gold[0]]]
            for row, item in zip(rows, items, strict=True)
        ]
        split = [row for row in split if len(row) == 6]
        for start, subject in enumerate(("law", "accountant")):
            own = split[start::2]
            for part, chosen in (("dev", own[:5]), ("val", own[5:])):
                file = folder / "ceval" / part / f"{subject}_{part}.csv"
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("w", encoding="utf-8", newline="") as out:
                    csv.writer(out).writerows([["question", *LETTERS, "answer"], *chosen])
        return folder
    if name == "mmlu_pro":
        lines = next(options.data.rglob("mmlu_pro_sample*.jsonl")).read_text(encoding="utf-8").splitlines()
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in map(json.loads, lines):
            groups.setdefault(row["category"], []).append(row)
        for own in groups.values():
            for row in own[:5]:
                thought = f"It is {row['options'][row['answer_index']].strip()}. The answer is ({row['answer']})."
                row["cot_content"] = f"A: Let's think step by step. {thought}"
        for split, part in (("validation", slice(5)), ("sample", slice(5, None))):
            chosen = [row for own in groups.values() for row in own[part]]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
            (folder / f"mmlu_pro_{split}.jsonl").write_text(text, encoding="utf-8")
        return folder
    items = read_items(name, packaged_tasks()[name], options.data).questions
    with (folder / packaged_tasks()[name].files[0]).open("w", encoding="utf-8") as lines:
        for item, other in itertools.pairwise(items):
            whole = replace(item, choices=(*item.choices, other.choices[0]))
            lines.write(json.dumps({"id": item.id, **COLUMNS[name](whole)}, ensure_ascii=False) + "\n")
    return folder


def compare(name: str, options: argparse.Namespace, loaded: Any, model: Any) -> dict[str, Any]:
    """Ask a task on both sides."""
    (settings, task_run), items = read_questions(name, packaged_tasks()[name], options)
    respondent = EngineRespondent(loaded, ())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        start, processor = time.perf_counter(), time.process_time()
        results = stage.run_tasks(respondent, loaded, [task_run], {name: items}, settings, out, StageContext())
        seconds, spent = time.perf_counter() - start, time.process_time() - processor
        samples = type(results)(results.model, results.tasks, {}, {}, out).read_samples(results.tasks[0])
    other, their_seconds, their_spent = theirs(name, items, model, task_run.shots, options.max_new_tokens)
    equal, largest = 0, 0.0
    for sample in samples:
        rows = other[sample["id"]]
        if task_run.method == "generate":
            same = all(row["resps"][0][0].strip() == sample["output"].strip() for row in rows.values())
            scores = {metric: _their_score(rows, metric) for metric in sample["scores"]}
        else:
            logprobs = [float(pair[0]) for pair in rows["none"]["filtered_resps"]]
            largest = max(largest, *(abs(a - b) for a, b in zip(logprobs, sample["logprobs"], strict=True)))
            same = True
            scores = {metric: float(rows["none"][metric]) for metric in sample["scores"]}
        is_equal = same and scores == sample["scores"]
        equal += is_equal
        if not is_equal and options.differences:
            row = next(iter(rows.values()))
            print(
                json.dumps(
                    {"ours": sample, "theirs": [row["arguments"], row["resps"], scores]},
                    ensure_ascii=False,
                    default=str,
                )
            )
    figures = {
        "questions": len(samples),
        "equal": equal,
        "max_logprob_difference": round(largest, 5),
        "seconds": round(seconds, 2),
        "lm_eval_seconds": round(their_seconds, 2),
        "ratio": round(their_seconds / seconds, 2),
        "cpu_ratio": round(their_spent / spent, 2),
    }
    if name in SUBJECTS:
        figures = {"subjects": len({item.subject for item in items.questions}), **figures}
    print(f"{name:14}", "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


def _their_score(rows: dict[str, Any], metric: str) -> float:
    """The value of a metric of ours: of several filters that of the one by the metric's name."""
    row = rows.get(metric.replace("_", "-")) or next(iter(rows.values()))
    value = row.get(metric, row.get("exact_match"))
    return sum(value) / len(value) if isinstance(value, list) else float(value)


def perplexity(options: argparse.Namespace) -> dict[str, Any]:
    """Windows of `perplexity` against the strided loop on the same windows."""
    from transformers import AutoModelForCausalLM

    precision = "fastest" if options.precision == "auto" else options.precision
    loaded = load_engine(options.model, dtype=options.dtype, precision=precision)
    loaded.engine.score([((5, 6, 7), (8,))])

    text = next(file for file in sorted(options.data.rglob("lambada*.gz")) if file.is_file())
    with gzip.open(text, "rt", encoding="utf-8") as lines:
        words = "\n\n".join(json.loads(line)["text"] for line, _ in zip(lines, range(200), strict=False))
    ids = loaded.tokenizer.encode(words)[: options.tokens]
    window, stride = 1024, 512
    pairs = list(split_windows(ids, 1, len(ids), window, stride))
    start, processor = time.perf_counter(), time.process_time()
    ours = -sum(score.logprob for score in loaded.engine.score(pairs))
    seconds, spent = time.perf_counter() - start, time.process_time() - processor
    computed = getattr(loaded.engine, "precision", "")
    dtype = getattr(torch, options.dtype)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    start, processor = time.perf_counter(), time.process_time()
    total = 0.0
    loaded.engine.close()
    with torch.no_grad():
        for context, scored in pairs:
            inputs = torch.tensor([[*context, *scored]])
            labels = inputs.clone()
            labels[:, : len(context)] = -100
            total += float(model(inputs, labels=labels).loss) * len(scored)
    their_seconds, their_spent = time.perf_counter() - start, time.process_time() - processor
    figures = {
        "tokens": len(ids),
        "precision": computed,
        "perplexity": round(math.exp(ours / (len(ids) - 1)), 4),
        "loop_perplexity": round(math.exp(total / (len(ids) - 1)), 4),
        "seconds": round(seconds, 2),
        "loop_seconds": round(their_seconds, 2),
        "ratio": round(their_seconds / seconds, 2),
        "cpu_ratio": round(their_spent / spent, 2),
    }
    print("perplexity    ", "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


def repeat(rounds: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The figures of the round whose ratio is the median, and the ratios of all."""
    figures = sorted((measure() for _ in range(rounds)), key=lambda row: row["ratio"])
    return {**figures[rounds // 2], "ratios": [row["ratio"] for row in figures]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=existing_path, nargs="?", default=os.environ.get("HANLIN_MODEL", "model"))
    parser.add_argument("data", type=existing_path, nargs="?", default=os.environ.get("HANLIN_DATA", "data"))
    parser.add_argument(
        "--tasks",
        type=names_among(FILES),
        default=",".join(FILES),
    )
    parser.add_argument("--limit", type=positive_int, default=8)
    parser.add_argument("--most", type=positive_int, default=64)
    parser.add_argument("--subjects", type=positive_int, default=20)
    parser.add_argument("--batch", type=positive_int, default=8)
    parser.add_argument("--shots", type=non_negative_int, help="worked examples on both sides, instead of the task's")
    parser.add_argument("--max-new-tokens", type=positive_int, help="of answers on both sides, instead of the task's")
    parser.add_argument("--tokens", type=positive_int, default=6000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--precision", default="auto", help="of Hanlin's products: bfloat16, or auto")
    parser.add_argument("--rounds", type=positive_int, default=1)
    parser.add_argument("--perplexity", action="store_true")
    parser.add_argument("--differences", action="store_true", help="print both sides of questions that differ")
    options = parser.parse_args()
    loaded = load_engine(options.model, dtype=options.dtype, precision=options.precision)
    loaded.engine.score([((5, 6, 7), (8,))])
    figures: dict[str, Any] = {}
    if options.perplexity:
        figures["perplexity"] = repeat(options.rounds, lambda: perplexity(options))
    names = [name for name in options.tasks.split(",") if name]
    if names:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=str(options.model), dtype=options.dtype, batch_size=options.batch, device="cpu")
        logging.disable(logging.WARNING)
        with tempfile.TemporaryDirectory() as folder:
            options.scratch = Path(folder)
            for name in names:
                figures[name] = repeat(options.rounds, partial(compare, name, options, loaded, model))
    loaded.engine.close()
    settings = {name: getattr(options, name) for name in ("dtype", "precision", "batch")}
    print(json.dumps({"threads": torch.get_num_threads(), **settings, **figures}))


if __name__ == "__main__":
    run_main(main)
