"""`hanlin generate`: a file of questions becomes a file of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import EngineName
from hanlin.cli.output import print_json
from hanlin.core.i18n import say

app = new_app()


@command(app, say("An interrupted run resumes where it stopped.", "中断后再次运行即从断点续做。"))
def generate(
    model: Annotated[str, typer.Argument(help=say("model, adapter or GGUF", "模型、适配器或 GGUF"))],
    data: Annotated[
        Path,
        typer.Option(
            help=say("questions: .txt (one a line), or records in any chat format", "问题文件：每行一问或对话")
        ),
    ],
    out: Annotated[Path, typer.Option(help=say("answers: .json or .jsonl", "回答文件：.json 或 .jsonl"))] = Path(
        "predictions.json"
    ),
    system: Annotated[str, typer.Option(help=say("system text", "系统提示"))] = "",
    raw: Annotated[
        bool,
        typer.Option("--raw", help=say("continue the text without the chat template", "不套对话模板，直接续写")),
    ] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help=say("cut the end of questions that are too long", "问题过长时截去末尾"))
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 400,
    temperature: Annotated[float | None, typer.Option(min=0.0, help=say("0: greedy", "0 为贪心解码"))] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    top_k: Annotated[int | None, typer.Option(min=0)] = None,
    min_p: Annotated[float | None, typer.Option()] = None,
    repetition_penalty: Annotated[float | None, typer.Option()] = None,
    presence_penalty: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    engine: EngineName = "auto",
    batch: Annotated[int | None, typer.Option(min=1, help=say("answers at once", "同时生成的回答数"))] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, auto")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1")] = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("print the counts as JSON", "以 JSON 输出计数"))] = False,
) -> None:
    from hanlin.core.progress import Progress
    from hanlin.evaluate.predictions import PredictSettings, predict

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "seed": seed,
    }
    options: dict[str, Any] = {"batch": batch, "dtype": dtype, "device": device}
    asking = PredictSettings(
        system,
        raw,
        truncate,
        max_new_tokens,
        {name: value for name, value in sampling.items() if value is not None},
        engine,
        {name: value for name, value in options.items() if value is not None},
    )
    progress = Progress(say("answers", "回答"))
    counts = predict(model, data, out, asking, progress)
    progress.close()
    if as_json:
        print_json({"out": str(out), **counts})
        return
    summary = say(
        f"{counts['prompts']} answers, {counts['stopped']} stopped by themselves, {counts['tokens']} tokens",
        f"共 {counts['prompts']} 个回答，其中 {counts['stopped']} 个自行结束，{counts['tokens']} 个词元",
    )
    typer.echo(f"{out}: {summary}")
