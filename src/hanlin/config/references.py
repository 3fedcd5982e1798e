"""What a reference in a recipe names: another stage, a path or a hub repository."""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr

_HUB = re.compile(r"(?P<hub>hf|ms):(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w.-]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_PREFIXES = ("hf:", "ms:")
"""How the name of a repository begins: Hugging Face (or a mirror of it), and ModelScope."""
HUB_ADDRESSES = {"hf": "https://huggingface.co", "ms": "https://modelscope.cn"}
ENDPOINT_VARIABLES = {"hf": "HF_ENDPOINT", "ms": "MODELSCOPE_ENDPOINT"}
"""The variables of the environment that name another address, such as that of a mirror."""


class HubName(NamedTuple):
    """A repository of a hub, `hf` or `ms`; `name` is `owner/name`, `revision` a commit, branch or tag, or empty."""

    hub: str
    name: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.hub}:{self.name}" + (f"@{self.revision}" if self.revision else "")

    @property
    def is_pinned(self) -> bool:
        """Whether the revision is a whole commit, so that no later upload changes what it names."""
        return _COMMIT.fullmatch(self.revision) is not None


def parse_hub_name(text: str, where: str | None = None) -> HubName:
    """The repository that `hf:owner/name` or `ms:owner/name` names, with `@revision` or without.

    Raises:
        UserError: It names none; `where` is its location.
    """
    match = _HUB.fullmatch(text)
    if match is None:
        if _HUB.fullmatch(text.removesuffix("@")):
            what = tr("nothing follows the @ of {text}", text=text)
            raise UserError(what, where, tr("write a commit, a branch or a tag after it, or leave the @ out"))
        hint = tr("write hf:owner/name or ms:owner/name")
        raise UserError(tr("'{text}' names no repository", text=text), where, hint)
    return HubName(match["hub"], match["name"], match["revision"] or "")


@dataclass(frozen=True, slots=True)
class ReferenceTarget:
    """What a reference names: a stage and perhaps a path inside its artifact, a local path or glob, or a hub repository
    with a revision.
    """

    stage: str = ""
    inside: str = ""
    path: Path | None = None
    repository: HubName | None = None


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
    if text.startswith(HUB_PREFIXES):
        bare = text.removesuffix("@")
        repository = parse_hub_name(bare, where)
        if not repository.revision:
            hint = tr(
                "write {name}@<commit>, so that every run reads the same files; `hanlin pull {name}` shows it",
                name=bare,
            )
            raise UserError(tr("{text} has no revision", text=text), where, hint)
        return ReferenceTarget(repository=repository)
    if text.startswith(("./", "../", "/", "~")) or text in (".", ".."):
        try:
            return ReferenceTarget(path=root / Path(text).expanduser())
        except RuntimeError as error:  # `~name`, or no HOME
            what = tr("there is no home folder for '{text}'", text=text)
            raise UserError(what, where, tr("set HOME, or write the whole path"), "not_found") from error
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
