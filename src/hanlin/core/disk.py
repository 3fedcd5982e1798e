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
from hanlin.core.i18n import say


def check_free_space(out: Path, needed: int) -> None:
    """Raise UserError if `needed` bytes do not fit on the disk of `out`."""
    free = shutil.disk_usage(out).free
    if needed > free:
        what = say(
            f"the files need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free",
            f"文件需要 {needed / 1e9:.2f} GB，磁盘仅剩 {free / 1e9:.2f} GB",
        )
        raise UserError(what, out, say("free some space or write fewer files", "请清理磁盘或减少要写的文件"))


@contextmanager
def catch_full_disk(out: Path) -> Iterator[None]:
    """Turn the system's errors for a full disk inside the block into a UserError about `out`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = say(f"no space to write the file: {error.strerror}", f"磁盘空间不足，无法写入文件：{error.strerror}")
        raise UserError(what, out, say("free some space and run again", "请清理磁盘后重新运行")) from error


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file, which appears at `target` when it is complete; skip it if `target` has the same size already."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(target)
    shutil.copyfile(source, partial)
    os.replace(partial, target)
