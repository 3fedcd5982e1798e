"""Lines that end with a carriage return alone are lines, cells of bytes are named, and no folder is passed over."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.errors import UserError
from hanlin.data.io.sources import find_files
from hanlin.data.report.inspect import inspect
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]
TEXTS = [f"{number}号馆在城的东边，门前有一棵老槐树，" + "春天开花，夏天乘凉，" * 20 for number in range(4)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_every_usual_line_end_ends_a_line(put: Put, run: Run, name: str, end: str) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) if name == "a.jsonl" else text for text in TEXTS]
    path = put(name, end.join(["text", *lines] if name == "a.csv" else lines))
    made = run(Corpus, path, rules=(), validation_fraction=0, dedup="exact")
    assert made.texts == TEXTS
    assert [row["source"].rpartition(":")[2] for row in made.kept] == (
        ["2", "3", "4", "5"] if name == "a.csv" else ["1", "2", "3", "4"]
    )


def test_cells_of_bytes_are_named_and_a_picture_is_seen(put: Put, run: Run) -> None:
    columns = {"question": ["图里是什么？", "几点了？"], "answer": ["一只猫。", "九点。"]}
    picture, other = [b"\x89PNG\xff", None], [None, b"\xd6\xd0\xce\xc4"]
    data = io.BytesIO()
    pq.write_table(pa.table({**columns, "image": picture, "note": other}), data)
    made = run(Conversations, put("a.parquet", data.getvalue()), validation_fraction=0)
    assert made.ledger["dropped"] == {"media": 1} and made.ledger["unread_fields"] == {"note": 1}


def test_a_folder_that_cannot_be_listed_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "a.txt").write_text(TEXTS[0], encoding="utf-8")
        (folder / "closed").mkdir(mode=0)
        is_root = os.geteuid() == 0
        try:
            if is_root:
                os.seteuid(65534)  # root may list any folder
            with pytest.raises(UserError, match="cannot be read") as error:
                find_files([name])
        finally:
            if is_root:
                os.seteuid(0)
        assert str(error.value.where).endswith("closed")


def test_inspect_shows_a_table_of_the_first_macs(put: Put) -> None:
    (row,) = inspect([str(put("a.csv", "question,answer\r几点？,九点。\r几时？,十点。\r"))])
    assert (row["stage"], row["kept"]) == ("conversations", 2)
