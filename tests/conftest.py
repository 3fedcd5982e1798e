"""Fixtures of all tests: the folder of real data, a tiny real tokenizer and a tiny Llama model made on the spot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

os.environ.setdefault("HANLIN_LANG", "en")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models are as fast, and tests beside each other do not wait


def pytest_configure(config: pytest.Config) -> None:
    """Compile the translations if they are newer than what was compiled, once, before any test reads them.

    Hypothesis fails an example that takes longer than 200 ms: on a slow or busy machine any may.
    """
    from hypothesis import HealthCheck, settings

    current = settings.get_profile(settings.get_current_profile_name())
    slow = [HealthCheck.too_slow]
    settings.register_profile("any_machine", current, deadline=None, suppress_health_check=slow)
    settings.load_profile("any_machine")
    source = Path(__file__).resolve().parents[1] / "src" / "hanlin" / "locale" / "zh_CN" / "LC_MESSAGES" / "hanlin.po"
    target = source.with_suffix(".mo")
    if not hasattr(config, "workerinput") and (not target.is_file() or target.stat().st_mtime < source.stat().st_mtime):
        from babel.messages.mofile import write_mo
        from babel.messages.pofile import read_po

        with source.open("rb") as catalog, target.open("wb") as compiled:
            write_mo(compiled, read_po(catalog))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The check of an export reads 25 conversations of each kind, which takes 3 to 7 seconds for each file; where it is
    not what is tested, it reads 3 of each.
    """
    from hanlin.parity import cases

    reads_all = "parity" in item.path.parts or item.get_closest_marker("slow") is not None
    cases.PER_KIND = 25 if reads_all else 3


TEXT = [
    "翰林院在城东，春天的时候院子里开满了花。",
    "你叫什么名字？我叫小翰，是一个中文助手。",
    "三加四等于七，十二减五等于七。",
    "What is your name? My name is Xiaohan, an assistant.",
    "Three plus four is seven. The library stands in the east of the town.",
]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout (or at `HANLIN_SHARED_DATA`); tests that need it skip without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("HANLIN_SHARED_DATA", beside))
    if not (folder / "SOURCES.md").is_file():
        pytest.skip("the folder of real data is not here (set HANLIN_SHARED_DATA)")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer of about 400 entries with Llama 3's special tokens and its chat template."""
    from hanlin.models.train_tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tiny_tokenizer")
    train_tokenizer(TEXT, vocab_size=400, template="llama3", out=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A two-layer Llama folder with random weights over `tiny_tokenizer`, 4 heads sharing 2 key-value heads."""
    from hanlin.chat.template import ChatTemplate
    from hanlin.tokenizer.tokenizer import Tokenizer
    from tiny_llama import tiny_llama

    tokenizer = Tokenizer.load(tiny_tokenizer)
    stop_ids = list(ChatTemplate.load(tiny_tokenizer, tokenizer).stop_ids)
    folder = tmp_path_factory.mktemp("tiny_model")
    tiny_llama(folder, tokenizer, seed=0, eos_token_id=stop_ids, pad_token_id=tokenizer.pad_id)
    tokenizer.save(folder)
    return folder


def write_json(path: Path, data: object) -> Path:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path
