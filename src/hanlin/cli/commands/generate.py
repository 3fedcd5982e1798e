"""`hanlin generate`: a file of questions becomes a file of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import NO_TOKEN_LIMIT, EngineName, read_sampling
from hanlin.cli.output import echo, print_json
from hanlin.core.hardware.devices import EXAMPLES
from hanlin.core.i18n import tr

app = new_app()


@command(app, tr("An interrupted run resumes where it stopped."))
def generate(
    model: Annotated[str, typer.Argument(help=tr("model, adapter or GGUF"))],
    data: Annotated[
        Path,
        typer.Option(help=tr("questions: .txt (one a line), or records in any chat format")),
    ],
    out: Annotated[Path, typer.Option(help=tr("answers: .json or .jsonl"))] = Path("predictions.json"),
    system: Annotated[str, typer.Option(help=tr("system text"))] = "",
    raw: Annotated[
        bool,
        typer.Option("--raw", help=tr("continue the text without the chat template")),
    ] = False,
    truncate: Annotated[
        bool, typer.Option("--truncate", help=tr("cut the end of questions that are too long"))
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=-1, help=tr("-1: as many as the context holds"))] = 400,
    temperature: Annotated[float | None, typer.Option(min=0.0, help=tr("0: greedy"))] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    top_k: Annotated[int | None, typer.Option(min=-1)] = None,
    min_p: Annotated[float | None, typer.Option()] = None,
    repetition_penalty: Annotated[float | None, typer.Option()] = None,
    presence_penalty: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(min=-1)] = None,
    engine: EngineName = "auto",
    batch: Annotated[int | None, typer.Option(min=1, help=tr("answers at once"))] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, auto")] = None,
    device: Annotated[str | None, typer.Option(help=EXAMPLES)] = None,
    as_json: Annotated[bool, typer.Option("--json", help=tr("print the counts as JSON"))] = False,
) -> None:
    from hanlin.core.progress import Progress
    from hanlin.evaluate.predictions import PredictSettings, predict

    sampling = read_sampling(
        max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        seed=seed,
    )
    limit = sampling.pop("max_new_tokens")
    options: dict[str, Any] = {"batch": batch, "dtype": dtype, "device": device}
    asking = PredictSettings(
        system,
        raw,
        truncate,
        NO_TOKEN_LIMIT if limit is None else limit,
        sampling,
        engine,
        {name: value for name, value in options.items() if value is not None},
    )
    progress = Progress(tr("answers"))
    counts = predict(model, data, out, asking, progress)
    progress.close()
    if as_json:
        print_json({"out": str(out), **counts})
        return
    summary = tr(
        "{prompts} answers, {stopped} stopped by themselves, {tokens} tokens",
        prompts=counts["prompts"],
        stopped=counts["stopped"],
        tokens=counts["tokens"],
    )
    echo(f"{out}: {summary}")
