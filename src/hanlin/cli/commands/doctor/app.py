"""The command: all checks, on one screen or as JSON.

What is there is told in a line for each group; what is not has a line of its own, with what mends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hanlin.cli.commands.doctor.accelerators import check_accelerators
from hanlin.cli.commands.doctor.check import Check
from hanlin.cli.commands.doctor.environment import check_environment, check_network
from hanlin.cli.commands.doctor.machine import check_machine
from hanlin.cli.commands.doctor.packages import (
    DEVELOPMENT_EXTRAS,
    EXTRAS_ALONE,
    check_packages,
    check_programs,
    check_python,
)
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson, Home
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.i18n import join_list, tr

app = new_app()
_MARKS = {"works": "✓", "absent": "–", "fails": "✗"}
_STYLES = {"works": "green", "absent": "", "fails": "red"}


def run_checks(home: Path, network: bool = False) -> list[Check]:
    """Check Python, packages, programs, accelerators, the machine and the environment.

    Args:
        home: The folder of artifacts.
        network: Ask the hubs too.
    """
    checks = [check_python(), *check_packages(), *check_programs(), *check_accelerators(), *check_machine(home)]
    return [*checks, *check_environment(), *(check_network() if network else ())]


@command(
    app,
    tr("Tells the command that mends what does not work; exits with 1 if it is required."),
)
def doctor(
    home: Home = Path("."),
    network: Annotated[bool, typer.Option("--network", help=tr("ask whether the hubs can be reached"))] = False,
    everything: Annotated[bool, typer.Option("--all", help=tr("a line for every package"))] = False,
    as_json: AsJson = False,
) -> None:
    checks = run_checks(home, network)
    if as_json:
        print_json(
            [
                {"group": c.group, "name": c.name, "found": c.found, "state": c.state, "ok": c.ok, "hint": c.hint}
                for c in checks
            ]
        )
    else:
        shown = checks if everything else summarize(checks)
        rows = [[_MARKS[check.state], check.name, check.found, check.hint] for check in shown]
        headings = [" ", *tr("what,found,how to get it").split(",")]
        print_table(headings, rows, [_STYLES[check.state] for check in shown])
        failing = sum(check.state == "fails" for check in checks)
        echo(tr("what does not work: {count}", count=failing) if failing else tr("Hanlin can run here"))
    if any(check.state == "fails" for check in checks):
        raise typer.Exit(1)


def summarize(checks: Sequence[Check]) -> list[Check]:
    """The checks on one screen: required packages that are there are counted, and extras have a line each."""
    packages = [check for check in checks if check.group == "package"]
    there = sum(check.ok for check in packages)
    shown: list[Check] = [check for check in checks if check.group == "python"]
    shown.append(Check("package", tr("packages"), tr("{there} of {count} are there", there=there, count=len(packages)),
                       there == len(packages)))  # fmt: skip
    shown += [check for check in packages if not check.ok or check.name == "torch"]
    shown += _summarize_extras([check for check in checks if check.group == "extra"])
    programs = [check for check in checks if check.group == "program"]
    shown += [check for check in programs if check.ok]
    if missing := [check.name for check in programs if not check.ok]:
        shown.append(
            Check("program", tr("programs"), tr("not here: {names}", names=join_list(missing)), False, "", True)
        )
    return shown + [check for check in checks if check.group not in ("python", "package", "extra", "program")]


def _summarize_extras(checks: Sequence[Check]) -> list[Check]:
    """A line for all extras that are there, and one for all that are not, with the command that installs them."""
    by_extra: dict[str, list[Check]] = {}
    for check in checks:
        by_extra.setdefault(check.name.partition(":")[0], []).append(check)
    of_users = {name: rows for name, rows in by_extra.items() if name not in DEVELOPMENT_EXTRAS}
    there = [name for name, rows in of_users.items() if all(check.ok for check in rows)]
    missing = [name for name in of_users if name not in there]
    shown = [Check("extra", tr("extras"), join_list(there), True)] if there else []
    if missing:
        together = [name for name in missing if name not in EXTRAS_ALONE]
        command_line = f"pip install 'hanlin[{','.join(together or missing)}]'"
        shown.append(
            Check("extra", tr("extras"), tr("not here: {names}", names=join_list(missing)), False, command_line, True)
        )
    return shown
