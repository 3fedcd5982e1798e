"""References from one stage to another, to a path or to a hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say

_HUB = re.compile(r"(?P<hub>hf):(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference means: a stage (and a place inside its artifact), a local path or glob, or a pinned hub name."""

    stage: str = ""
    inside: str = ""
    path: Path | None = None
    hub: str = ""
    revision: str = ""


def resolve(text: str, stages: Mapping[str, Any], root: Path, where: str) -> Resolved:
    """Raises UserError for an unpinned hub name and for a word that is neither a stage nor a path."""
    hub = _HUB.fullmatch(text)
    if hub:
        if not hub["revision"]:
            hint = say(
                f"write {text}@<commit>, so that a rerun reads the same bytes",
                f"请写成 {text}@<commit>，重跑时才能读到同样的内容",
            )
            raise UserError(say(f"{text} has no revision", f"{text} 没有写明版本"), where, hint)
        return Resolved(hub=hub["name"], revision=hub["revision"])
    if text.startswith(("./", "../", "/", "~")) or text in (".", ".."):
        return Resolved(path=root / Path(text).expanduser())
    head, _, inside = text.partition("/")
    if head in stages:
        return Resolved(stage=head, inside=inside)
    near = did_you_mean(head, stages) or ""
    hint = say(f"a path begins with ./ or /; {near}", f"路径须以 ./ 或 / 开头；{near}")
    raise UserError(say(f"'{text}' is neither a stage nor a path", f"“{text}”既不是阶段名也不是路径"), where, hint)
