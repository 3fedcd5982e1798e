"""The group `hanlin vocab`."""

from __future__ import annotations

from hanlin.cli.commands.vocab import report
from hanlin.cli.help import new_app

app = new_app()
report.add_to(app)


@app.callback()
def _group() -> None:
    """Makes a group of the one command."""
