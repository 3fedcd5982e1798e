"""Passkeys are hidden where they should be, and perplexity by position adds up to that of the whole text."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from hanlin.config.settings.evaluate import LongContext, Perplexity
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Document, write_jsonl
from hanlin.core.resumable import read_rows
from hanlin.evaluate import long_context, perplexity
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.web.pages.long_context import draw_long_context

DOCUMENTS = [Document("翰林院在城东，春天的时候院子里开满了花。" * 4, "long"), Document("三加四等于七。", "short")]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    write_jsonl(tmp_path / "data" / "validation.jsonl", DOCUMENTS)
    return tmp_path / "data"


def measure(model: Path, out: Path, data: Path | None = None, **settings: Any) -> dict[str, Any]:
    out.mkdir()
    chosen = LongContext.model_validate({"model": "./m", "samples": 1, "depths": 3, **settings})
    inputs = {"model": (model,), **({"data": (data,)} if data else {})}
    return long_context.run(chosen, Inputs(inputs), out, StageContext())


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_key_lies_at_its_depth_in_a_text_of_its_length(language: str, depth: float, tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    case = long_context.build_case(language, 1500, depth, "48213", tokenizer)
    assert 1200 < len(case.prompt_ids) + len(case.key_ids) <= 1500
    text = tokenizer.decode(list(case.prompt_ids))
    assert tokenizer.decode(list(case.key_ids)) == "48213"
    assert text.count("48213") == 2 and not text.endswith("48213")
    assert text.index("48213") / len(text) == pytest.approx(depth, abs=0.12)


def test_lengths_double_up_to_the_context() -> None:
    assert long_context.choose_lengths((), 2048) == [512, 1024, 2048]
    assert long_context.choose_lengths((), 3000) == [512, 1024, 2048, 3000]
    assert long_context.position_edges(300) == [0, 300]


def test_each_cell_is_measured_and_positions_add_up_to_the_perplexity_of_the_text(
    tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    metrics = measure(tiny_model, tmp_path / "out", data, lengths=[240, 250], language="en")
    cells = metrics["passkey"]["cells"]
    assert [(cell["length"], cell["depth"]) for cell in cells] == [(n, d) for n in (240, 250) for d in (0, 0.5, 1)]
    assert len(read_rows(tmp_path / "out" / "passkey.jsonl")) == 6
    (tmp_path / "plain").mkdir()
    settings = Perplexity(model="m", data="d", window=256)
    plain = perplexity.run(settings, Inputs({"model": (tiny_model,), "data": (data,)}), tmp_path / "plain",
                           StageContext())  # fmt: skip
    (whole,) = metrics["positions"]
    assert (whole["start"], whole["tokens"]) == (0, plain["tokens"])
    assert whole["perplexity"] == pytest.approx(plain["perplexity"], rel=1e-4)


def test_a_model_whose_weights_are_not_numbers_finds_no_key_and_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"a text of 240 tokens: .*not finite"):
        measure(broken, tmp_path / "out", lengths=[240])


def test_the_page_draws_a_cell_for_each_length_and_depth_and_a_line_of_perplexity() -> None:
    cells = [{"length": n, "depth": d, "found": d, "logprob": -1.0} for n in (512, 1024) for d in (0.0, 1.0)]
    positions = [{"start": start, "tokens": 9, "perplexity": 2.0**index} for index, start in enumerate((0, 512, 1024))]
    drawn = draw_long_context({"passkey": {"found": 0.5, "cells": cells}, "positions": positions})
    assert drawn is not None
    assert len(drawn["cells"]) == 4 and drawn["cells"][-1]["title"] == "1,024 · 100%: 100%"
    points = [tuple(map(float, point.split(","))) for point in drawn["line"]["points"].split()]
    assert points[0] == (0, drawn["line"]["height"]) and points[-1] == (drawn["line"]["width"], 0)
    assert draw_long_context({"loss": 1.0}) is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"lengths": [900]}, "longer than the model's context of 256"), ({"lengths": [40]}, "do not hold a passkey")],
)
def test_a_length_that_cannot_be_tested_is_one_sentence(
    settings: dict[str, Any], expected: str, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=expected):
        measure(tiny_model, tmp_path / "out", **settings)


def test_ranges_of_positions_are_weighted_by_their_tokens() -> None:
    rows = [
        {"starts": [0, 512], "tokens": [100, 50], "nats": [100.0, 100.0]},
        {"starts": [0], "tokens": [100], "nats": [300.0]},
    ]
    first, second = long_context.aggregate_positions(rows)
    assert (first["perplexity"], second["perplexity"]) == (pytest.approx(math.exp(2)), pytest.approx(math.exp(2)))
    assert (first["tokens"], second["tokens"]) == (200, 50)
