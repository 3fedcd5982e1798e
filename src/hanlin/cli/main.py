"""The command `hanlin`: its entry point, and what a person sees of an error.

Exit codes: 0 success, 1 a check that failed or a bug of ours, 2 bad input (one sentence and a hint), 130, 143 and 129
ended by Ctrl-C, SIGTERM and SIGHUP.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Annotated, NoReturn

import typer

from hanlin.cli.help import usage_error
from hanlin.cli.output import begin_output, echo, has_printed_json, print_json
from hanlin.cli.table import RootGroup
from hanlin.core.errors import UserError, explain_import_error, explain_memory_error, explain_os_error
from hanlin.core.i18n import tr
from hanlin.core.process import keep_working_folder_out, kill_descendants, open_standard_streams, replace_stream
from hanlin.core.signals import Terminated, install
from hanlin.core.text import printable
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
    """Run the command of the command line, and end with its exit code."""
    open_standard_streams()
    begin_output()
    try:
        install()  # which a signal may interrupt as well as all that follows
        keep_working_folder_out()
        _make_reports_printable()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                set_output_encoding(stream)
        code = app(prog_name="hanlin", standalone_mode=False)
    except UserError as error:
        _refuse(error)
    except typer.TyperException as error:
        refusal = usage_error(error)
        refusal.code = "usage"
        _refuse(refusal)
    except typer.Abort:  # the input ended where an answer was awaited
        _end_early(INTERRUPTED)
    except Exception as error:
        known = explain_os_error(error) or explain_memory_error(error, "hanlin") or explain_import_error(error)
        if known is None:
            _tell_program(UserError(f"{type(error).__name__}: {error}", "hanlin", code="internal"))
            raise
        _refuse(known)
    except Terminated as ending:
        _end_early(ending.code)
    except KeyboardInterrupt:
        _end_early(INTERRUPTED)
    if code == INTERRUPTED:
        _end_early(INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _end_early(code: object) -> NoReturn:
    """End with the exit code of a signal, and with everything that the command has started.

    At once, when what was registered for the exit is done: the interpreter takes a second to take torch apart.
    """
    kill_descendants()
    echo(tr("\nstopped; the same command goes on from here"), err=True)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


def _make_reports_printable() -> None:
    """Show what log records and tracebacks quote of others, as `echo` does, instead of letting a terminal obey it."""

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Formatter())
    sys.excepthook = report


def _tell_program(error: UserError) -> None:
    """Print an error as JSON too, on standard output, if the command was given `--json` and has printed no JSON yet."""
    words = sys.argv[1:]
    if "--json" in (words[: words.index("--")] if "--" in words else words) and not has_printed_json():
        try:
            print_json({"error": error.as_json()})
        except BrokenPipeError:  # who read has ended; the sentence on standard error is for others
            replace_stream(1)


def _refuse(error: UserError) -> None:
    """Print an error and its hint, and end with exit code 2."""
    _tell_program(error)
    sentence = error.what if error.where is None else f"{error.where}: {error.what}"
    echo(tr("error: {sentence}", sentence=sentence), fg="red", err=True)
    if error.hint:
        echo(tr("  hint: {hint}", hint=error.hint), err=True)
    sys.exit(2)


if __name__ == "__main__":
    main()
