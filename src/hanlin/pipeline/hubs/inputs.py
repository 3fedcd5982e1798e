"""The repositories that a stage reads: fetched when the stage runs, as data or as a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hanlin.config.references import parse_hub_name
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.pipeline.hubs.pull import PullRequest, pull

_DATASET_FIELDS = ("data", "questions")


class Downloaded(NamedTuple):
    """A repository that a stage reads: its folder, and the commit that lies there."""

    folder: Path
    commit: str


def download(
    entry: Mapping[str, Any],
    progress: Progress | None = None,
    endpoints: Mapping[str, str] | None = None,
    commit: str = "",
) -> Downloaded:
    """Fetch the repository that a reference names (`hf:owner/name@revision`, `ms:...`): a data set if a source or the
    data of an evaluation names it, else a model.

    Args:
        entry: The input entry of the reference, as JSON data.
        progress: Shows the bytes, and tells a revision that is no commit.
        endpoints: The addresses of the hubs that the recipe names, by hub.
        commit: The commit to read in place of the branch that the reference names: that with which the stage began.

    Returns:
        The folder and its commit.

    Raises:
        UserError: It cannot be fetched.
    """
    progress = Progress(quiet=True) if progress is None else progress
    field, name = str(entry["field"]), parse_hub_name(str(entry["key"]))
    kind = "dataset" if field.startswith("sources.") or field in _DATASET_FIELDS else "model"
    wanted = name._replace(revision=commit) if commit else name
    request = PullRequest(wanted, kind, recipe_endpoint=(endpoints or {}).get(name.hub, ""))
    pulled = pull(request, progress.log, progress)
    if not wanted.is_pinned:
        progress.log(tr("{name} may change: write {pinned} to pin what was read", name=name, pinned=pulled.name))
    return Downloaded(pulled.folder, pulled.name.revision)
