"""Room on the disk: asked for before the work, and a full disk said in one sentence."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.core.i18n import say


def check_free_space(out: Path, needed: int) -> None:
    """Raises UserError when `needed` bytes do not fit where `out` lies."""
    free = shutil.disk_usage(out).free
    if needed > free:
        what = say(
            f"the files need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free",
            f"文件需要 {needed / 1e9:.2f} GB，磁盘仅剩 {free / 1e9:.2f} GB",
        )
        raise UserError(what, out, say("free space or write less", "请清理磁盘或减少要写的文件"))


@contextmanager
def catch_full_disk(out: Path) -> Iterator[None]:
    """Turns the system's word that the disk is full into a UserError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        what = say(f"no space to write the file: {error.strerror}", f"没有空间写入文件：{error.strerror}")
        raise UserError(what, out, say("free space and run again", "请清理磁盘后重新运行")) from error


def copy_atomic(source: Path, target: Path) -> None:
    """Copy a file, which appears under its name when it is whole; one that did so before is not copied again."""
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(target.name + ".writing")
    shutil.copyfile(source, aside)
    os.replace(aside, target)
