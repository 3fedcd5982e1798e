"""Disk space: checked before files are written, and a clear error when the disk is full."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.files import partial_path
from hanlin.core.i18n import tr


def check_free_space(out: Path, needed: int) -> None:
    """Raise UserError if `needed` bytes do not fit on the disk of `out`."""
    free = shutil.disk_usage(out).free
    if needed > free:
        what = tr(
            "the files need {needed:.2f} GB, the disk has {free:.2f} GB free",
            needed=needed / 1000000000.0,
            free=free / 1000000000.0,
        )
        raise UserError(what, out, tr("free some space or write fewer files"))


@contextmanager
def catch_full_disk(out: Path) -> Iterator[None]:
    """Turn the system's errors for a full disk inside the block into a UserError about `out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = tr("no space to write the file: {strerror}", strerror=error.strerror)
        raise UserError(what, out, tr("free some space and run again")) from error


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file, which appears at `target` when it is complete; skip it if `target` has the same size already."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    shutil.copyfile(source, partial)
    os.replace(partial, target)
