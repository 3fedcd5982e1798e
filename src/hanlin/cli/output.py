"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import typer

from hanlin.core.i18n import say

if TYPE_CHECKING:
    from hanlin.pipeline.step import Step

import json


def print_json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=1))


def print_table(columns: list[str], rows: list[list[str]], styles: list[str] | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*row, style=styles[number] if styles else None)
    width = None if sys.stdout.isatty() else 140
    Console(width=width, markup=False, highlight=False).print(table)


STATE_ZH = {"done": "已完成", "resume": "续做", "run": "待运行", "stale": "过期"}


STATE_STYLE = {"done": "green", "resume": "yellow", "run": "", "stale": "yellow"}


def print_steps(steps: list[Step], as_json: bool, ahead: dict[str, dict[str, Any]]) -> None:
    if as_json:
        rows_of_steps: list[dict[str, Any]] = []
        for s in steps:
            row = {"stage": s.stage.name, "kind": s.stage.kind.name, "state": s.state, "why": s.why, "key": s.key}
            rows_of_steps.append(row | ({"estimate": ahead[s.stage.name]} if s.stage.name in ahead else {}))
        print_json(rows_of_steps)
        return
    rows = [[s.stage.name, s.stage.kind.name, say(s.state, STATE_ZH[s.state]), s.key[:8], s.why] for s in steps]
    heads = say("stage,kind,state,key,why", "阶段,类型,状态,键,原因").split(",")
    print_table(heads, rows, [STATE_STYLE[s.state] for s in steps])
