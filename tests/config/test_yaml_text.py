"""YAML within bounds: whatever a recipe holds, it is read in seconds and little memory, or refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.config.recipe_file import read_recipe
from hanlin.config.yaml_text import MAX_BYTES
from hanlin.core.errors import UserError

STAGE = "stages:\n  c: {kind: corpus, sources: [./d.jsonl], %s}\n"


def refusal(folder: Path, text: str | bytes) -> UserError:
    file = folder / "r.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(UserError) as caught:
        read_recipe(file)
    assert str(file) in str(caught.value.where)
    assert len(str(caught.value)) < 600
    return caught.value


def repeated(levels: int, form: str) -> str:
    """Anchors of which each repeats the one before it nine times."""
    lines = ["stages:", "  c:", "    kind: corpus", "    a0: &a0 {k: 1}"]
    for level in range(1, levels):
        lines.append(f"    a{level}: &a{level} " + form % ",".join([f"*a{level - 1}"] * 9))
    return "\n".join(lines)


@pytest.mark.parametrize("form", ["[%s]", "{<<: [%s]}", "{k: [%s]}"])
def test_aliases_of_aliases_are_counted_before_they_are_followed(tmp_path: Path, form: str) -> None:
    assert "aliases included" in refusal(tmp_path, repeated(40, form)).what


@pytest.mark.parametrize("text", ["stages: &s\n  c: *s\n", "stages: &s {c: [*s]}", "? &a [*a]\n: 1"])
def test_a_value_that_holds_itself_is_refused(tmp_path: Path, text: str) -> None:
    assert "not YAML" in refusal(tmp_path, text).what


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 5_000, "- " * 100_000, "a: " + "[" * 65 + "]" * 65])
def test_deep_nesting_is_refused(tmp_path: Path, text: str) -> None:
    assert "more than 64 levels" in refusal(tmp_path, text).what


@pytest.mark.parametrize(
    "value",
    [
        *("0x" + "f" * 100_000, "0x" + "f" * 50, "9" * 60, "9" * 5000, "1:" * 50_000 + "1", "1:" * 20_000 + "1.5"),
        *("-" + "9" * 30, ".inf", ".nan", "1e999", "!!int ''", "!!float ''", "0o9"),
    ],
)
def test_numbers_beyond_measure_are_refused(tmp_path: Path, value: str) -> None:
    refusal(tmp_path, STAGE % f"max_chars: {value}")


@pytest.mark.parametrize(
    "value",
    [
        *("!!binary aGVsbG8=", "!!set {a, b}", "!!omap [a: 1]", "!!python/object/apply:os.system ['true']", "!x y"),
        *("!!bool maybe", "!!timestamp x", "!!null x: y", '"\\0"', '"\\ud800"', "2026-99-99", "[[[[]]]]"),
    ],
)
def test_values_of_other_types_are_refused(tmp_path: Path, value: str) -> None:
    refusal(tmp_path, STAGE % f"on_error: {value}")


@pytest.mark.parametrize(
    "text",
    [
        "stages:\n  ? {a: b}\n  : {kind: corpus}\n",
        "stages: {[a]: {kind: corpus}}",
        "stages: {null: {kind: corpus}}",
        "stages: {1: {kind: corpus}}",
        "stages: {c: {kind: corpus, 1: 2}}",
        "stages: {c: {kind: corpus, 2026-01-01: 2}}",
        "stages: {c: {kind: corpus, .nan: 2}}",
        "1: 2\nstages: {}",
        f"? {'x' * 100_000}\n: 1\nstages: {{}}",
        "root: [1]\nstages: {}",
        "name: {a: b}\nstages: {}",
        "stages: {}\n---\nstages: {}\n",
        "stages: *x",
        "a\x01b: 1",
    ],
)
def test_odd_keys_and_documents_are_refused(tmp_path: Path, text: str) -> None:
    refusal(tmp_path, text)


@pytest.mark.parametrize("text", [b"\xff\xfes\0", "名: 值".encode("gb18030"), b"# x\n" * (MAX_BYTES // 4 + 1)])
def test_a_file_that_is_no_text_or_too_large_is_refused(tmp_path: Path, text: bytes) -> None:
    refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["aux", "a" * 190])
def test_a_stage_has_a_name_that_every_system_takes(tmp_path: Path, name: str) -> None:
    assert "not a valid stage name" in refusal(tmp_path, f"stages: {{{name}: {{kind: corpus, sources: [./d]}}}}").what


def test_settings_are_shared_by_an_anchor(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "stages:\n  a: &a {kind: corpus, sources: [./d.jsonl], max_chars: 900}\n  b:\n    <<: *a\n    max_chars: 800\n",
        encoding="utf-8",
    )
    stages = read_recipe(file).stages
    assert [stages[name].settings.model_dump()["max_chars"] for name in "ab"] == [900, 800]


def test_a_change_to_what_an_anchor_shares_changes_the_named_stage_alone(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "stages:\n"
        "  a: {kind: sft, model: ./m, data: [./d], lora: &lora {rank: 8}}\n"
        "  b: &b {kind: pretrain, model: ./m, data: &data [./d], lora: *lora}\n"
        "  c: {<<: *b, steps: 9}\n"
        "  d: *b\n",
        encoding="utf-8",
    )
    stages = read_recipe(file, ["b.lora.rank=4", "b.data.0=./e", "b.steps=7"]).stages
    settings = {name: stages[name].settings.model_dump() for name in "abcd"}
    assert [settings[name]["lora"]["rank"] for name in "abcd"] == [8, 4, 8, 8]
    assert [settings[name]["data"] for name in "bcd"] == [("./e",), ("./d",), ("./d",)]
    assert [settings[name]["steps"] for name in "bcd"] == [7, 9, None]
