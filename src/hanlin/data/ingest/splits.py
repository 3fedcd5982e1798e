"""Input splits: files, or byte ranges of them, that are processed independently of each other."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from hanlin.core.files import FileState
from hanlin.data.formats.detect import detect_format
from hanlin.data.ingest.executor import ProgressCounter
from hanlin.data.ingest.spec import WorkerContext
from hanlin.data.io.input_file import WHOLE_FILE, ByteRange, InputFile
from hanlin.data.io.layout import Layout, is_splittable
from hanlin.data.io.sources import SourceFile

SPLIT_BYTES = 1 << 24
"""Bytes of a split. It must not depend on the number of cores: a resumed run with other cores needs the same splits."""
READ_ERRORS = frozenset({"broken_json", "undecodable", "line_too_long", "broken_csv"})
"""Reasons of dropped rows that stop a run with `on_error: stop`."""


@dataclass(frozen=True, slots=True)
class FileProbe:
    """What was found out about a file before it is processed.

    Attributes:
        layout: Container and encoding.
        format: Name of the format of its rows, one of the spec's.
        splittable: Whether it can be read from the middle.
        state: The state in which it was probed, to detect later changes.
        host: The machine that probed it.
        is_joined: Whether a record is made of several of its rows.
        missing: Names that the setting `fields` has and none of its first rows.
        classes: Fields of its rows that hold classes, though they have the name of a label.
    """

    layout: Layout
    format: str
    splittable: bool
    state: FileState
    host: str = field(default_factory=socket.gethostname)
    is_joined: bool = False
    missing: tuple[str, ...] = ()
    classes: frozenset[str] = frozenset()

    def is_unchanged(self, state: FileState) -> bool:
        """Whether a file is in the state in which it was probed.

        A mounted object store may number its files anew whenever they are opened, and on some shared file systems a
        file has another inode on each machine. The time of the last inode change, where there is one, tells as much.
        """
        if socket.gethostname() != self.host:
            return (state.size, state.mtime_ns) == (self.state.size, self.state.mtime_ns)
        return state == (self.state._replace(inode=state.inode) if state.ctime_ns else self.state)

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.state.size

    def split(self) -> list[ByteRange]:
        """Return the byte ranges to process: the whole file, or ranges of `SPLIT_BYTES`."""
        if not self.splittable or self.size <= SPLIT_BYTES:
            return [WHOLE_FILE]
        starts = range(0, self.size, SPLIT_BYTES)
        return [ByteRange(start, start + SPLIT_BYTES if start + SPLIT_BYTES < self.size else None) for start in starts]


def probe_file(worker: WorkerContext, file: SourceFile, progress: ProgressCounter) -> FileProbe:
    """Find out layout and format of a file.

    Args:
        worker: The stage.
        file: The file.
        progress: Unused; every function of an executor has it.

    Raises:
        UserError: As `detect_format`, or the file changed meanwhile.
    """
    with InputFile(file.path) as opened:
        state, is_compressed = opened.state, opened.is_compressed
        detected = detect_format(file, worker.spec.formats(file), worker.spec.other_formats)
        opened.check_unchanged()
    splittable = not is_compressed and not detected.is_joined and is_splittable(detected.layout)
    return FileProbe(
        detected.layout,
        detected.format.name,
        splittable,
        state,
        is_joined=detected.is_joined,
        missing=detected.missing,
        classes=detected.classes,
    )


@dataclass(frozen=True, slots=True)
class InputSplit:
    """A part of a file to process.

    Attributes:
        file: The file.
        probe: What was found out about it.
        byte_range: Lines that begin in this range belong to the split.
        name: Beginning of the names of its shards.
        limit: Largest number of rows; None: all.
        is_reference: Its records are those of another stage (`dedup_against`), which are only compared with.
    """

    file: SourceFile
    probe: FileProbe
    byte_range: ByteRange
    name: str
    limit: int | None = None
    is_reference: bool = False

    @property
    def num_bytes(self) -> int:
        """Bytes of the split."""
        return (self.probe.size if self.byte_range.stop is None else self.byte_range.stop) - self.byte_range.start
