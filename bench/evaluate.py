"""Compares tasks, question by question and in time, with lm-evaluation-harness's own `hf` model.

    python bench/evaluate.py [MODEL DATA] [--tasks mmlu,cmmlu,arc_easy,...] [--limit 8] [--subjects 20] [--batch 8]
        [--dtype float32] [--perplexity]

MODEL is a model folder (or HANLIN_MODEL), DATA a folder with the tasks' files (or HANLIN_DATA). Both sides get the same
questions: Hanlin reads the local files, lm-evaluation-harness gets the same rows in the columns of its data sets, and
asks by its own task files. Needs lm_eval 0.4.13. For each task: questions, answers that are equal, the largest
difference of a log probability, seconds on the clock and of the processor, and the ratios. `--perplexity` compares the
windows of `perplexity` with the strided loop of the transformers documentation on the same windows. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import StageContext
from hanlin.evaluate.perplexity import split_windows
from hanlin.evaluate.tasks import stage
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.items import Item
from hanlin.evaluate.tasks.respond import EngineRespondent
from hanlin.inference.loading import load_engine

LETTERS = "ABCD"


def _lettered(item: Item) -> dict[str, Any]:
    return {"text": list(item.choices), "label": list("ABCDEFGH"[: len(item.choices)])}


def _blank(item: Item) -> dict[str, Any]:
    """A sentence of WinoGrande from its two beginnings."""
    first, second = item.choices
    common = next(
        index for index in range(len(first) + 1) if not second.startswith(first[: index + 1]) or index == len(first)
    )
    sentence = f"{first[:common]}_ {item.fields['ending']}"
    return {
        "sentence": sentence,
        "option1": first[common:],
        "option2": second[common:],
        "answer": str(item.gold[0] + 1),
    }


def _answer_key(item: Item) -> str:
    return "ABCDEFGH"[item.gold[0]]


def _science(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "choices": _lettered(item), "answerKey": _answer_key(item)}


def _stem(item: Item) -> dict[str, Any]:
    return {"question_stem": item.fields["question"], "choices": _lettered(item), "answerKey": _answer_key(item)}


def _scene(item: Item) -> dict[str, Any]:
    return {"query": item.fields["question"], "choices": list(item.choices), "label": item.gold[0]}


def _goal(item: Item) -> dict[str, Any]:
    first, second = item.choices
    return {"goal": item.fields["question"], "sol1": first, "sol2": second, "label": item.gold[0]}


def _support(item: Item) -> dict[str, Any]:
    return {
        name: item.row[name]
        for name in ("support", "question", *(f"distractor{n}" for n in (1, 2, 3)), "correct_answer")
    }


def _passage(item: Item) -> dict[str, Any]:
    return {"passage": item.fields["passage"], "question": item.fields["question"], "label": item.gold[0]}


def _trivia(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "answer": {"aliases": list(item.answers)}}


ROWS: dict[str, tuple[str, Callable[[Item], dict[str, Any]]]] = {
    "arc_easy": ("arc/arc_easy.yaml", _science),
    "arc_challenge": ("arc/arc_easy.yaml", _science),
    "hellaswag": ("hellaswag/hellaswag.yaml", _scene),
    "piqa": ("piqa/piqa.yaml", _goal),
    "sciq": ("sciq/sciq.yaml", _support),
    "lambada": ("lambada/lambada_openai.yaml", lambda item: {"text": item.row["text"]}),
    "winogrande": ("winogrande/default.yaml", _blank),
    "boolq": ("super_glue/boolq/default.yaml", _passage),
    "openbookqa": ("openbookqa/openbookqa.yaml", _stem),
    "triviaqa": ("triviaqa/default.yaml", _trivia),
    "gsm8k": ("gsm8k/gsm8k.yaml", lambda item: {"question": item.fields["question"], "answer": item.answers[0]}),
}
"""For each task lm-evaluation-harness's own file, and a question in the columns of its data set."""


def theirs(name: str, items: Any, model: Any, shots: int) -> tuple[dict[str, dict[str, Any]], float, float]:
    """Ask with lm-evaluation-harness: an answer for each id, seconds on the clock and of the processor."""
    import lm_eval
    from datasets import Dataset, DatasetDict
    from lm_eval.tasks._yaml_loader import load_yaml

    root = Path(lm_eval.__file__).parent / "tasks"
    groups: dict[str, list[Item]] = {}
    for item in items.questions:
        groups.setdefault(item.subject if name in ("mmlu", "cmmlu") else "", []).append(item)
    answers: dict[str, dict[str, Any]] = {}
    configs, ids = [], {}
    for subject, questions in groups.items():
        if name in ("mmlu", "cmmlu"):
            folder = root / ("mmlu/default" if name == "mmlu" else "cmmlu")
            path = folder / f"{name}_{subject}.yaml"
            convert = _mmlu if name == "mmlu" else _cmmlu
        else:
            path, convert = root / ROWS[name][0], ROWS[name][1]
        config = dict(load_yaml(path, resolve_func=True))
        rows = [convert(item) for item in questions]
        examples = [convert(item) for item in items.examples.get(subject, items.examples.get("", ()))[:shots]] or rows[
            :1
        ]
        test = Dataset.from_list(rows)
        splits = {
            "test": test,
            "validation": test,
            "dev": Dataset.from_list(examples),
            "train": Dataset.from_list(examples),
        }
        for key in ("process_docs", "dataset_path", "dataset_name", "tag", "task_alias", "include"):
            config.pop(key, None)
        config |= {"task": f"{name}_{subject or 'all'}", "custom_dataset": _returns(DatasetDict(splits))}
        if config.get("fewshot_split") == "train":
            config["fewshot_config"] = {"sampler": "first_n"}
        configs.append(config)
        ids[config["task"]] = [item.id for item in questions]
    start, processor = time.perf_counter(), time.process_time()
    results = lm_eval.simple_evaluate(
        model, tasks=configs, num_fewshot=shots, log_samples=True, bootstrap_iters=0, verbosity="ERROR"
    )
    seconds, spent = time.perf_counter() - start, time.process_time() - processor
    for task, samples in results["samples"].items():
        for sample in samples:
            answers.setdefault(ids[task][sample["doc_id"]], {})[sample.get("filter", "none")] = sample
    return answers, seconds, spent


def _returns(data: Any) -> Callable[..., Any]:
    return lambda **options: data


def _mmlu(item: Item) -> dict[str, Any]:
    return {"question": item.fields["question"], "choices": list(item.choices), "answer": item.gold[0]}


def _cmmlu(item: Item) -> dict[str, Any]:
    texts = dict(zip(LETTERS, item.choices, strict=True))
    return {"Question": item.fields["question"], **texts, "Answer": LETTERS[item.gold[0]]}


def compare(name: str, options: argparse.Namespace, loaded: Any, model: Any) -> dict[str, Any]:
    """Ask a task on both sides."""
    task = packaged_tasks()[name]
    limit = options.limit if name in ("mmlu", "cmmlu") else options.most
    settings = Evaluate(model="m", tasks=(name,), data="d", limit=limit, chat=False, profiles=("lm_eval",))
    (task_run,) = stage._task_runs(settings, name, task)
    if task_run.method == "generate":  # lm_eval samples its worked examples of these
        (task_run,) = stage._task_runs(settings.model_copy(update={"shots": 0}), name, task)
    items = stage._items(settings, name, task, options.data, 42)
    if name in ("mmlu", "cmmlu"):
        subjects = sorted({item.subject for item in items.questions})[: options.subjects]
        items = type(items)([item for item in items.questions if item.subject in subjects], items.examples)
    respondent = EngineRespondent(loaded, ())
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        start, processor = time.perf_counter(), time.process_time()
        results = stage.run_tasks(respondent, loaded, [task_run], {name: items}, settings, out, StageContext())
        seconds, spent = time.perf_counter() - start, time.process_time() - processor
        samples = type(results)(results.model, results.tasks, {}, {}, out).read_samples(results.tasks[0])
    other, their_seconds, their_spent = theirs(name, items, model, task_run.shots)
    equal, largest = 0, 0.0
    for sample in samples:
        rows = other[sample["id"]]
        if task_run.method == "generate":
            row = next(iter(rows.values()))
            equal += row["resps"][0][0].strip() == sample["output"].strip()
            continue
        row = rows["none"]
        logprobs = [float(pair[0]) for pair in row["filtered_resps"]]
        largest = max(largest, *(abs(a - b) for a, b in zip(logprobs, sample["logprobs"], strict=True)))
        equal += all(float(row[metric]) == value for metric, value in sample["scores"].items())
    figures = {
        "questions": len(samples),
        "equal": equal,
        "max_logprob_difference": round(largest, 5),
        "seconds": round(seconds, 2),
        "lm_eval_seconds": round(their_seconds, 2),
        "ratio": round(their_seconds / seconds, 2),
        "cpu_ratio": round(their_spent / spent, 2),
    }
    print(f"{name:14}", "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


def perplexity(options: argparse.Namespace, loaded: Any) -> dict[str, Any]:
    """Windows of `perplexity` against the strided loop on the same windows."""
    from transformers import AutoModelForCausalLM

    text = next(file for file in sorted(options.data.rglob("lambada*.gz")) if file.is_file())
    with gzip.open(text, "rt", encoding="utf-8") as lines:
        words = "\n\n".join(json.loads(line)["text"] for line, _ in zip(lines, range(200), strict=False))
    ids = loaded.tokenizer.encode(words)[: options.tokens]
    window, stride = 1024, 512
    pairs = list(split_windows(ids, 1, len(ids), window, stride))
    start, processor = time.perf_counter(), time.process_time()
    ours = -sum(score.logprob for score in loaded.engine.score(pairs))
    seconds, spent = time.perf_counter() - start, time.process_time() - processor
    dtype = getattr(torch, options.dtype)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype)
    start, processor = time.perf_counter(), time.process_time()
    total = 0.0
    with torch.no_grad():
        for context, scored in pairs:
            inputs = torch.tensor([[*context, *scored]])
            labels = inputs.clone()
            labels[:, : len(context)] = -100
            total += float(model(inputs, labels=labels).loss) * len(scored)
    their_seconds, their_spent = time.perf_counter() - start, time.process_time() - processor
    figures = {
        "tokens": len(ids),
        "perplexity": round(math.exp(ours / (len(ids) - 1)), 4),
        "loop_perplexity": round(math.exp(total / (len(ids) - 1)), 4),
        "seconds": round(seconds, 2),
        "loop_seconds": round(their_seconds, 2),
        "ratio": round(their_seconds / seconds, 2),
        "cpu_ratio": round(their_spent / spent, 2),
    }
    print("perplexity    ", "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path(os.environ.get("HANLIN_MODEL", "model")))
    parser.add_argument("data", type=Path, nargs="?", default=Path(os.environ.get("HANLIN_DATA", "data")))
    parser.add_argument(
        "--tasks",
        default=f"mmlu,cmmlu,{','.join(ROWS)}",
    )
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--subjects", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=6000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--perplexity", action="store_true")
    options = parser.parse_args()
    loaded = load_engine(options.model, dtype=options.dtype)
    loaded.engine.score([((5, 6, 7), (8,))])
    figures: dict[str, Any] = {}
    if options.perplexity:
        figures["perplexity"] = perplexity(options, loaded)
    names = [name for name in options.tasks.split(",") if name]
    if names:
        from lm_eval.models.huggingface import HFLM

        model = HFLM(pretrained=str(options.model), dtype=options.dtype, batch_size=options.batch, device="cpu")
        for name in names:
            figures[name] = compare(name, options, loaded, model)
    loaded.engine.close()
    print(json.dumps({"threads": torch.get_num_threads(), "dtype": options.dtype, "batch": options.batch, **figures}))


if __name__ == "__main__":
    main()
