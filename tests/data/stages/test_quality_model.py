"""A model of good and bad texts learns what tells them apart, and a corpus stage drops what it scores low."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Corpus
from hanlin.config.settings.quality import QualityModel as Settings
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.data.stages import corpus
from hanlin.data.stages.quality_model import run
from hanlin.data.text.quality_model import QualityModel, extract_features

Put = Callable[[str, Any], Path]
GOOD = ["湖边的芦苇白了头", "渔家的小船从苇丛里穿出来", "孩子们在岸上数水鸟", "老人讲起从前的事"]
BAD = ["本厂专业生产各种风机", "价格优惠", "欢迎新老客户来电洽谈", "规格齐全", "货真价实", "全国发货"]


def texts(parts: list[str], seed: int, count: int = 60) -> list[dict[str, str]]:
    chance = random.Random(seed)
    return [{"text": "，".join(chance.sample(parts, 3)) + f"。{chance.randint(0, 999)}"} for _ in range(count)]


def train(put: Put, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    inputs = Inputs({"good": (put("good.jsonl", texts(GOOD, 1)),), "bad": (put("bad.jsonl", texts(BAD, 2)),)})
    return run(Settings(good="./good.jsonl", bad="./bad.jsonl", **settings), inputs, out, StageContext())


def test_a_model_tells_unseen_texts_apart(put: Put, tmp_path: Path) -> None:
    metrics = train(put, tmp_path / "model")
    assert metrics["good"] + metrics["validation_good"] == 60
    assert metrics["precision"] == metrics["recall"] == 1
    model = QualityModel.load(tmp_path / "model")
    assert model.score("老人在湖边讲起从前的水鸟。") > 0.5 > model.score("专业生产，价格优惠，欢迎来电。")
    limits = json.loads((tmp_path / "model" / "quality.json").read_text(encoding="utf-8"))["limits"]
    assert [row["min_score"] for row in limits] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert [row["recall"] for row in limits] == sorted(row["recall"] for row in limits)


def test_equal_texts_settings_and_seed_make_the_same_bytes(put: Put, tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(put, tmp_path / name, buckets=2048, epochs=3)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two and set(one) == {"weights.npy", "quality.json"}


def test_a_corpus_stage_drops_what_the_model_scores_low(put: Put, tmp_path: Path) -> None:
    train(put, tmp_path / "model")
    path = put("pages.jsonl", texts(GOOD, 3, 5) + texts(BAD, 4, 5))
    inputs = Inputs({"sources.0.path": (path,), "quality.model": (tmp_path / "model",)})
    (tmp_path / "out").mkdir()
    settings = Corpus(sources="./pages.jsonl", rules=[], quality="model", dedup="none", validation_fraction=0)
    metrics = corpus.run(settings, inputs, tmp_path / "out", StageContext())
    assert metrics["rows_kept"] == 5 and metrics["dropped"] == {"low_quality": 5}
    dropped = (tmp_path / "out" / "dropped.jsonl").read_text(encoding="utf-8")
    assert "score 0." in dropped


def test_too_few_texts_and_a_folder_without_a_model_are_named(put: Put, tmp_path: Path) -> None:
    few = put("few.jsonl", texts(GOOD, 1, 3))
    with pytest.raises(UserError, match="too few"):
        run(Settings(good="./a", bad="./b"), Inputs({"good": (few,), "bad": (few,)}), tmp_path, StageContext())
    with pytest.raises(UserError, match="no quality model"):
        QualityModel.load(tmp_path)


def test_features_have_length_one_and_do_not_depend_on_case_and_blanks() -> None:
    indices, values = extract_features("Ab 湖边\n的芦苇", 1 << 12)
    again, _ = extract_features("aB湖边的芦苇", 1 << 12)
    assert indices.tolist() == again.tolist() and float((values * values).sum()) == pytest.approx(1)
    assert len(extract_features("", 1 << 12)[0]) == 0
