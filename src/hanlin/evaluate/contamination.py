"""Scores on questions that the training data contains and on those that it does not.

Data stages find such questions (`data.dedup.decontaminate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import parse_json
from hanlin.core.i18n import tr
from hanlin.core.resumable import Row
from hanlin.data.dedup.decontaminate import CONTAMINATION_FILE


def split_by_contamination(
    rows: Sequence[Row], folders: Sequence[Path], figure: str, score: Callable[[Sequence[Row]], float | None]
) -> dict[str, Any]:
    """Mark each row `contaminated` or not, and compute the figure for both groups.

    Args:
        rows: Answers with their `id`; changed in place.
        folders: Artifacts of data stages with `decontaminate`; if there are none, nothing is done.
        figure: The figure's name.
        score: Computes it.

    Returns:
        The number of questions of each group, and `<figure>_contaminated` and `<figure>_clean` (None if a group is
        empty).

    Raises:
        UserError: A question was not looked for in the data.
    """
    if not folders:
        return {}
    contaminated, clean = load_contamination(folders).split([row["id"] for row in rows], "contamination")
    for row in rows:
        row["contaminated"] = row["id"] in contaminated
    metrics: dict[str, Any] = {"contaminated_questions": len(contaminated), "clean_questions": len(clean)}
    for name, is_contaminated in (("contaminated", True), ("clean", False)):
        selected = [row for row in rows if row["contaminated"] is is_contaminated]
        metrics[f"{figure}_{name}"] = score(selected) if selected else None
    return metrics


@dataclass(frozen=True, slots=True)
class Contamination:
    """Which questions of an evaluation the training data contains, as the data stages found."""

    contaminated: frozenset[str]
    checked: frozenset[str]

    def split(self, ids: Sequence[str], where: Path | str) -> tuple[set[str], set[str]]:
        """The contaminated and the clean ones of these ids. Raises UserError if one was never looked for."""
        missing = [name for name in ids if name not in self.checked]
        if missing:
            hint = tr("name this set in `decontaminate.against` of the data stage")
            what = tr("question {missing} was not looked for in the data", missing=missing[0])
            raise UserError(what, where, hint)
        return {name for name in ids if name in self.contaminated}, {
            name for name in ids if name not in self.contaminated
        }


def load_contamination(folders: Sequence[Path]) -> Contamination:
    """What the data stages in these folders found, together. Raises UserError for a stage without `decontaminate`."""
    contaminated: set[str] = set()
    checked: set[str] = set()
    for folder in folders:
        file = folder / CONTAMINATION_FILE if folder.is_dir() else folder
        if not file.is_file():
            hint = tr("set `decontaminate` in that stage")
            raise UserError(tr("this data was not compared with questions"), folder, hint)
        try:
            for row in parse_json(file.read_text(encoding="utf-8"))["sets"]:
                contaminated |= set(row["contaminated"])
                checked |= {*row["contaminated"], *row["clean"], *row["unsearched"]}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(tr("not what a data stage with `decontaminate` wrote"), file) from error
    return Contamination(frozenset(contaminated), frozenset(checked))
