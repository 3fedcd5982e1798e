"""Names from requests as paths: only what lies in the folder of the page can be named, whatever the name is.

A name is one part of a path, the folder that it leads to is a real one and no link, and a file lies below its folder
after all links are followed.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.core.names import check_relative_path, describe_name_problem, show_name
from hanlin.pipeline.artifacts import PARTIAL_FOLDER

_MAX_KNOWN = 500
"""Names of a folder that are compared with one that is not there."""


class NotInsideError(UserError):
    """There is nothing of this name in the folder of the page."""


def find_folder(parent: Path, name: str) -> Path:
    """The folder of a name directly below another.

    Raises:
        NotInsideError: There is none, it is a link, or the name is a path.
    """
    folder = parent / name if describe_name_problem(name) is None else None
    if folder is None or folder.is_symlink() or not folder.is_dir():
        known = [item.name for item in parent.iterdir() if "." not in item.name] if parent.is_dir() else []
        near = get_close_matches(name, known[:_MAX_KNOWN], n=1)
        hint = did_you_mean(name, near) if near else None
        raise NotInsideError(tr("there is no {name} here", name=show_name(name)), None, hint)
    return folder


def find_artifact_folder(artifacts: Path, name: str) -> Path:
    """The folder of a complete artifact. Raises NotInsideError as `find_folder` does."""
    if name.endswith(PARTIAL_FOLDER) or ".partial" in name:
        raise NotInsideError(tr("there is no {name} here", name=show_name(name)))
    return find_folder(artifacts, name)


def find_file(folder: Path, name: str) -> Path:
    """A file below a folder, by its relative path.

    Raises:
        NotInsideError: There is none, or the path leads out of the folder, by its parts or by a link.
    """
    problem = NotInsideError(tr("there is no {name} here", name=show_name(name)))
    try:
        path = folder / check_relative_path(name, "")
        resolved = path.resolve(strict=True)
    except (UserError, OSError, ValueError) as error:
        raise problem from error
    if not resolved.is_relative_to(folder.resolve()) or not resolved.is_file():
        raise problem
    return path
