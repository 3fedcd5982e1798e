"""A SentencePiece model gives the ids of SentencePiece, or loading it says how often it does not."""

from __future__ import annotations

import io
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.i18n import translations
from hanlin.tokenizer.sentencepiece import compare_ids
from hanlin.tokenizer.tokenizer import Tokenizer

spm = pytest.importorskip("sentencepiece")


def save_model(folder: Path, scores: float | None) -> Path:
    """A small BPE model of Chinese; `scores` is set for every piece of several characters, None keeps them."""
    from sentencepiece import sentencepiece_model_pb2

    written = io.BytesIO()
    lines = [line for line in translations("zh") if len(line) > 5]
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=written,
        model_type="bpe",
        vocab_size=2400,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(written.getvalue())
    if scores is not None:
        for piece in model.pieces:
            if piece.type == 1 and len(piece.piece) > 1:
                piece.score = scores
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model.SerializeToString())
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "LlamaTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def difference(folder: Path, tokenizer: Tokenizer, lines: list[str]) -> Any:
    processor = spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    return compare_ids(processor, tokenizer.backend, lines)


def test_a_model_whose_pieces_have_scores_of_their_own_is_loaded_exactly_and_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = Tokenizer.load(save_model(tmp_path / "own", None))
    assert not caplog.records
    rng = random.Random(1)
    characters = "".join(translations("zh"))
    lines = ["".join(rng.choices(characters, k=30)) for _ in range(200)]
    found = difference(tmp_path / "own", tokenizer, lines)
    assert (found.lines, found.tokens) == (0.0, 0.0)


def test_a_model_whose_pieces_share_a_score_is_loaded_with_a_warning_that_has_the_figure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tokenizer = Tokenizer.load(save_model(tmp_path / "shared", 0.0))
        Tokenizer.load(tmp_path / "shared")
    lines = [line for line in translations("zh") if len(line) > 12]
    found = difference(tmp_path / "shared", tokenizer, lines)
    assert found.lines > found.tokens > 0.001
    (record,) = caplog.records
    assert f"{found.lines:.0%} of {len(lines)}" in record.message and f"{found.tokens:.1%}" in record.message
    assert [tokenizer.decode(tokenizer.encode(line)) for line in lines[:50]] == lines[:50]


@pytest.mark.parametrize(
    ("name", "warns"), [("chinese_llama2", True), ("literary_alpaca2_merged", True), ("llama2", False)]
)
def test_real_models_are_loaded_with_a_warning_if_their_ids_differ(
    shared_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, warns: bool
) -> None:
    for file in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((shared_data / "tokenizer" / name / file).read_bytes())
    with caplog.at_level(logging.WARNING):
        Tokenizer.load(tmp_path)
    assert ["SentencePiece itself gives other ids" in record.message for record in caplog.records] == [True] * warns
