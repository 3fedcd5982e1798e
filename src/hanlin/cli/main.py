"""The command `hanlin`: recipes, single stages, chat and serving.

Owns what a person types and reads. Imports what a command needs inside that command, so that help comes at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from hanlin.cli.commands import (
    artifacts,
    chat,
    doctor,
    generate,
    kinds,
    package,
    plan,
    quantize,
    run,
    serve,
    single_stage,
    template,
    tokens,
    upload,
)
from hanlin.cli.commands.data import convert
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.version import __version__

app = typer.Typer(
    name="hanlin",
    help=say("Make Llama models good at Chinese: one recipe, one command.", "让 Llama 学好中文：一份配方，一条命令。"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


plan.add_to(app)
run.add_to(app)
artifacts.add_to(app)
kinds.add_to(app)
doctor.add_to(app)
chat.add_to(app)
generate.add_to(app)
quantize.add_to(app)
package.add_to(app)
serve.add_to(app)
upload.add_to(app)
single_stage.add_to(app, but=("package",))
app.add_typer(convert.app, name="data")
app.add_typer(template.app, name="template")
app.add_typer(tokens.app, name="tokens")


def _version(shown: bool) -> None:
    if shown:
        typer.echo(f"hanlin {__version__}")
        raise typer.Exit


@app.callback()
def _root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def main() -> None:
    """The console script. Exit codes: 0 good, 2 bad input (one sentence), 130 interrupted, 1 a bug of ours."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app()
    except UserError as error:
        typer.secho(f"{say('error', '错误')}: {_sentence(error)}", fg="red", err=True)
        if error.hint:
            typer.echo(f"  {say('hint', '提示')}: {error.hint}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo(say("\nstopped; the same command goes on from here", "\n已停止；再次运行同一命令即可续做"), err=True)
        sys.exit(130)


def _sentence(error: UserError) -> str:
    return error.what if error.where is None else f"{error.where}: {error.what}"


if __name__ == "__main__":
    main()
