"""The catalog's data files: what they name exists here, and each entry says what it must in both languages."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.main import get_command

from hanlin.catalog.entries import datasets, get_model, licenses, models, select_entries, shapes, tools
from hanlin.catalog.page import markdown
from hanlin.catalog.schema import CatalogEntry, DataSet, Model
from hanlin.chat.packaged import packaged_names
from hanlin.cli.main import app
from hanlin.core.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING: tuple[CatalogEntry, ...] = (*models(), *datasets(), *tools())


def test_the_catalog_holds_what_people_look_for() -> None:
    """Names of the lists that newcomers come from, and of models that they have heard of."""
    names = "\n".join([name for entry in EVERYTHING for name in (entry.name, *entry.hubs.values())])
    for wanted in (
        *("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.3-70B-Instruct"),
        *("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "HuggingFaceTB/SmolLM2-135M-Instruct", "TinyLlama/"),
        *("01-ai/Yi-1.5-9B-Chat", "hfl/chinese-alpaca-2-7b", "hfl/llama-3-chinese-8b-instruct-v3", "FlagAlpha/Atom-7B"),
        *("hfl/chinese-alpaca-pro-lora-7b", "shenzhi-wang/Llama3-8B-Chinese-Chat", "Rookie/"),
        *("YeungNLP/firefly-train-1.1M", "LooksJuicy/ruozhiba", "shareAI/DPO-zh-en-emoji", "hiyouga/DPO-En-Zh-20k"),
        *("Skywork/SkyPile-150B", "C-Eval", "CMMLU", "LongBench", "LLaMA-Factory", "unsloth", "Ollama", "vLLM"),
    ):
        assert wanted in names, wanted


def test_every_repository_that_the_lists_of_2023_and_2024_name_is_found() -> None:
    """The five lists with which Chinese Llama models began; `names_in_lists.txt` has every repository they link to.

    Their owners moved some since: an entry is found by its hubs, forms, page and words, or by what follows the `/`.
    """
    known = "\n".join(
        text
        for entry in EVERYTHING
        for text in (
            *(entry.name, entry.homepage or "", *entry.hubs.values(), *entry.words),
            *getattr(entry, "variants", {}).values(),
        )
    ).casefold()
    names = (ROOT / "tests" / "catalog" / "names_in_lists.txt").read_text(encoding="utf-8").split()
    assert len(names) > 100
    assert [name for name in names if name.casefold() not in known and name.split("/")[1].casefold() not in known] == []


def test_a_figure_says_where_it_was_read_or_that_it_is_unverified_and_its_absence_why() -> None:
    rows = [entry for entry in datasets() if entry.rows is not None]
    assert len(rows) > 40 and sum(entry.size is not None for entry in datasets()) > 35
    assert all("rows" in {*entry.sources, *entry.unverified} for entry in rows)
    row = {"id": "x", "name": "x", "hubs": {"hf": "a/b"}, "license": "mit", "languages": ["zh"], "use": "questions"}
    row["good_for"] = {"en": "for a test", "zh": "测试"}
    page = "https://example.org/page"
    figures = {"rows": 5, "size": "1.2 GB", "sources": {"rows": page, "size": page}}
    DataSet.model_validate({**row, **figures})
    DataSet.model_validate({**row, "missing": {"rows": "not-published", "size": "not-found"}})
    for wrong, what in (
        ({"rows": 5}, "neither sourced nor unverified"),
        ({"size": "1 GB"}, "size without a source"),
        ({"rows": 5, "unverified": ["rows"], "sources": {"rows": page}}, "a source for what is unverified: rows"),
        ({}, "does not say why it has no rows, size"),
        ({"missing": {"rows": "grows"}}, "does not say why it has no size"),
        ({**figures, "missing": {"size": "grows"}}, "has what it calls missing: size"),
        ({"missing": {"rows": "forgotten", "size": "grows"}}, "not-published"),
    ):
        with pytest.raises(ValidationError, match=what):
            DataSet.model_validate({**row, **wrong})


def test_ids_are_unique() -> None:
    ids = [entry.id for entry in EVERYTHING]
    assert sorted(ids) == sorted(set(ids))


def test_a_repository_is_one_entry() -> None:
    hubs = [(type(entry), hub, name) for entry in EVERYTHING for hub, name in entry.hubs.items()]
    assert len(hubs) == len(set(hubs))


def test_every_license_shape_base_and_recipe_exists() -> None:
    ids = {model.id for model in models()}
    for entry in EVERYTHING:
        assert entry.license in licenses(), entry.id
        assert entry.recipe is None or (ROOT / entry.recipe).is_file(), entry.id
    for model in models():
        assert model.base is None or model.base in ids, model.id
        assert model.shape is None or model.shape in shapes(), model.id


def test_every_shipped_recipe_that_begins_with_a_model_of_others_is_named() -> None:
    named = {entry.recipe for entry in EVERYTHING}
    shipped = {f"recipes/{path.name}" for path in (ROOT / "recipes").glob("llama*.yaml")}
    without = {"recipes/llama3_8b_import.yaml", "recipes/llama3_8b_zh_en_gguf.yaml"}  # for any model of this shape
    assert shipped - without <= named


def test_every_template_is_packaged() -> None:
    names = {*packaged_names(), "own", None}
    assert {model.id: model.template for model in models() if model.template not in names} == {}


def test_every_format_is_one_of_the_stage_that_reads_it() -> None:
    """The schema checks it; here that the check is alive."""
    row = {"id": "x", "name": "x", "hubs": {"hf": "a/b"}, "license": "mit", "languages": ["zh"]}
    row["missing"] = {"rows": "not-found", "size": "not-found"}
    text = {"en": "for a test", "zh": "测试"}
    DataSet.model_validate({**row, "good_for": text, "use": "conversations", "format": "alpaca"})
    with pytest.raises(ValidationError, match="no format paired_alpaca"):
        DataSet.model_validate({**row, "good_for": text, "use": "conversations", "format": "paired_alpaca"})
    with pytest.raises(ValidationError, match="has no format"):
        DataSet.model_validate({**row, "good_for": text, "use": "corpus"})


def test_english_texts_hold_no_chinese_sentence() -> None:
    for entry in EVERYTHING:
        for text in (entry.good_for, *entry.faults):
            chinese = sum("\u4e00" <= character <= "\u9fff" for character in text.en)
            assert chinese < 8, (entry.id, text.en)


def test_what_is_not_verified_is_said() -> None:
    """Names of hubs that are known from lists alone are marked, and no pin is without its hub."""
    assert sum(bool(entry.unverified) for entry in EVERYTHING) > 20  # and fewer with each look
    row = {"id": "x", "name": "x", "kind": "base", "hubs": {"ms": "a/b"}, "license": "mit", "shape": "llama-3-8b"}
    with pytest.raises(ValidationError, match="no name on that hub"):
        Model.model_validate({**row, "good_for": {"en": "for a test", "zh": "测试"}, "unverified": ["hf"]})


def test_entries_are_found_by_words_of_both_languages_and_of_hubs() -> None:
    assert [entry.id for entry in select_entries(datasets(), ["弱智吧", "gpt-4"])] == ["ruozhiba-gpt4"]
    assert "atom-7b-chat" in [entry.id for entry in select_entries(models(), ["FLAGALPHA", "chat"])]
    assert select_entries(models(), ["no such word"]) == []


def test_a_model_is_found_by_its_id_and_its_name_on_a_hub() -> None:
    assert get_model("meta-llama/Llama-3.1-8B").id == get_model("llama-3.1-8b").id
    with pytest.raises(UserError) as told:
        get_model("llama-3.1-8b-instuct")
    assert told.value.hint is not None and "llama-3.1-8b-instruct" in told.value.hint
    with pytest.raises(UserError) as told:
        get_model("no/such")
    assert told.value.hint is not None and "hf:owner/name" in told.value.hint and len(told.value.hint) < 200


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    get_command(app)(["catalog", *words], standalone_mode=False)
    return capsys.readouterr().out


def test_the_command_shows_a_table_and_one_entry_with_all_that_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANLIN_LANG", "en")
    assert len(show(capsys, "models").splitlines()) > len(models())
    entry = show(capsys, "models", "llama-3.1-8b-instruct", "--lang", "zh")
    assert "LLM-Research/Meta-Llama-3.1-8B-Instruct" in entry and "须以“Llama”开头" in entry
    assert "22.6" in entry  # GB by LoRA
    assert "tree/main" in show(capsys, "datasets", "belle-2m") and "1.94 GB" in show(capsys, "datasets", "belle-2m")
    assert "更长的回答" in show(capsys, "datasets", "ruozhiba-gpt4", "--lang", "zh")
    assert "作者未公布" in show(capsys, "datasets", "cci3-hq", "--lang", "zh")
    assert "num_ctx" in show(capsys, "tools", "ollama")


def test_the_command_gives_programs_bytes_and_texts_of_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(show(capsys, "models", "atom-7b-chat", "--json"))
    assert row["parameters"] == 7_008_751_616 and row["bytes"]["train"]["qlora"] > 5e9
    assert row["good_for"]["zh"] and row["license"]["forbids"]["en"]


def test_every_page_of_the_catalog_is_current() -> None:
    for language, sort in product(("en", "zh"), ("models", "datasets", "tools")):
        page = ROOT / "docs" / language / f"catalog_{sort}.md"
        assert page.read_text(encoding="utf-8") == markdown(sort, language), "run `make docs`"  # type: ignore[arg-type]
