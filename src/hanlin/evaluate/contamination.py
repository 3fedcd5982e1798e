"""What a score is on questions that the training data does not hold, beside those that it holds.

Does not own how such questions are found (`data/decontaminate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.resumable import Row
from hanlin.data.dedup.decontaminate import verdicts_of


def by_contamination(
    rows: Sequence[Row], folders: Sequence[Path], figure: str, score: Callable[[Sequence[Row]], float | None]
) -> dict[str, Any]:
    """Mark each row `contaminated` or not, and give the figure for both kinds (none where there is no such question).

    Nothing where no folder is given. Raises UserError for a question that the data was not compared with.
    """
    if not folders:
        return {}
    held, free = verdicts_of(folders).split([row["id"] for row in rows], "contamination")
    for row in rows:
        row["contaminated"] = row["id"] in held
    metrics: dict[str, Any] = {"contaminated_questions": len(held), "clean_questions": len(free)}
    for name, wanted in (("contaminated", True), ("clean", False)):
        some = [row for row in rows if row["contaminated"] is wanted]
        metrics[f"{figure}_{name}"] = score(some) if some else None
    return metrics
