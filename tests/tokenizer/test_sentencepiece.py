"""A SentencePiece model gives the ids of SentencePiece, or is refused with how often it does not."""

from __future__ import annotations

import functools
import io
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.core.i18n import translations
from hanlin.core.process import BoundsExceededError
from hanlin.tokenizer import sentencepiece
from hanlin.tokenizer.sentencepiece import compare_ids
from hanlin.tokenizer.tokenizer import Tokenizer
from tokenizer_folders import accept_fast_ids

spm = pytest.importorskip("sentencepiece")


@functools.cache
def trained_model() -> bytes:
    """A small BPE model of Chinese."""
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
    return written.getvalue()


def save_model(folder: Path, scores: float | None) -> Path:
    """The small model in a folder; `scores` is set for every piece of several characters, None keeps them."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(trained_model())
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


def test_a_model_whose_pieces_share_a_score_is_refused_with_the_figure(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "shared", 0.0)
    with pytest.raises(UserError) as refused:
        Tokenizer.load(folder)
    accept_fast_ids(folder)
    lines = [line.strip() for line in translations("zh") if len(line) > 12]
    found = difference(folder, Tokenizer.load(folder), lines)
    assert found.lines > found.tokens > 0.001
    assert f"{found.lines:.0%} of {len(lines)}" in str(refused.value) and f"{found.tokens:.1%}" in str(refused.value)
    assert '"use_fast": true' in (refused.value.hint or "")


def test_a_model_whose_other_ids_are_accepted_is_loaded_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = accept_fast_ids(save_model(tmp_path / "shared", 0.0))
    with caplog.at_level(logging.WARNING):
        tokenizer = Tokenizer.load(folder)
        Tokenizer.load(folder)
    assert len(caplog.records) == 1
    lines = list(translations("zh"))[:50]
    assert [tokenizer.decode(tokenizer.encode(line)) for line in lines] == lines
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").encode_batch(lines) == tokenizer.encode_batch(lines)


def test_the_vocabulary_report_counts_with_a_model_whose_ids_differ_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_model(tmp_path / "shared", 0.0)
    (tmp_path / "a.txt").write_text("你好，世界", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        done = CliRunner().invoke(app, ["vocab", "report", str(folder), "--text", f"zh={tmp_path / 'a.txt'}", "--json"])
    assert done.exit_code == 0, done.output
    assert "SentencePiece itself gives other ids" in caplog.text


def test_a_command_is_refused_too(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "shared", 0.0)
    (tmp_path / "a.txt").write_text("你好", encoding="utf-8")
    result = CliRunner().invoke(app, ["tokens", "view", str(tmp_path / "a.txt"), "--model", str(folder)])
    assert isinstance(result.exception, UserError) and "other ids on" in str(result.exception)


def test_spaces_at_the_beginning_of_a_text_do_not_count_as_other_ids(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "own", None)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"legacy": False}), encoding="utf-8")
    assert Tokenizer.load(folder).prefix_space == "first"


@pytest.mark.parametrize(
    ("name", "legacy", "refused"),
    [("chinese_llama2", False, True), ("literary_alpaca2_merged", None, True), ("llama2", False, False)],
)
def test_real_models_are_refused_if_their_ids_differ(
    shared_data: Path, tmp_path: Path, name: str, legacy: bool | None, refused: bool
) -> None:
    source = shared_data / "tokenizer" / name
    (tmp_path / "tokenizer.model").write_bytes((source / "tokenizer.model").read_bytes())
    config = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"legacy": legacy}), encoding="utf-8")
    if refused:
        with pytest.raises(UserError, match="SentencePiece itself gives other ids"):
            Tokenizer.load(tmp_path)
    else:
        Tokenizer.load(tmp_path)


def test_a_conversion_has_bounds_and_a_failed_one_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exceed(*_: object, **__: object) -> None:
        raise BoundsExceededError("memory")

    (tmp_path / "tokenizer.model").write_bytes(b"no protobuf")
    with monkeypatch.context() as patched, pytest.raises(UserError, match="too much memory"):
        patched.setattr(sentencepiece, "run_bounded", exceed)
        Tokenizer.load(tmp_path)
    with pytest.raises(UserError, match="cannot be converted") as refused:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(refused.value)
