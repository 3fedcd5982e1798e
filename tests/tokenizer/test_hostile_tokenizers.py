"""Tokenizers of others: patterns and normalizers without bounds end in one sentence."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.core.process import BoundsExceededError, run_bounded
from hanlin.tokenizer.proof import check
from hanlin.tokenizer.proof.ordinary import has_ordinary_rules
from hanlin.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def folder(tiny_tokenizer: Path, tmp_path: Path) -> Path:
    """A copy of the tiny tokenizer that a test may spoil."""
    return Path(shutil.copytree(tiny_tokenizer, tmp_path / "tokenizer"))


def change(folder: Path, name: str = "tokenizer.json", **values: Any) -> None:
    data = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps(data | values), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Tokenizer.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def replace(pattern: dict[str, str], content: str, times: int = 1) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": pattern, "content": content}
    return {"type": "Sequence", "normalizers": [step] * times}


@pytest.mark.parametrize(
    "normalizer",
    [
        replace({"Regex": "."}, "xxxxxxxxxx", 30),
        replace({"String": "a"}, "aa", 30),
        replace({"String": "a"}, "b" * 1000),
        replace({"Regex": ""}, "b" * 1000),
        {"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa", 9)]}]},
        {"type": "Prepend", "prepend": "x" * 10_000},
    ],
)
def test_normalizers_that_make_texts_grow_are_refused(folder: Path, normalizer: dict[str, Any]) -> None:
    change(folder, normalizer=normalizer)
    said = refusal(folder)
    assert "more than 64 times as long" in said or "not a tokenizer" in said


def test_a_pattern_that_takes_too_long_is_ended_in_a_child(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exceed(*_: object, **__: object) -> None:
        raise BoundsExceededError("time")

    split = {"type": "Split", "pattern": {"Regex": "(a*)*(a*)*b"}, "behavior": "Isolated", "invert": False}
    change(folder, pre_tokenizer=split)
    monkeypatch.setattr(check, "run_bounded", exceed)
    assert "takes too long" in refusal(folder)


def test_an_unusual_pattern_is_proven_once_and_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = {"type": "Split", "pattern": {"Regex": r"\p{Han}+|[a-z]+"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    change(folder, pre_tokenizer={"type": "Sequence", "pretokenizers": [split, level]})
    assert Tokenizer.load(folder).encode("翰林院ab")
    monkeypatch.setattr(check, "run_bounded", lambda *_, **__: pytest.fail("a second proof"))
    assert Tokenizer.load(folder).encode("翰林院ab")


def test_a_key_that_is_spelled_with_escapes_is_seen(folder: Path) -> None:
    change(folder, normalizer=replace({"Regex": "."}, "xxxxxxxxxx", 30))
    file = folder / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"Regex"', '"\\u0052egex"'), encoding="utf-8")
    assert "64 times" in refusal(folder)


def test_a_file_of_gigabytes_and_endless_patterns_are_not_read(folder: Path) -> None:
    change(folder, normalizer=replace({"Regex": "a" * 10_000}, ""))
    assert "8,192 characters" in refusal(folder)
    with (folder / "tokenizer.json").open("ab") as file:
        file.truncate(1 << 33)
    assert "8,589,934,592 bytes" in refusal(folder)


@pytest.mark.parametrize(
    "values",
    [
        *({"eos_token": 5}, {"bos_token": ["x"]}, {"pad_token": {"content": {}}}, {"unk_token": "x" * 5000}),
        *({"added_tokens_decoder": [1]}, {"added_tokens_decoder": {"x": {"content": "a"}}}),
        *({"added_tokens_decoder": {"-1": {"content": "a"}}}, {"added_tokens_decoder": {"5": {"content": 7}}}),
        {"added_tokens_decoder": {"9999999999": "a"}},
    ],
    ids=str,
)
def test_special_tokens_that_are_no_texts_are_refused(folder: Path, values: dict[str, Any]) -> None:
    change(folder, "tokenizer_config.json", **values)
    assert "special token" in refusal(folder)


def test_a_child_returns_raises_and_is_ended() -> None:
    assert run_bounded("os.path:basename", "/a/b", seconds=60) == "b"
    with pytest.raises(RuntimeError, match="expected str"):
        run_bounded("os.path:basename", 5, seconds=60)
    with pytest.raises(BoundsExceededError, match="memory"):
        run_bounded("builtins:bytes", 1 << 32, seconds=60, memory=1 << 30)


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("normalizer", "normalizers"),
        ("pre_tokenizer", "pretokenizers"),
        ("post_processor", "processors"),
        ("decoder", "decoders"),
    ],
)
def test_a_step_of_an_unknown_type_is_named(folder: Path, part: str, key: str, is_nested: bool) -> None:
    step: dict[str, Any] = {"type": "Frobnicate"}
    rules: dict[str, Any] = {part: {"type": "Sequence", key: [step]} if is_nested else step}
    change(folder, **rules)
    assert f"its {part} has a step of the type 'Frobnicate', which is not known" in refusal(folder)


MISSING = [{"SpecialToken": {"id": "<|nowhere|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]


@pytest.mark.parametrize(
    "values",
    [
        {"post_processor": {"type": "TemplateProcessing", "single": MISSING, "pair": [], "special_tokens": {}}},
        {"model": {"continuing_subword_prefix": "-1"}},
    ],
    ids=["a token that is not there", "a prefix longer than a piece"],
)
def test_a_panic_of_the_library_is_a_refusal_and_prints_nothing(
    folder: Path, values: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    if "model" in values:
        values = {
            "model": json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"] | values["model"]
        }
    change(folder, **values)
    assert "not a tokenizer of the tokenizers library" in refusal(folder)
    assert capfd.readouterr() == ("", "")


def test_usual_rules_start_no_child(folder: Path) -> None:
    data = (folder / "tokenizer.json").read_bytes()
    assert has_ordinary_rules(data)
    late = data.rstrip()[:-1] + b', "post_processor": {"type": "BertProcessing"}}'  # the second of a name counts
    assert not has_ordinary_rules(late)


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes are POSIX's")
def test_a_folder_whose_name_is_not_utf8_is_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"bad\xff")
    folder.mkdir()
    with pytest.raises(UserError, match="not UTF-8"):
        Tokenizer.load(folder)
