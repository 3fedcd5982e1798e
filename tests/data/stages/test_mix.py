"""The stage `mix`: proportions of tokens, limits on repeats, a fixed order, and resuming a killed run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.mix import Mix, MixSource
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, read_jsonl, write_jsonl
from hanlin.data.stages import mix
from hanlin.data.stages.mix import allocate, interleave, sample_rows
from hanlin.tokenizer.tokenizer import Tokenizer


def source(**settings: Any) -> MixSource:
    return MixSource(data="./x", **settings)


def test_sources_are_mixed_by_their_size() -> None:
    assert allocate([300, 100], [source(), source()], 200, 1.0) == pytest.approx([150, 50])
    assert allocate([300, 100], [source(), source()], None, 1.0) == pytest.approx([300, 100])


def test_a_weight_multiplies_and_a_temperature_evens_out() -> None:
    assert allocate([300, 100], [source(), source(weight=3)], 200, 1.0) == pytest.approx([100, 100])
    assert allocate([900, 100], [source(), source()], 200, 2.0) == pytest.approx([150, 50])
    assert allocate([900, 100], [source(), source()], 200, 1e9) == pytest.approx([100, 100])


def test_a_share_does_not_depend_on_sizes() -> None:
    english = source(share=0.1)
    assert allocate([900, 5000], [source(), english], None, 1.0) == pytest.approx([900, 100])
    assert allocate([900, 900, 5000], [source(), source(), english], 1000, 1.0) == pytest.approx([450, 450, 100])


def test_no_source_is_repeated_beyond_its_limit_and_others_fill_in() -> None:
    scarce = source(weight=100, max_repeats=2)
    assert allocate([100, 1000], [scarce, source()], 1000, 1.0) == pytest.approx([200, 800])
    assert allocate([100, 100], [scarce, source(max_repeats=1)], 1000, 1.0) == pytest.approx([200, 100])
    assert allocate([100, 1000], [source(share=0.5, max_repeats=1), source()], 1000, 1.0) == pytest.approx([100, 900])


def test_an_empty_source_gives_nothing() -> None:
    assert allocate([0, 10], [source(), source()], 10, 1.0) == pytest.approx([0, 10])


def test_whole_epochs_come_before_a_part_of_one_and_every_epoch_has_its_own_order() -> None:
    tokens = np.full(50, 10, dtype=np.int64)
    rows = sample_rows(tokens, 1250, "7/0")
    assert sorted(rows[:50]) == sorted(rows[50:100]) == list(range(50)) and len(rows) == 125
    assert rows[:50].tolist() != rows[50:100].tolist()
    assert rows.tolist() == sample_rows(tokens, 1250, "7/0").tolist() != sample_rows(tokens, 1250, "8/0").tolist()


def test_the_proportions_hold_at_every_point_of_the_order() -> None:
    order = interleave([np.full(300, 10, dtype=np.int64), np.full(100, 10, dtype=np.int64)])
    for end in (40, 100, 200, 320):
        assert abs(int((order[:end, 0] == 1).sum()) - end / 4) <= 1


@pytest.mark.parametrize(
    "settings",
    [
        {"sources": [{"data": "./a", "share": 1.0}, "./b"]},
        {"sources": [{"data": "./a", "share": 0.5}], "tokens": 10},
        {"sources": [{"data": "./a", "share": 1.0}]},
        {"sources": []},
    ],
)
def test_shares_that_leave_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Mix(tokenizer="./t", **settings)


# --- the stage --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Twenty Chinese documents and forty English ones, with one held out each."""
    texts = {
        "zh": [f"第{n}天，翰林院里开了花。" * (1 + n % 3) for n in range(20)],
        "en": [f"Day {n}: flowers." for n in range(40)],
    }
    for name, some in texts.items():
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "documents.jsonl", [Document(text, f"a#{n}") for n, text in enumerate(some)])
        write_jsonl(tmp_path / name / "validation.jsonl", [Document(f"{name} held out", "h#1")])
    return tmp_path / "zh", tmp_path / "en"


def mixed(folders: tuple[Path, ...], tokenizer: Path, out: Path, seed: int = 42, **settings: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    rows = settings.pop("sources", [{}] * len(folders))
    chosen = Mix(tokenizer="./t", sources=[{"data": f"./{n}", **row} for n, row in enumerate(rows)], **settings)
    paths = {f"sources.{n}.data": (folder,) for n, folder in enumerate(folders)} | {"tokenizer": (tokenizer,)}
    return mix.run(chosen, Inputs(paths), out, StageContext(seed=seed))


def test_a_mix_has_the_tokens_of_its_budget(folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    budget = 2000
    metrics = mixed(folders, tiny_model, tmp_path / "m", sources=[{}, {"share": 0.2}], tokens=budget)
    tokenizer = Tokenizer.load(tiny_model)
    counted: Counter[str] = Counter()
    for document in read_jsonl(tmp_path / "m/documents.jsonl", Document):
        counted[document.id[0]] += len(tokenizer.encode(document.text))
    assert sum(counted.values()) == metrics["tokens"] and budget - metrics["tokens"] == metrics["tokens_short"] < 100
    assert counted["1"] / metrics["tokens"] == pytest.approx(0.2, abs=0.03)


def test_every_row_is_written_or_listed_as_dropped(
    folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    metrics = mixed(folders, tiny_model, tmp_path / "m", sources=[{}, {"share": 0.05}])
    ledger = json.loads((tmp_path / "m/ledger.json").read_text(encoding="utf-8"))
    ids = {document.id.partition("~")[0] for document in read_jsonl(tmp_path / "m/documents.jsonl", Document)}
    dropped = [json.loads(line) for line in (tmp_path / "m/dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    left = {row["location"] for row in dropped}
    assert not ids & left and len(ids | left) == 60 == ledger["rows_in"] == ledger["rows_kept"] + ledger["rows_dropped"]
    assert {row["reason"] for row in dropped} == {"over_budget"} and metrics["dropped"] == {"over_budget": len(left)}
    assert sum(name.startswith("0/") for name in ids) == 20


def test_a_repeated_record_has_an_id_of_its_own(folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    mixed(folders, tiny_model, tmp_path / "m", sources=[{"weight": 3}, {"max_repeats": 0.5}])
    ids = [document.id for document in read_jsonl(tmp_path / "m/documents.jsonl", Document)]
    assert len(set(ids)) == len(ids) and any(name.endswith("~2") for name in ids)
    held = [document.id for document in read_jsonl(tmp_path / "m/validation.jsonl", Document)]
    assert held == ["0/h#1", "1/h#1"]


def test_equal_settings_give_equal_bytes_and_another_seed_another_order(
    folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path
) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        mixed(folders, tiny_model, tmp_path / name, seed=seed)
    first, same, other = ((tmp_path / name / "documents.jsonl").read_bytes() for name in "abc")
    assert first == same != other and sorted(first) == sorted(other)


def test_a_killed_mix_resumes_to_the_same_bytes(
    folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mix, "CHUNK_ROWS", 7)
    mixed(folders, tiny_model, tmp_path / "whole")
    read, calls = mix._read_row, Counter[str]()

    def breaks(*arguments: Any) -> dict[str, Any]:
        calls["read"] += 1
        if calls["read"] == 30:
            raise KeyboardInterrupt
        return read(*arguments)

    monkeypatch.setattr(mix, "_read_row", breaks)
    with pytest.raises(KeyboardInterrupt):
        mixed(folders, tiny_model, tmp_path / "killed")
    assert not (tmp_path / "killed/documents.jsonl").exists()
    monkeypatch.setattr(mix, "_count_chunk", None)  # nothing is counted twice
    mixed(folders, tiny_model, tmp_path / "killed")
    assert calls["read"] == 30 + 60 - 28
    for name in ("documents.jsonl", "validation.jsonl", "ledger.json", "dropped.jsonl"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_conversations_are_counted_as_the_template_renders_them(tiny_model: Path, tmp_path: Path) -> None:
    chats = [
        Conversation((Message("user", "你是谁？"), Message("assistant", "我是小翰。" * n)), f"c#{n}") for n in (1, 2)
    ]
    (tmp_path / "chats").mkdir()
    write_jsonl(tmp_path / "chats/conversations.jsonl", chats)
    metrics = mixed((tmp_path / "chats",), tiny_model, tmp_path / "m", records="conversations")
    template = ChatTemplate.load(tiny_model)
    assert metrics["tokens"] == sum(len(template.render_conversation(chat)[0].ids) for chat in chats)


def test_a_source_of_other_records_is_refused(folders: tuple[Path, Path], tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no conversations"):
        mixed(folders, tiny_model, tmp_path / "m", records="conversations")
    with pytest.raises(UserError, match="smaller than any record"):
        mixed(folders, tiny_model, tmp_path / "n", tokens=1)


def test_what_is_no_record_is_named_with_its_line(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    file = folder / "documents.jsonl"
    for row, line in (('{"id": "c", "text": "丙"', 4), ('{"id": "c"}', 4), ('{"id": 3, "text": "丙"}', 4)):
        file.write_text(f'{{"id": "a", "text": "甲"}}\n\n{{"id": "b", "text": "乙"}}\n{row}\n', encoding="utf-8")
        with pytest.raises(UserError) as error:
            mixed((folder,), tiny_model, tmp_path / f"m{len(row)}")
        assert str(error.value.where) == f"{file}:{line}"


def test_blank_lines_of_a_validation_split_are_no_records(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    write_jsonl(folder / "documents.jsonl", [Document("甲乙丙丁" * 9, "a")])
    held = folder / "validation.jsonl"
    held.write_text('\n{"id": "h", "text": "戊"}\n\n{"id": 5}\n', encoding="utf-8")
    with pytest.raises(UserError) as error:
        mixed((folder,), tiny_model, tmp_path / "m")
    assert str(error.value.where) == f"{held}:4" and not (tmp_path / "m/validation.jsonl").exists()
    held.write_text('\n{"id": "h", "text": "戊"}\n\n', encoding="utf-8")
    mixed((folder,), tiny_model, tmp_path / "n")
    assert [document.id for document in read_jsonl(tmp_path / "n/validation.jsonl", Document)] == ["0/h"]
