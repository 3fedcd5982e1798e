"""What a reference in a recipe names: another stage, a path or a hub repository."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr

_HUB = re.compile(r"(?P<hub>hf):(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w.-]*))?")


@dataclass(frozen=True, slots=True)
class ReferenceTarget:
    """What a reference names: a stage and perhaps a path inside its artifact, a local path or glob, or a pinned hub
    repository.
    """

    stage: str = ""
    inside: str = ""
    path: Path | None = None
    hub: str = ""
    revision: str = ""


def resolve_reference(text: str, stages: Mapping[str, Any], root: Path, where: str) -> ReferenceTarget:
    """What the text of a reference names.

    Args:
        text: The reference.
        stages: The stages of the recipe by name.
        root: Where relative paths start.
        where: The reference's location, for messages.

    Raises:
        UserError: A hub name has no revision, or the text is neither a stage nor a path.
    """
    hub = _HUB.fullmatch(text)
    if hub:
        if not hub["revision"]:
            hint = tr("write {text}@<commit>, so that every run reads the same files", text=text)
            raise UserError(tr("{text} has no revision", text=text), where, hint)
        return ReferenceTarget(hub=hub["name"], revision=hub["revision"])
    if text.startswith(("./", "../", "/", "~")) or text in (".", ".."):
        return ReferenceTarget(path=root / Path(text).expanduser())
    head, _, inside = text.partition("/")
    if head in stages:
        return ReferenceTarget(stage=head, inside=inside)
    if ("/" in text or "." in text) and _exists(root / text):
        return ReferenceTarget(path=root / text)
    suggestion = did_you_mean(head, stages) or ""
    hint = tr("a path begins with ./ or /; {suggestion}", suggestion=suggestion)
    raise UserError(tr("'{text}' is neither a stage nor a path", text=text), where, hint)


def _exists(path: Path) -> bool:
    """Whether a path or a glob pattern leads to something."""
    return path.exists() or (glob.has_magic(str(path)) and bool(glob.glob(str(path), recursive=True)))
