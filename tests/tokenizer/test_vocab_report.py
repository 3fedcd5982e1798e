"""`hanlin vocab report` counts what tokenizers make of texts, and its curve is that of vocabularies cut off there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.extend import extend_tokenizer
from hanlin.tokenizer.report import growth
from hanlin.tokenizer.report.growth import gains_per_thousand, size_that_pays
from hanlin.tokenizer.report.measure import ModelSizes, compare_tokenizers
from hanlin.tokenizer.tokenizer import Tokenizer

CHINESE = [
    "翰林院在城东，春天的时候翰林院里开满了花。",
    "我在翰林院读书，春天的时候最喜欢读书。",
    "2024年的春天，Xiaohan在翰林院town里住了12天。",
] * 4
ENGLISH = ["The library stands in the east of the town; 12 birds sing."] * 3
LLAMA_7B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_sentencepiece: Path
) -> Tokenizer:
    if request.param == "byte_level":
        return train_tokenizer(ENGLISH, 320, "llama3", tmp_path_factory.mktemp("english"))
    return Tokenizer.load(tiny_sentencepiece)


@pytest.fixture
def folders(base: Tokenizer, tmp_path: Path) -> list[str]:
    """The folders of a tokenizer and of its extension, beside texts of two genres."""
    base.save(tmp_path / "old")
    extend_tokenizer(base, CHINESE, 30, min_saved=2).tokenizer.save(tmp_path / "new")
    (tmp_path / "zh.txt").write_text("\n".join(CHINESE), encoding="utf-8")
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ENGLISH)
    (tmp_path / "en.jsonl").write_text(rows, encoding="utf-8")
    return [str(tmp_path / "old"), str(tmp_path / "new")]


def report(*words: str) -> str:
    done = CliRunner().invoke(app, ["vocab", "report", *words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_curve_is_what_shorter_vocabularies_give(base: Tokenizer) -> None:
    longest = extend_tokenizer(base, CHINESE, 30, min_saved=2)
    texts = ["春天的翰林院，开满了花；读书的时候最喜欢town里的翰林。", *CHINESE]
    rows = compare_tokenizers({"old": base, "new": longest.tokenizer}, {"zh": texts, "en": ENGLISH}, step=7)
    curve = rows[1]["growth"]["points"]
    assert [point["entries"] for point in curve] == [0, 7, 14, 21, 28, len(longest.pieces)]
    characters = sum(map(len, texts))
    for point in curve:
        shorter = base
        if point["entries"]:
            learned = extend_tokenizer(base, CHINESE, point["entries"], min_saved=2)
            assert learned.pieces == longest.pieces[: point["entries"]]
            shorter = learned.tokenizer
        tokens = sum(map(len, shorter.encode_batch(texts)))
        assert point["characters_per_token"]["zh"] == round(characters / tokens, 4)
        assert point["characters_per_token"]["en"] == rows[0]["texts"]["en"]["characters_per_token"]


def test_a_curve_of_more_points_than_can_be_drawn_is_refused(base: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    extended = extend_tokenizer(base, CHINESE, 10, min_saved=2)
    monkeypatch.setattr(growth, "MAX_POINTS", 4)
    count = len(extended.pieces)
    tokenizers = {"a": base, "b": extended.tokenizer}
    with pytest.raises(UserError, match=f"a step of 2 gives {-(-count // 2)} points for the {count} new") as caught:
        compare_tokenizers(tokenizers, {"zh": CHINESE}, step=2)
    assert caught.value.hint == f"set it to {-(-count // 4)} or more"
    compare_tokenizers(tokenizers, {"zh": CHINESE}, step=-(-count // 4))


def test_a_vocabulary_that_does_not_go_on_from_the_first_has_no_curve(base: Tokenizer, tmp_path: Path) -> None:
    other = train_tokenizer(CHINESE, 700, "llama3", tmp_path)
    extended = extend_tokenizer(base, CHINESE, 10, min_saved=2).tokenizer
    for tokenizers in ({"a": base, "b": other}, {"a": extended, "b": base}):
        assert compare_tokenizers(tokenizers, {"zh": CHINESE})[1]["growth"] is None


def test_the_size_that_pays_is_the_last_one_whose_step_gains_enough() -> None:
    points = [(0, 1000), (1000, 800), (2000, 790), (3000, 770), (3500, 768)]
    assert gains_per_thousand(points) == pytest.approx([25.0, 1.2658, 2.5974, 0.5208], abs=1e-4)
    assert [size_that_pays(points, percent) for percent in (0.5, 1, 2, 5, 30)] == [3500, 3000, 3000, 1000, 0]


def test_costs_are_those_worked_out_by_hand() -> None:
    sizes = ModelSizes.from_config({**LLAMA_7B, "num_key_value_heads": 8})
    assert sizes.row_bytes() == 2 * 4096 * 2
    assert sizes.kv_bytes() == 2 * 32 * 8 * 128 * 2
    tied = ModelSizes.from_config({**LLAMA_7B, "tie_word_embeddings": True, "dtype": "float32"})
    assert (tied.row_bytes(), tied.kv_bytes()) == (4096 * 4, 2 * 32 * 32 * 128 * 4)


def test_the_command_counts_as_encoding_does_and_writes_a_page(folders: list[str], tmp_path: Path) -> None:
    (tmp_path / "old" / "config.json").write_text(json.dumps(LLAMA_7B), encoding="utf-8")
    texts = ["--text", f"zh={tmp_path}/zh.txt", "--text", f"en={tmp_path}/en.jsonl"]
    page = tmp_path / "page.html"
    figures = json.loads(report(*folders, *texts, "--json", "--step", "10", "--page", str(page)))
    old, new = figures["tokenizers"]
    lines = (tmp_path / "zh.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    for row, folder in zip((old, new), folders, strict=True):
        tokens = sum(map(len, Tokenizer.load(folder).encode_batch(lines)))
        assert (row["texts"]["zh"]["tokens"], row["texts"]["zh"]["characters"]) == (tokens, sum(map(len, lines)))
        assert row["texts"]["all"]["tokens"] == tokens + row["texts"]["en"]["tokens"]
    before, after = old["texts"]["all"]["tokens"], new["texts"]["all"]["tokens"]
    assert new["steps_saved_percent"] == round(100 * (1 - after / before), 2)
    assert new["memory"]["rows_mb"] == round((new["entries"] - old["entries"]) * 2 * 4096 * 2 / 1e6, 3)
    assert new["memory"]["kv_tokens"] == round(8192 * after / before)
    html = page.read_text(encoding="utf-8")
    assert html.count("<polyline") == 3 and html.count("<rect") == 6 and "http" not in html
    shown = report(*folders, *texts, "--step", "10")
    assert f"{new['texts']['zh']['characters_per_token']:.3f}" in shown and "+0.0 %" not in shown


def test_what_cannot_be_measured_is_refused_in_a_sentence(tmp_path: Path, tiny_sentencepiece: Path) -> None:
    tokenizer, text = str(tiny_sentencepiece), tmp_path / "a.txt"
    text.write_text("春天", encoding="utf-8")
    (tmp_path / "blank.txt").write_text(" \n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("春天", encoding="utf-8")
    refused = {
        "there is no text": [tokenizer],
        "is not NAME=PATH": [tokenizer, "--text", "a.txt"],
        "is taken already": [tokenizer, "--text", f"a={text}", "--text", f"a={text}"],
        "'all' is taken": [tokenizer, "--text", f"all={text}"],
        "no such file": [tokenizer, "--text", f"a={text}x"],
        "'b' has no characters": [tokenizer, "--text", f"b={tmp_path / 'blank.txt'}"],
        "'n' has no characters": [tokenizer, "--text", f"n={tmp_path / 'notes.md'}"],
        "given twice": [tokenizer, f"{tokenizer}/tokenizer.json", "--text", f"a={text}"],
        "this is no tokenizer": [str(text), "--text", f"a={text}"],
        "no tokenizer here": [str(tmp_path), "--text", f"a={text}"],
        "no config.json here": [tokenizer, "--text", f"a={text}", "--model", str(tmp_path)],
    }
    for sentence, words in refused.items():
        with pytest.raises(UserError) as error:
            report(*words)
        assert sentence in f"{error.value.what}"
