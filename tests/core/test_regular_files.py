"""What is no regular file in the place of one is one sentence, and nothing waits for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from hanlin.core.discover import read_texts, record_class
from hanlin.core.errors import UserError
from hanlin.core.files import load_json_object, open_regular
from hanlin.core.records import Document, read_jsonl
from hanlin.models.folder.checks import check_safetensors
from hanlin.pipeline.manifest import MANIFEST, hash_file, read_manifest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs are POSIX's")

READERS: dict[str, Callable[[Path], Any]] = {
    "any": open_regular,
    "settings": load_json_object,
    "records": lambda file: next(read_jsonl(file, Document)),
    "texts": lambda file: next(read_texts([file])),
    "a first record": record_class,
    "a hash": hash_file,
    "weights": check_safetensors,
}


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """A reader that waits for a FIFO would wait for ever."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 300)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "device"])
def test_what_is_no_regular_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "a.jsonl"
    if kind == "device":
        place.symlink_to("/dev/zero")
    else:
        fifo = place if kind == "fifo" else tmp_path / "fifo"
        os.mkfifo(fifo)
        if fifo != place:
            place.symlink_to(fifo)
    for read in READERS.values():
        with pytest.raises(UserError, match="not a regular file"):
            read(place)


def test_a_fifo_in_the_place_of_a_manifest_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MANIFEST)
    with pytest.raises(UserError, match=r"manifest cannot be read.*not a regular file"):
        read_manifest(tmp_path)
