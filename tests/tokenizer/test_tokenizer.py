"""Text to ids and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.core.errors import UserError
from hanlin.tokenizer.tokenizer import Tokenizer
from tokenizer_folders import accept_fast_ids

RARE = "𠮷野家の龘𪚥👩‍👩‍👧‍👦 한국어 é\u0301 \ufffd\t\n"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="session", params=["byte_level", "sentencepiece"])
def any_tokenizer(request: pytest.FixtureRequest, tiny_tokenizer: Path, tiny_sentencepiece: Path) -> Tokenizer:
    return Tokenizer.load(tiny_tokenizer if request.param == "byte_level" else tiny_sentencepiece)


def test_typed_special_tokens_stay_text(any_tokenizer: Tokenizer) -> None:
    for token in any_tokenizer.added_tokens:
        ids = any_tokenizer.encode(f"说 {token} 吧")
        assert not any_tokenizer.special_ids.intersection(ids)
        assert any_tokenizer.decode(ids) == f"说 {token} 吧"


def test_encoding_adds_no_begin_token(any_tokenizer: Tokenizer) -> None:
    assert any_tokenizer.adds_bos
    assert any_tokenizer.bos_id not in any_tokenizer.encode("你好")


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_decoding_gives_back_any_text(any_tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("▁", "_")  # SentencePiece writes its spaces with this character
    assert any_tokenizer.decode(any_tokenizer.encode(text)) == text


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_text_that_goes_on_gets_no_space(any_tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("▁", "_")
    whole = any_tokenizer.encode("花") + any_tokenizer.encode(text, continuation=True)
    assert any_tokenizer.decode(whole) == "花" + text


def test_encoding_many_texts_equals_encoding_each(any_tokenizer: Tokenizer) -> None:
    texts = ["", "你好 world", RARE, "  two spaces"]
    for continuation in (False, True):
        one_by_one = [any_tokenizer.encode(text, continuation=continuation) for text in texts]
        assert any_tokenizer.encode_batch(texts, continuation=continuation) == one_by_one


def test_a_stream_never_gives_half_a_character(any_tokenizer: Tokenizer) -> None:
    stream = any_tokenizer.stream_decoder()
    pieces = [stream.put(number) for number in any_tokenizer.encode(RARE.replace("\ufffd", ""))]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) + stream.end() == RARE.replace("\ufffd", "")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_pieces_of_a_stream_join_to_the_decoded_whole(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, len(any_tokenizer) + 3), max_size=30))
    for skip_special in (True, False):
        stream = any_tokenizer.stream_decoder(skip_special)
        pieces = [stream.put(number) for number in ids]
        assert "".join(pieces) + stream.end() == any_tokenizer.decode(ids, skip_special)


def test_a_stream_cut_within_a_character_ends_with_one_replacement_character(any_tokenizer: Tokenizer) -> None:
    ids = any_tokenizer.encode("花龘")
    stream = any_tokenizer.stream_decoder()
    assert "".join(map(stream.put, ids[:-1])) == "花"
    assert stream.end() == "\ufffd"


def test_decoding_agrees_with_the_library(any_tokenizer: Tokenizer) -> None:
    for text in (RARE, "你叫什么名字？ I am 12.5 years old.", "  leading"):
        ids = any_tokenizer.encode(text)
        assert any_tokenizer.decode(ids) == any_tokenizer.backend.decode(ids)


def test_special_tokens_are_decoded_only_when_asked(tokenizer: Tokenizer) -> None:
    stop = tokenizer.token_id("<|eot_id|>")
    assert stop is not None
    ids = [*tokenizer.encode("好"), stop]
    assert tokenizer.decode(ids) == "好"
    assert tokenizer.decode(ids, skip_special=False) == "好<|eot_id|>"


def test_half_a_surrogate_pair_is_named(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="character 2"):
        tokenizer.encode("好\ud83d")
    with pytest.raises(UserError, match="text 2"):
        tokenizer.encode_batch(["好", "\ud83d"])


def test_the_length_is_the_highest_id_and_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.backend.id_to_token(len(tokenizer) - 1) is not None
    assert tokenizer.backend.id_to_token(len(tokenizer)) is None


def test_padding_is_never_a_token_that_ends_a_text(llama3: Path) -> None:
    tokenizer = Tokenizer.load(llama3)
    assert tokenizer.config["pad_token"] == tokenizer.config["eos_token"]
    assert tokenizer.pad_id not in (None, tokenizer.eos_id, tokenizer.bos_id)


def test_a_saved_tokenizer_is_the_same_tokenizer(any_tokenizer: Tokenizer, tmp_path: Path) -> None:
    any_tokenizer.save(tmp_path / "first")
    again = Tokenizer.load(tmp_path / "first")
    again.save(tmp_path / "second")
    for file in sorted((tmp_path / "first").iterdir()):
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()
    for text in ("你好 <s> world", RARE):
        assert again.encode(text) == any_tokenizer.encode(text)
    assert (again.bos_id, again.eos_id, again.pad_id) == (
        any_tokenizer.bos_id,
        any_tokenizer.eos_id,
        any_tokenizer.pad_id,
    )


def test_saving_takes_template_and_generation_settings_along(tiny_tokenizer: Path, tmp_path: Path) -> None:
    Tokenizer.load(tiny_tokenizer).save(tmp_path)
    for name in ("chat_template.jinja", "generation_config.json"):
        assert (tmp_path / name).read_bytes() == (tiny_tokenizer / name).read_bytes()


def test_a_template_within_the_configuration_is_saved_as_a_file(tiny_tokenizer: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    shutil.copyfile(tiny_tokenizer / "tokenizer.json", old / "tokenizer.json")
    (old / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ 'hi' }}"}), encoding="utf-8")
    Tokenizer.load(old).save(tmp_path / "new")
    assert (tmp_path / "new" / "chat_template.jinja").read_text(encoding="utf-8") == "{{ 'hi' }}"


def test_a_folder_without_a_tokenizer_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tokenizer") as caught:
        Tokenizer.load(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b'{"version": "1.0"}'])
def test_a_broken_tokenizer_file_is_a_user_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_broken_configuration_is_a_user_error(tiny_tokenizer: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_tokenizer / "tokenizer.json", tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="not a JSON object"):
        Tokenizer.load(tmp_path)


def test_tokens_that_only_the_configuration_knows_get_their_ids(tiny_tokenizer: Path, tmp_path: Path) -> None:
    shutil.copyfile(tiny_tokenizer / "tokenizer.json", tmp_path / "tokenizer.json")
    size = len(Tokenizer.load(tiny_tokenizer))
    row = {"content": "<|tool|>", "special": True, "lstrip": False, "rstrip": False, "normalized": False}
    config = {"eos_token": {"content": "<|eot_id|>"}, "added_tokens_decoder": {str(size): row}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.token_id("<|tool|>") == size
    assert tokenizer.eos_id == tokenizer.token_id("<|eot_id|>")
    assert size not in tokenizer.encode("<|tool|>")


# ------------------------------------------------------------------------------------------------ real tokenizers


def test_llama2_in_tokenizer_json_splits_as_sentencepiece_does(llama2: Path, shared_data: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = Tokenizer.load(llama2)
    original = sentencepiece.SentencePieceProcessor(model_file=str(llama2 / "tokenizer.model"))
    for name in ("wiki_zh_simp_cmrc2018_dev.txt", "en_ewt_web_dev.txt"):
        lines = [line for line in (shared_data / "text" / name).read_text(encoding="utf-8").splitlines() if line][:300]
        assert tokenizer.encode_batch(lines) == original.encode(lines)
        assert [tokenizer.decode(ids) for ids in tokenizer.encode_batch(lines)] == lines


def test_a_sentencepiece_model_alone_is_converted_with_its_own_rule_of_spaces(
    shared_data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("sentencepiece")
    folder = shared_data / "tokenizer"
    alpaca = Tokenizer.load(accept_fast_ids(tmp_path / "alpaca", folder / "chinese_llama2"))
    assert alpaca.prefix_space == "each"
    assert alpaca.encode("Hello world") == Tokenizer.load(folder / "llama2").encode("Hello world")
    literary = Tokenizer.load(accept_fast_ids(tmp_path / "literary", folder / "literary_alpaca2_merged"))
    assert literary.prefix_space == "none"
    for tokenizer in (alpaca, literary):
        for text in ("你好，世界！ 2019", " leading", "龘"):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_llama3_decodes_every_line_of_chinese_and_english(llama3: Path, shared_data: Path) -> None:
    tokenizer = Tokenizer.load(llama3)
    for name in ("wiki_zh_trad_drcd_dev.txt", "en_ewt_web_dev.txt"):
        text = (shared_data / "text" / name).read_text(encoding="utf-8")[:60_000]
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_left_out_at_random_are_turned_off_and_it_is_said(
    tiny_tokenizer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(tiny_tokenizer, tmp_path / "t"))
    data = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    data["model"]["dropout"] = 0.9
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    text = "What is your name? 你叫什么名字？" * 4
    assert Tokenizer.load(folder).encode(text) == Tokenizer.load(tiny_tokenizer).encode(text)
    assert "dropout" in caplog.text
