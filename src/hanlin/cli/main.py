"""The command `hanlin`: its entry point, and what a person sees of an error.

Exit codes: 0 success, 1 a check that failed or a bug of ours, 2 bad input (one sentence and a hint), 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from hanlin.cli.help import usage_error
from hanlin.cli.output import echo
from hanlin.cli.table import RootGroup
from hanlin.core.errors import UserError, explain_os_error
from hanlin.core.i18n import tr
from hanlin.core.version import __version__

INTERRUPTED = 130
_CHINESE_TERMINALS = ("gbk", "gb2312", "gb18030", "cp936", "big5", "big5hkscs", "cp950")
app = typer.Typer(
    cls=RootGroup,
    name="hanlin",
    help=tr("Make Llama models good at Chinese: one recipe, one command"),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={
        "help_option_names": ["--help", "-h"],
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


def _print_version(requested: bool) -> None:
    if requested:
        echo(f"hanlin {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help=tr("print the version")),
    ] = False,
) -> None:
    pass


def set_output_encoding(stream: io.TextIOWrapper) -> None:
    """Have a stream written in UTF-8, and in its own encoding if it is a terminal of GBK or Big5, which shows no other.

    What the encoding lacks becomes `?`.
    """
    is_chinese = stream.isatty() and stream.encoding.lower() in _CHINESE_TERMINALS
    stream.reconfigure(encoding=stream.encoding if is_chinese else "utf-8", errors="replace")


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            set_output_encoding(stream)
    try:
        code = app(prog_name="hanlin", standalone_mode=False)
    except UserError as error:
        _refuse(error)
    except typer.TyperException as error:
        _refuse(usage_error(error))
    except OSError as error:
        known = explain_os_error(error)
        if known is None:
            raise
        _refuse(known)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        echo(tr("\nstopped; the same command goes on from here"), err=True)
    sys.exit(code if isinstance(code, int) else 0)


def _refuse(error: UserError) -> None:
    """Print an error and its hint, and end with exit code 2."""
    sentence = error.what if error.where is None else f"{error.where}: {error.what}"
    echo(tr("error: {sentence}", sentence=sentence), fg="red", err=True)
    if error.hint:
        echo(tr("  hint: {hint}", hint=error.hint), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
