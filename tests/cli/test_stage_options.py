"""Options of single stages: each setting of a kind, and the plain data that what was typed becomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanlin.cli.commands.stage_options import options_of, settings_from
from hanlin.cli.help import repeat_flags
from hanlin.config.kinds import KINDS
from hanlin.config.settings_page import rows_of
from hanlin.core.errors import UserError


def read(kind: str, **texts: list[str]) -> dict[str, Any]:
    return settings_from(options_of(KINDS[kind].settings), texts)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_setting_has_an_option(kind: str) -> None:
    options = options_of(KINDS[kind].settings)
    assert [option.name for option in options] == [row.name for row in rows_of(KINDS[kind].settings)]
    assert all(option.parameter.isidentifier() for option in options)


def test_a_nested_setting_is_nested_and_a_path_gets_what_recipes_want() -> None:
    assert read("sft", data=["a"], lora__rank=["8"], model=["/m"], epochs=["1e-1"]) == {
        "data": ["./a"],
        "lora": {"rank": 8},
        "model": "/m",
        "epochs": 0.1,
    }


def test_a_list_is_repeated_or_written_with_commas() -> None:
    for texts in (["Q8_0", "Q4_K_M"], ["Q8_0,Q4_K_M"], ["[Q8_0, Q4_K_M]"]):
        assert read("gguf", types=texts) == {"types": ["Q8_0", "Q4_K_M"]}
    assert read("sft", betas=["0.9,0.95"]) == {"betas": [0.9, 0.95]}
    assert read("sft", data=["a,b", "hf:o/n@1"]) == {"data": ["./a", "./b", "hf:o/n@1"]}
    rules = read("corpus", rules=["default,symbols: {share: 0.2, x: 1}"])
    assert rules == {"rules": ["default", {"symbols": {"share": 0.2, "x": 1}}]}


def test_a_path_with_a_comma_that_is_there_is_one_path(tmp_path: Path) -> None:
    file = tmp_path / "a,b.txt"
    file.write_text("x", encoding="utf-8")
    assert read("corpus", sources=[str(file)]) == {"sources": [str(file)]}


def test_a_setting_below_a_list_is_that_of_each_item() -> None:
    typed = read("conversations", sources=["a.json,b.json"], sources__format=["sharegpt"])
    assert typed == {
        "sources": [{"path": "./a.json", "format": "sharegpt"}, {"path": "./b.json", "format": "sharegpt"}]
    }
    assert read("corpus", sources=["{path: x, limit: 3}"]) == {"sources": [{"path": "./x", "limit": 3}]}
    assert read("corpus", sources=['["a", "b"]']) == {"sources": ["./a", "./b"]}


def test_what_is_no_yaml_and_what_has_no_parts_is_refused() -> None:
    with pytest.raises(UserError, match=r"'\{' is not valid YAML"):
        read("corpus", validation_fraction=["{"])
    with pytest.raises(UserError, match=r"--lora\.rank: needs settings in --lora, not 8"):
        read("sft", lora=["8"], lora__rank=["8"])


def test_none_is_the_value_that_descriptions_write_so() -> None:
    assert read("sft", lora=["none"], learning_rate=["none"]) == {"lora": None, "learning_rate": None}
    with pytest.raises(UserError, match="not none"):
        read("sft", lora=["none"], lora__rank=["8"])


@pytest.mark.parametrize(
    ("kind", "texts", "sentence"),
    [
        ("sft", {"epochs": ["1", "2"]}, "--epochs: given 2 times"),
        ("sft", {"lora": ["{rank: 8}"], "lora__rank": ["16"]}, "--lora.rank: given both here and in --lora"),
        ("corpus", {"sources": ["a"], "sources__path": ["b"]}, "--sources.path: given both here and in --sources"),
        ("sft", {"model": [""]}, "--model: a path is empty"),
        ("corpus", {"sources": [","]}, "--sources: a path is empty"),
        ("sft", {"epochs": ["{[a]: b}"]}, "is not valid YAML"),
        ("sft", {"epochs": ["2026-99-99"]}, "is not valid YAML"),
        ("sft", {"epochs": ["0x_"]}, "is not valid YAML"),
        ("sft", {"epochs": ["[" * 3000]}, "is not valid YAML"),
    ],
)
def test_what_is_given_twice_empty_or_impossible_is_refused(
    kind: str, texts: dict[str, list[str]], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        read(kind, **texts)
    assert sentence in str(refused.value)


def test_a_path_that_begins_with_a_bracket_is_a_path_if_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("{x}.txt").write_text("x", encoding="utf-8")
    assert read("corpus", sources=["{x}.txt"]) == {"sources": ["./{x}.txt"]}


@pytest.mark.parametrize(
    ("typed", "repeated"),
    [
        ("--sources a b c", "--sources a --sources b --sources c"),
        ("--sources a b --seed 1", "--sources a --sources b --seed 1"),
        ("--sources=a b --sources c d", "--sources=a --sources b --sources c --sources d"),
        ("--betas 0.9 -1 --seed 1", "--betas 0.9 --betas -1 --seed 1"),
        ("--dedup_against a b", "--dedup_against a --dedup-against b"),
        ("--seed 1 2", "--seed 1 2"),
        ("--sources a -h", "--sources a -h"),
        ("--sources a -- b", "--sources a -- b"),
    ],
)
def test_several_values_follow_an_option_that_takes_several(typed: str, repeated: str) -> None:
    flags = frozenset(["--sources", "--betas", "--dedup-against"])
    assert repeat_flags(typed.split(), flags) == repeated.split()


def test_a_mapping_and_a_parameter_of_a_rule_need_no_braces() -> None:
    typed = read("conversations", sources=["a", "b"], sources__fields=["prompt=问", "response=答"])
    fields = {"prompt": "问", "response": "答"}
    assert typed == {"sources": [{"path": "./a", "fields": fields}, {"path": "./b", "fields": fields}]}
    assert read("corpus", sources__fields=["{text: body}"]) == {"sources": {"fields": {"text": "body"}}}
    typed = read("corpus", rules=["default", "symbols.share=0.3", "language.keep=zh-Hans"])
    assert typed == {"rules": ["default", {"symbols": {"share": 0.3}}, {"language": {"keep": "zh-Hans"}}]}


def test_a_template_is_a_packaged_name_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("own", "llama3"):
        Path(name).write_text("{{ bos_token }}", encoding="utf-8")
    given = ("llama3", "own", "own.jinja", "folder/own", "none")
    read_as = ("llama3", "./own", "./own.jinja", "./folder/own", None)
    assert [read("sft", template=[text])["template"] for text in given] == list(read_as)
