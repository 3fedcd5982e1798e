"""`hanlin template ...`: what other programs make of a model's chat template. `parity/check` compares them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, echo_data, print_json
from hanlin.core.errors import UserError, suggest_path
from hanlin.core.i18n import tr

if TYPE_CHECKING:
    from hanlin.chat.template import ChatTemplate
    from hanlin.parity.check import NamedBackend, ParityResult

app = new_app()


@command(
    app,
    tr(
        "Compare the token ids of programs, conversation by conversation\n\nEvery program at hand reads the "
        "same conversations; exits with 1 on a mismatch."
    ),
)
def check(
    model: Annotated[Path, typer.Argument(help=tr("folder of a model, or a GGUF file"))],
    gguf: Annotated[list[Path], typer.Option(help=tr("GGUF file to check too; may repeat"))] = [],
    modelfile: Annotated[
        list[Path],
        typer.Option(help=tr("Modelfile of Ollama to check too; may repeat")),
    ] = [],
    vllm: Annotated[str, typer.Option(help=tr("address of a vLLM that serves it"))] = "",
    as_json: AsJson = False,
) -> None:
    from hanlin.parity.cases import make_cases
    from hanlin.parity.check import check as run_check
    from hanlin.parity.check import summarize

    template, backends = _backends(model, gguf, modelfile, vllm)
    results = run_check(template, backends, make_cases())
    if as_json:
        print_json(summarize(results))
    else:
        _print_verdicts(results)
    if not all(result.passed for result in results):
        raise typer.Exit(1)


@command(
    app,
    tr(
        "Write the Modelfile with which Ollama serves a GGUF file\n\nOllama then renders chats as in "
        "training; this is checked if Go is installed."
    ),
)
def modelfile(
    model: Annotated[str, typer.Argument(help=tr("GGUF file or folder (folder:Q8_0)"))],
    out: Annotated[
        Path | None,
        typer.Option(help=tr("file to write (default: beside the GGUF file)")),
    ] = None,
    system: Annotated[str, typer.Option(help=tr("system text of every chat"))] = "",
    as_json: AsJson = False,
) -> None:
    from hanlin.inference.backends.llama_cpp.header import read_gguf_header
    from hanlin.inference.loading import find_model, load_template, parse_model_spec
    from hanlin.parity.check import summarize, verify_modelfile
    from hanlin.tokenizer.generation_config import GREEDY, read_sampling_params

    location = find_model(*parse_model_spec(model))
    if location.kind != "gguf":
        what = tr("there is no GGUF file here, and a Modelfile names one")
        raise UserError(what, model, tr("make one with `hanlin gguf`"))
    header = read_gguf_header(location.weights)
    path = out or location.weights.parent / "Modelfile"
    if not path.absolute().parent.is_dir():
        raise UserError(tr("there is no such folder"), path.parent, suggest_path(path.parent), "not_found")
    template = load_template(location)
    sampling = read_sampling_params(location.weights)
    result = verify_modelfile(
        path,
        location.weights,
        template,
        context=header.context_length,
        system=system,
        license=header.license,
        sampling={} if sampling == GREEDY else sampling,
    )
    if as_json:
        print_json({"path": str(path), "check": summarize([result])})
        return
    echo_data(str(path))
    _print_verdicts([result])


def _backends(
    model: Path, gguf: list[Path], modelfiles: list[Path], vllm: str
) -> tuple[ChatTemplate, list[NamedBackend]]:
    """The model's chat template, and what reads it: the GGUF files and the Modelfile in its folder, and those of the
    options. A GGUF file without a tokenizer beside it is read by itself.
    """
    from hanlin.chat.template import ChatTemplate
    from hanlin.inference.loading import find_model, load_template
    from hanlin.models.folder.gguf import find_gguf_files
    from hanlin.parity.check import backends_for

    if not model.exists():
        raise UserError(tr("no such file or folder"), model, suggest_path(model), "not_found")
    folder = model if model.is_dir() else model.parent
    beside = [folder / "Modelfile"] if (folder / "Modelfile").is_file() else []
    inside = find_gguf_files(model)
    source, template = folder, None
    if inside:
        location = find_model(model)
        source, template = location.folder, load_template(location)
    backends = backends_for(
        source, list(dict.fromkeys([*inside, *gguf])), list(dict.fromkeys([*beside, *modelfiles])), vllm
    )
    return template or ChatTemplate.load(folder), backends


def _print_verdicts(results: list[ParityResult]) -> None:
    for result in results:
        if result.skip_reason is not None:
            echo(tr("–  {name}: unchecked: {skip_reason}", name=result.name, skip_reason=result.skip_reason))
            continue
        sign = "✓" if result.passed else "✗"
        echo(
            tr(
                "{sign}  {name}: {cases} cases, {mismatches} mismatches",
                sign=sign,
                name=result.name,
                cases=result.cases,
                mismatches=result.mismatches,
            )
        )
        if result.first:
            echo(f"   {result.first}")
        if result.missing_stop_ids:
            ids = ", ".join(map(str, result.missing_stop_ids))
            echo(tr("   would not stop at {ids}", ids=ids))
        if result.wider_masks:
            echo(
                tr(
                    "   in {count} cases its loss mask also holds what is behind the end token, an empty thinking "
                    "block or the head of an answer; Hanlin learns none of these",
                    count=result.wider_masks,
                )
            )
        if result.typed_tokens_parsed:
            count = result.typed_tokens_parsed
            echo(
                tr(
                    "   in {count} cases it takes a special token that the user typed for a real one; Hanlin does not",
                    count=count,
                )
            )
