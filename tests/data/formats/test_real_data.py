"""Every example of real data is read completely: the counts are those of its list of sources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences, UnpairedPreferences
from hanlin.config.settings.sources import Source
from hanlin.core.errors import UserError
from hanlin.data.formats.base import Format
from hanlin.data.formats.chats import CHAT_FORMATS
from hanlin.data.formats.detect import open_records
from hanlin.data.formats.documents import DOCUMENT_FORMATS
from hanlin.data.formats.preferences import PREFERENCE_FORMATS
from hanlin.data.formats.unpaired_preferences import UNPAIRED_FORMATS
from hanlin.data.io.input_file import InputFile
from hanlin.data.io.sources import SourceFile
from hanlin.data.ledger import Drop
from stage_runs import Made, run_stage

TEXTS = {
    "badwords_zh.txt": ("text", 1),
    "classic_lunyu.json": ("json_list: documents", 20),
    "classic_mengzi.json": ("json_list: documents", 14),
    "classic_shijing.json": ("json_list: documents", 305),
    "dirty_zh_boilerplate_lines.dev.txt": ("literals: documents", 667),
    "dirty_zh_html_page.txt": ("text", 1),
    "dirty_zh_qa_forum.dev.jsonl": ("jsonl: documents", 667),
    "dirty_zh_webspam.dev.jsonl": ("jsonl: documents", 67),
    "en_c4_demo.dev.jsonl": ("jsonl: documents", 200),
    "en_ewt_web_dev.txt": ("text", 1),
    "en_tinyshakespeare.txt": ("text", 1),
    "en_wiki_demo.txt": ("text_lines", 30),
    "firefly_dummy_pretrain.jsonl": ("jsonl: documents", 45),
    "laws_zh.dev.jsonl": ("jsonl: documents", 70),
    "mixed_zh_cluecorpussmall.dev.txt": ("text_lines", 1667),
    "news_en_ntrex.txt": ("text", 1),
    "news_zh_simp_ntrex.txt": ("text", 1),
    "novel_hongloumeng.txt": ("text_blocks", 120),
    "novel_sanguo.txt": ("text_blocks", 120),
    "poetry_songci_simp_0.json": ("json_list: documents", 1000),
    "poetry_songci_simp_1000.json": ("json_list: documents", 1000),
    "poetry_songci_simp_2000.json": ("json_list: documents", 1000),
    "poetry_tang300_trad.json": ("json_list: documents", 366),
    "poetry_tang_trad_0.json": ("json_list: documents", 1000),
    "poetry_tang_trad_1000.json": ("json_list: documents", 1000),
    "poetry_tang_trad_2000.json": ("json_list: documents", 1002),
    "tech_zh_react_docs.jsonl": ("jsonl: documents", 75),
    "web_zh_wanjuan_sample.dev.jsonl": ("jsonl: documents", 667),
    "wiki_zh_pleisto_sample.dev.json": ("json_list: documents", 167),
    "wiki_zh_simp_cmrc2018_dev.txt": ("text_blocks", 848),
    "wiki_zh_trad_drcd_dev.txt": ("text_blocks", 1000),
}
CHATS = {
    "alpaca_en_demo.json": ("json_list: alpaca", 999),
    "alpaca_zh_demo.json": ("json_list: alpaca", 1000),
    "belle_zh_seed_tasks.jsonl": ("jsonl: self_instruct", 175),
    "chatlm_valid_1k.parquet": ("parquet: prompt_response", 1000),
    "firefly_dummy_data.jsonl": ("jsonl: firefly", 33),
    "firefly_train_1.1M_sample.dev.jsonl": ("jsonl: prompt_response", 667),
    "glaive_toolcall_zh_demo.json": ("json_list: sharegpt", 300),
    "identity.json": ("json_list: alpaca", 91),
    "llama_chinese_dev_sft.dev.csv": ("csv: tagged_text", 133),
    "llama_chinese_dev_sft_sharegpt.dev.csv": ("csv: tagged_text", 60),
    "moss_helpful_brainstorming.jsonl": ("jsonl: moss", 100),
    "moss_helpful_writing.jsonl": ("jsonl: moss", 100),
    "moss_honest.jsonl": ("jsonl: moss", 20),
    "moss_plugin_calculator.jsonl": ("jsonl: moss", 100),
    "moss_plugin_equation.jsonl": ("jsonl: moss", 100),
    "ruozhiba_qa2449_gpt4t.json": ("json_list: alpaca", 2449),
    "sharegpt_zh_1K.dev.jsonl": ("jsonl: sharegpt", 500),
    "stanford_alpaca_seed_tasks.jsonl": ("jsonl: self_instruct", 175),
    "v1_sft_demo.jsonl": ("jsonl: messages", 500),
}
PAIRS = {
    "dpo_en_demo.json": ("json_list: paired_sharegpt", 300),
    "dpo_zh_demo.json": ("json_list: paired_sharegpt", 300),
    "firefly_dummy_dpo.jsonl": ("jsonl: paired_messages", 16),
    "stack_exchange_paired_tiny.json": ("json_list: paired_answers", 25),
}
BROKEN_CALLS = {"moss_plugin_calculator.jsonl": 3, "moss_plugin_equation.jsonl": 1}


def read(path: Path, formats: Sequence[Format[Any]]) -> tuple[str, int, int]:
    """The format of a file, how many records are in it, and how many of them cannot be read."""
    with InputFile(path) as input_file:
        reader = open_records(SourceFile(path, path.name, 0, Source(path=str(path))), input_file, formats)
        items = [found.item for found in reader.rows]
    return reader.format, len(items), sum(isinstance(item, Drop) for item in items)


def example(shared_data: Path, folder: str, name: str) -> Path:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    return shared_data / folder / name


@pytest.mark.parametrize("name", TEXTS)
def test_every_example_of_text_is_read(shared_data: Path, name: str) -> None:
    assert read(example(shared_data, "text", name), DOCUMENT_FORMATS) == (*TEXTS[name], 0)


@pytest.mark.parametrize("name", CHATS)
def test_every_example_of_instructions_is_read(shared_data: Path, name: str) -> None:
    unreadable = BROKEN_CALLS.get(name, 0)
    assert read(example(shared_data, "sft", name), CHAT_FORMATS) == (*CHATS[name], unreadable)


@pytest.mark.parametrize("name", PAIRS)
def test_every_example_of_preferences_is_read(shared_data: Path, name: str) -> None:
    assert read(example(shared_data, "pref", name), PREFERENCE_FORMATS) == (*PAIRS[name], 0)


def test_no_example_was_forgotten(shared_data: Path) -> None:
    for folder, known in (("text", TEXTS), ("sft", CHATS), ("pref", PAIRS)):
        found = {path.name for path in (shared_data / folder).iterdir() if path.is_file()}
        assert found - {"kto_en_demo.json"} == set(known)


@pytest.mark.parametrize("formats", [CHAT_FORMATS, PREFERENCE_FORMATS])
def test_unpaired_answers_are_sent_to_their_own_stage(shared_data: Path, formats: Sequence[Format[Any]]) -> None:
    with pytest.raises(UserError, match="KTO") as refusal:
        read(shared_data / "pref" / "kto_en_demo.json", formats)
    assert "unpaired_preferences" in str(refusal.value.hint)


def test_every_unpaired_preference_is_read(shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / "pref" / "kto_en_demo.json"
    assert read(file, UNPAIRED_FORMATS) == ("json_list: unpaired_messages", 300, 0)
    made = run_stage(UnpairedPreferences, [file], tmp_path)
    assert made.ledger["rows_in"] == 300 and not made.dropped
    assert Counter(row["good"] for row in made.kept) == {True: 150, False: 150}


@pytest.fixture(scope="module")
def corpus(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    names = ("poetry", "wiki", "laws", "dirty", "web", "classic")
    paths = [path for path in sorted((shared_data / "text").iterdir()) if path.name.startswith(names)]
    return run_stage(Corpus, paths, tmp_path_factory.mktemp("corpus"))


def test_good_text_is_hardly_changed(corpus: Made) -> None:
    for account in corpus.ledger["files"]:
        if account["file"].startswith(("poetry", "wiki", "laws", "classic")):
            judged = sum(n for reason, n in account["dropped"].items() if "duplicate" not in reason)
            assert judged <= 0.005 * account["rows_in"] + 1, account


def test_poems_in_two_collections_are_duplicates(corpus: Made) -> None:
    copies = Counter(row["reason"] for row in corpus.dropped if "duplicate_of" in row and "tang" in row["location"])
    assert copies["duplicate"] > 20 and copies["near_duplicate"] > 20


def test_betting_sites_in_copied_news_are_found(corpus: Made) -> None:
    spam = [row for row in corpus.dropped if row["reason"] == "advertisement" and "webspam" in row["location"]]
    assert len(spam) >= 6


def test_all_instructions_become_conversations(shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    made = run_stage(Conversations, [shared_data / "sft"], tmp_path, identity={"name": "小翰", "author": "翰林院"})
    judged = {reason: n for reason, n in made.ledger["dropped"].items() if reason != "duplicate"}
    assert made.ledger["rows_in"] == 8502
    assert judged == {"broken_tool_call": 4, "empty_turn": 3, "no_answer": 1, "turn_order": 2}
    text = (tmp_path / "conversations.jsonl").read_text(encoding="utf-8")
    assert "{{name}}" not in text and "<eom>" not in text and "</s>" not in text


def test_all_preferences_become_pairs_without_ties(shared_data: Path, tmp_path: Path) -> None:
    made = run_stage(Preferences, [shared_data / "pref" / name for name in PAIRS], tmp_path)
    assert made.ledger["rows_in"] == 641 and made.ledger["dropped"] == {"duplicate": 16, "tie": 4}
