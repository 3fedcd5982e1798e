"""What commands print: tables for people, JSON for programs.

All text of a command reaches the terminal here. What people read is made `printable`; data (JSON, a model's answer, a
path alone) is left as it is where it goes into a pipe or a file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from hanlin.core.files import format_json
from hanlin.core.i18n import tr
from hanlin.core.text import printable, printable_json

if TYPE_CHECKING:
    from hanlin.pipeline.step import Step


class _State:
    """What a command has printed so far."""

    has_printed_json = False


STATE_STYLE = {"done": "green", "resume": "yellow", "run": "", "stale": "yellow", "edited": "red"}


def state_name(state: str) -> str:
    """The state of a stage in the reader's language."""
    names = {
        "done": tr("done"),
        "resume": tr("resume"),
        "run": tr("run"),
        "stale": tr("stale"),
        "edited": tr("edited"),
    }
    return names[state]


def echo(text: str = "", *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text for people, on standard output or standard error.

    Args:
        text: What to print; control characters in it are shown, not obeyed.
        err: Print to standard error.
        nl: End the line.
        **style: Color and weight, as `typer.secho` takes them.
    """
    typer.secho(printable(text), err=err, nl=nl, **style)


def echo_data(text: str, *, nl: bool = True) -> None:
    """Print data, which a pipe or a file gets as it is and a terminal gets `printable`."""
    typer.echo(printable(text) if sys.stdout.isatty() else text, nl=nl)


def begin_output() -> None:
    """Begin the output of a command."""
    _State.has_printed_json = False


def has_printed_json() -> bool:
    """Whether this command has printed its JSON value: a program reads one, so that an error after it is none."""
    return _State.has_printed_json


def print_json(data: Any, indent: int | None = 1) -> None:
    """Print a value as JSON (`format_json`), by default with one space of indent."""
    _State.has_printed_json = True
    text = format_json(data, indent)
    typer.echo(printable_json(text) if sys.stdout.isatty() else text)


def print_table(columns: list[str], rows: list[list[str]], styles: list[str] | None = None) -> None:
    """Print a table without lines; `styles` holds a rich style for each row."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for index, row in enumerate(rows):
        table.add_row(*map(printable, row), style=styles[index] if styles else None)
    width = None if sys.stdout.isatty() else 140
    # without `emoji=False` the text `:key:` is shown as a picture of one
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


def plan_as_json(steps: list[Step], estimates: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """A plan for programs: the state of each stage and why, with the estimates of training stages, by stage name."""
    rows: list[dict[str, Any]] = []
    for step in steps:
        name = step.stage.name
        row = {"stage": name, "kind": step.stage.kind.name, "state": step.state, "why": step.why, "key": step.key}
        rows.append(row | ({"estimate": estimates[name]} if name in estimates else {}))
    return rows


def status_as_json(steps: list[Step], progress: dict[str, Any]) -> list[dict[str, Any]]:
    """The status of a recipe for programs: the state of each stage, and how far the one in progress is."""
    return [
        {"stage": step.stage.name, "state": step.state, "why": step.why, "progress": progress.get(step.stage.name)}
        for step in steps
    ]


def print_steps(steps: list[Step], as_json: bool, estimates: dict[str, dict[str, Any]]) -> None:
    """Print a plan: the state of each stage and why; in JSON with the estimates of training stages, by stage name."""
    if as_json:
        print_json(plan_as_json(steps, estimates))
        return
    rows = [[s.stage.name, s.stage.kind.name, state_name(s.state), s.key[:8], s.why] for s in steps]
    headings = tr("stage,kind,state,key,why").split(",")
    print_table(headings, rows, [STATE_STYLE[s.state] for s in steps])
