"""A comparison as Markdown in both languages, for a model card or the appendix of a paper."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hanlin.core.i18n import translate
from hanlin.core.names import quote_markdown
from hanlin.evaluate.comparison.names import show_change, show_difference, show_score, show_value, title_of

_SHOWN_SUBJECTS = 5


def write_markdown(comparison: Mapping[str, Any]) -> str:
    """The scores of all models with intervals, what was lost and gained, and how to read it."""
    return "\n".join(
        [
            "# Evaluation · 评测",
            "",
            *_how_to_read(comparison),
            *describe_scores(comparison),
            *_subjects(comparison["tasks"]),
            *_contamination(comparison["tasks"]),
            *_format(comparison.get("format", ())),
            *_judge(comparison["judge"]),
            *_asked(comparison["tasks"]),
            *_origin(comparison["models"]),
            *_lineage(comparison["models"]),
            *_prompts(comparison["tasks"]),
        ]
    )


def describe_scores(comparison: Mapping[str, Any]) -> Iterator[str]:
    """The table of tasks and models, with the 95 % interval of each score; ▲ and ▼ are beyond the paired interval."""
    models = [model["name"] for model in comparison["models"]]
    yield from ("## Scores · 分数", "", f"| task 任务 | n | {' | '.join(map(quote_markdown, models))} |")
    yield "|---|---|" + "---|" * len(models)
    for task in comparison["tasks"]:
        scores = {score["model"]: score for score in task["scores"]}
        cells = [show_score(scores.get(model), task["unit"]) for model in models]
        yield f"| {quote_markdown(describe_task(task))} | {task['questions']:,} | {' | '.join(cells)} |"
    yield ""


def describe_task(task: Mapping[str, Any]) -> str:
    """A task in both languages with the way in which it was asked; ↓ if lower is better."""
    name = title_of(task)
    if description := task["description"]:
        mode = task["setup"].get("mode", "")
        name = f"{description} · {translate(description, 'zh')} ({mode})"
    return name + ("" if task["higher_is_better"] else " ↓")


def _how_to_read(comparison: Mapping[str, Any]) -> Iterator[str]:
    baseline = quote_markdown(comparison["models"][0]["name"])
    yield "Scores in percent with 95 % intervals from a paired bootstrap over questions "
    yield f"({comparison['resamples']:,} draws, seed {comparison['seed']}). "
    yield f"Differences are to {baseline}; ▲ better and ▼ worse beyond the paired interval, no mark: none is shown. "
    yield "↓: lower is better. Bits per byte compare models of different tokenizers, perplexity per token does not."
    yield ""
    yield "分数为百分数，附成对自助法的 95% 区间"
    yield f"（按题抽样 {comparison['resamples']:,} 次，种子 {comparison['seed']}）。"
    yield f"差值相对 {baseline}；▲ 与 ▼ 表示超出成对区间的变好与变差，无标记表示看不出差别。"
    yield "↓：越低越好。每字节比特数可跨分词器比较，按词元的困惑度不可以。"
    yield ""


def _subjects(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The subjects that lost and gained most, of tasks with more subjects than the two languages."""
    for task in tasks:
        changed = [
            (subject, score)
            for subject in task["subjects"]
            for score in subject["scores"]
            if "difference" in score and score["difference"]["verdict"] != "same"
        ]
        if len(task["subjects"]) <= 2 or not changed:
            continue
        yield from (f"## {quote_markdown(describe_task(task))}", "")
        yield from ("| subject 科目 | n | model 模型 | score 分数 | difference 差值 |", "|---|---|---|---|---|")
        if len(changed) > 2 * _SHOWN_SUBJECTS:
            changed = changed[:_SHOWN_SUBJECTS] + changed[-_SHOWN_SUBJECTS:]
        for subject, score in changed:
            yield (
                f"| {quote_markdown(subject['name'])} | {subject['questions']} | {quote_markdown(score['model'])} "
                f"| {show_value(score['value'], task['unit'])} | {show_difference(score['difference'], task['unit'])} |"
            )
        yield ""


def _contamination(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    rows = [task for task in tasks if "contamination" in task]
    if not rows:
        return
    yield from ("## Without contaminated questions · 去掉受污染的题", "")
    yield from ("| task 任务 | model 模型 | all 全部 | clean 干净 | contaminated 受污染 |", "|---|---|---|---|---|")
    for task in rows:
        split = task["contamination"]
        for score in task["scores"]:
            parts = []
            for name in ("clean", "contaminated"):
                found = next((row for row in split[name]["scores"] if row["model"] == score["model"]), None)
                shown = "–" if found is None else show_value(found["value"], task["unit"])
                parts.append(f"{shown} ({split[name]['questions']:,})")
            all_of_it = show_value(score["value"], task["unit"])
            yield (
                f"| {quote_markdown(describe_task(task))} | {quote_markdown(score['model'])} | {all_of_it} "
                f"| {' | '.join(parts)} |"
            )
    yield ""


def _format(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What the format of the answer alone is worth to each model, and what is left of a gain when both are told it."""
    if not tasks:
        return
    yield from ("## The format alone · 仅格式的作用", "")
    yield "Examples with random answers tell a model the form of an answer and nothing of what is right. "
    yield "A gain that is not shown with them may be the form alone."
    yield ""
    yield "答案随机的示例只告诉模型答案的格式，不透露哪个正确。用了这种示例就看不出的提高，可能只是学会了格式。"
    yield ""
    yield (
        "| task 任务 | model 模型 | no examples 无示例 | random answers 随机答案 | own examples 原示例 "
        "| format effect 格式作用 | gain, no examples 无示例时的提高 | gain, told the form 已知格式时的提高 |  |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for task in tasks:
        for row in task["rows"]:
            shares = [
                f"{show_value(row[name]['value'], 'share')} ({row[name]['shots']})" if name in row else "–"
                for name in ("no_examples", "format_only", "examples")
            ]
            gains = [show_change(row["gain"][name]) for name in ("no_examples", "format_only")] if "gain" in row else []
            verdict = row["gain"]["description"] if gains else ""
            told = f"{verdict} · {translate(verdict, 'zh')}" if verdict else ""
            cells = [*shares, show_change(row["format_effect"]), *(gains or ["–", "–"]), told]
            yield (f"| {quote_markdown(title_of(task))} | {quote_markdown(row['model'])} | {' | '.join(cells)} |")
    yield ""


def _judge(judge: Mapping[str, Any] | None) -> Iterator[str]:
    if judge is None:
        return
    yield from (f"## Judge · 评审：{quote_markdown(judge['model'])}", "")
    yield "A win needs both orders. 两种先后顺序都胜出才算胜。"
    yield ""
    yield "| model 模型 | wins 胜 | ties 平 | losses 负 | share 胜率 | agreement 两序一致 | first 偏先 | longer 偏长 |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in judge["models"]:
        share = (
            "–"
            if row["share"] is None
            else f"{100 * row['share']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
        )
        shares = ["–" if row[name] is None else f"{100 * row[name]:.0f} %" for name in ("agreement", "first", "longer")]
        counts = f"{row['wins']} | {row['ties']} | {row['losses']}"
        yield f"| {quote_markdown(row['model'])} | {counts} | {share} | {' | '.join(shares)} |"
    yield ""


def _asked(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How each task was asked: what somebody needs to ask it again."""
    rows = [task for task in tasks if task.get("asked")]
    if not rows:
        return
    yield from ("## How it was asked · 提问方式", "")
    yield "A score without its prompt says little: two tools that differ have asked differently. "
    yield "没有提示的分数说明不了什么：两个工具分数不同，是因为问法不同。"
    yield ""
    yield (
        "| task 任务 | profile 评分方案 | form 形式 | answer 答案 | shots 示例 | metric 指标 | average 平均 "
        "| chance 瞎猜 | prompts 提示的哈希 |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for task in rows:
        asked, setup = task["asked"], task["setup"]
        shots, fewest = setup.get("shots"), asked["fewest_shots"]
        fitted = f"{shots} (≥ {fewest})" if fewest is not None and fewest != shots else f"{shots}"
        chance = "–" if asked["chance"] is None else show_value(asked["chance"], "share")
        profile = f"{setup.get('profile', '')} {asked['profile_version']}"
        names = [quote_markdown(task["name"]), quote_markdown(profile), str(setup.get("form", "")), asked["method"]]
        counts = [fitted, quote_markdown(task["metric"]), task["average"], chance, f"`{asked['prompts_sha256'][:16]}`"]
        yield f"| {' | '.join([*names, *counts])} |"
    yield ""


def _origin(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("## Origin · 来源", "")
    yield from (
        "| model 模型 | result 结果 | settings 设置 | measured with 测量环境 | digest 摘要 |",
        "|---|---|---|---|---|",
    )
    for model in models:
        for result in model["results"]:
            plain = [
                f"{name} {value}" for name, value in result["settings"].items() if "/" not in str(value) and value != ""
            ]
            measured = [f"{name} {value[:16]}" for name, value in result.get("measured", {}).items()]
            yield (
                f"| {quote_markdown(model['name'])} | {result['kind']} | {quote_markdown(', '.join(plain))} "
                f"| {quote_markdown(', '.join(measured)) or '–'} | `{result['digest'][:16]}` |"
            )
    yield ""


def _lineage(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each model and its results were made from, back to the source files with their licenses.

    A folder of files is one row: `lineage` in `comparison.json` names each file.
    """
    rows = [(model["name"], node) for model in models for node in model["made_from"]]
    if not rows:
        return
    yield from ("## Lineage · 谱系", "")
    yield from (
        "| model 模型 | made from 来自 | type 类型 | files 文件数 | license 许可 | digest 摘要 |",
        "|---|---|---|---|---|---|",
    )
    for name, node in rows:
        license_name = quote_markdown(node["license"]) if node["license"] else "–"
        yield (
            f"| {quote_markdown(name)} | {quote_markdown(node['name'])} | {node['type']} | {_count(node['files'])} "
            f"| {license_name} | `{node['digest'][:16]}` |"
        )
    yield ""


def _count(files: int) -> str:
    return f"{files:,}" if files else "–"


def _prompts(tasks: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The first prompt of each task, whole."""
    rows = [task for task in tasks if task.get("asked")]
    if not rows:
        return
    yield from ("## Prompts · 提示", "")
    for task in rows:
        prompt = task["asked"]["example_prompt"]
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", prompt)), default=0))
        yield from (f"{quote_markdown(describe_task(task))}:", "", f"{fence}text", prompt, fence, "")
