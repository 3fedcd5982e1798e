"""The group `hanlin data`."""

from __future__ import annotations

from hanlin.cli.commands.data import convert, report, rules
from hanlin.cli.help import new_app

app = new_app()
convert.add_to(app)
rules.add_to(app)
report.add_to(app)
