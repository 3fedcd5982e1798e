"""The stage `trim_vocabulary`: the texts keep their tokens, the rows kept their bits, and any text can be written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import ExtendVocabulary, TrimVocabulary
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, write_jsonl
from hanlin.models import extend_vocab, trim_vocab
from hanlin.models.embedding_rows import RESIZED_TENSORS
from hanlin.models.folder.adapter import check_base
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.trim_vocab import verify_weights
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import MakeAdapter

TEXTS = ["翰林院的学士在春天读书。", "读书人说，春天的翰林院最好看。", "The academy reads 48 books."]
UNSEEN = "鲲鹏展翅 🐉 naïve Ελλάδα\n\tconst x = 3;  龘 zzz"


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    write_jsonl(folder / "documents.jsonl", [Document(text, f"d{n}") for n, text in enumerate(TEXTS)])
    write_jsonl(folder / "validation.jsonl", [Document("春天，学士读书。", "h0"), Document("Books of 2024.", "h1")])
    return folder


@pytest.fixture(params=["untied", "tied"])
def base(request: pytest.FixtureRequest, tiny_model: Path, tied_model: Path) -> Path:
    return tied_model if request.param == "tied" else tiny_model


def trim(model: Path, texts: Path, out: Path, **settings: Any) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    inputs = Inputs({"model": (model,), "text": (texts,)})
    return trim_vocab.run(TrimVocabulary(model="./m", text="./d", **settings), inputs, out, StageContext())


def renumbered(before: Tokenizer, after: Tokenizer, ids: list[int]) -> list[int]:
    tokens = [str(before.backend.id_to_token(token_id)) for token_id in ids]
    return [after.backend.get_vocab(with_added_tokens=True)[token] for token in tokens]


def test_texts_and_validation_texts_keep_their_tokens_and_any_other_text_is_read_back(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    metrics = trim(tiny_model, documents, tmp_path / "small")
    before, after = Tokenizer.load(tiny_model), Tokenizer.load(tmp_path / "small")
    assert len(after) < len(before)
    for text in [*TEXTS, "春天，学士读书。", "Books of 2024."]:
        assert after.encode(text) == renumbered(before, after, before.encode(text))
    assert metrics["characters_per_token"]["before"] == metrics["characters_per_token"]["after"]
    assert after.decode(after.encode(UNSEEN)) == UNSEEN


def test_kept_rows_and_other_weights_have_their_bits_and_logits_agree(
    base: Path, documents: Path, tmp_path: Path
) -> None:
    metrics = trim(base, documents, tmp_path / "small")
    before, after = Tokenizer.load(base), Tokenizer.load(tmp_path / "small")
    old_ids = renumbered(after, before, list(range(len(after))))
    old, new = load_file(base / "model.safetensors"), load_file(tmp_path / "small" / "model.safetensors")
    assert old.keys() == new.keys()
    for name, tensor in new.items():
        assert torch.equal(tensor, old[name][torch.tensor(old_ids)] if name in RESIZED_TENSORS else old[name])
    ids = before.encode(TEXTS[0])
    with torch.no_grad():
        expected = load_model(base)(input_ids=torch.tensor([ids])).logits[..., old_ids]
        actual = load_model(tmp_path / "small")(input_ids=torch.tensor([renumbered(before, after, ids)])).logits
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    assert metrics["saved_bytes"] > 0 and metrics["greedy_agreement"] == 1


def test_special_ids_follow_their_tokens_into_every_file(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    rare = Tokenizer.load(base).encode("花")
    generation = json.loads((base / "generation_config.json").read_text(encoding="utf-8"))
    generation |= {"suppress_tokens": [rare[0]], "bad_words_ids": [rare], "temperature": 0.5}
    (base / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    trim(base, documents, tmp_path / "small")
    before, after = ChatTemplate.load(base), ChatTemplate.load(tmp_path / "small")
    trimmed = json.loads((tmp_path / "small" / "generation_config.json").read_text(encoding="utf-8"))
    assert list(after.stop_ids) == renumbered(before.tokenizer, after.tokenizer, list(before.stop_ids))
    assert trimmed["bad_words_ids"] == [renumbered(before.tokenizer, after.tokenizer, rare)]
    assert trimmed["suppress_tokens"] == trimmed["bad_words_ids"][0][:1] and trimmed["temperature"] == 0.5
    config = check_model_folder(tmp_path / "small").config
    assert config["vocab_size"] == len(after.tokenizer) and config["eos_token_id"] == trimmed["eos_token_id"]
    turns = [Message("user", "春天读书？"), Message("assistant", "读书。")]
    assert after.render(turns).ids == renumbered(before.tokenizer, after.tokenizer, before.render(turns).ids)


def test_generation_settings_with_other_forms_of_ids_are_refused(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    (base / "generation_config.json").write_text('{"sequence_bias": [[[5], -1.0]]}', encoding="utf-8")
    with pytest.raises(UserError, match="sequence_bias"):
        trim(base, documents, tmp_path / "small")
    assert not any((tmp_path / "small").iterdir())


def test_chats_are_counted_as_the_template_renders_them(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chats"
    folder.mkdir()
    chat = Conversation((Message("user", "\n春天的书"), Message("assistant", "学士读书。\n\n春天")), "c0")
    write_jsonl(folder / "conversations.jsonl", [chat])
    metrics = trim(tiny_model, folder, tmp_path / "small")
    before, after = ChatTemplate.load(tiny_model), ChatTemplate.load(tmp_path / "small")
    expected = renumbered(before.tokenizer, after.tokenizer, before.render(chat.messages).ids)
    assert after.render(chat.messages).ids == expected
    assert (metrics["texts_counted"], metrics["chats_counted_as_text"]) == (1, 0)


def test_an_extended_model_trims_too(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    (tmp_path / "grown").mkdir()
    write_jsonl(documents / "documents.jsonl", [Document(text * 3, f"d{n}") for n, text in enumerate(TEXTS)])
    inputs = Inputs({"model": (tiny_model,), "text": (documents,)})
    settings = ExtendVocabulary(model="./m", text="./d", new_entries=12)
    extend_vocab.run(settings, inputs, tmp_path / "grown", StageContext())
    trim(tmp_path / "grown", documents, tmp_path / "small")
    before, after = Tokenizer.load(tmp_path / "grown"), Tokenizer.load(tmp_path / "small")
    assert after.encode(TEXTS[0]) == renumbered(before, after, before.encode(TEXTS[0]))
    assert len(after.encode(TEXTS[0])) < len(Tokenizer.load(tiny_model).encode(TEXTS[0]))


def test_rare_entries_go_if_asked_and_the_longer_texts_are_told(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    every, frequent = (
        trim(tiny_model, documents, tmp_path / "a"),
        trim(tiny_model, documents, tmp_path / "b", min_count=3),
    )
    assert frequent["entries"]["after"] < every["entries"]["after"]
    assert every["share_of_tokens_split_further"] == 0 < frequent["share_of_tokens_split_further"]
    assert every["texts_unchanged"] == every["texts_verified"] > frequent["texts_unchanged"]
    assert 0 < every["share_of_validation_tokens_only_there"] < 1


def test_an_adapter_of_the_old_base_is_refused_on_the_trimmed_one(
    make_adapter: MakeAdapter, documents: Path, store: Path, tmp_path: Path
) -> None:
    adapter = make_adapter()
    trim(store / "untied", documents, tmp_path / "small")
    with pytest.raises(UserError, match="embedding rows"):
        check_base(adapter, check_model_folder(tmp_path / "small"))


def test_an_adapter_and_empty_texts_and_texts_that_need_all_are_refused(
    make_adapter: MakeAdapter, tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="this is an adapter"):
        trim(make_adapter(), documents, tmp_path / "small")
    (tmp_path / "empty").mkdir()
    write_jsonl(tmp_path / "empty" / "documents.jsonl", [])
    with pytest.raises(UserError, match="no text"):
        trim(tiny_model, tmp_path / "empty", tmp_path / "small")
    trim(tiny_model, documents, tmp_path / "once")
    with pytest.raises(UserError, match="nothing to trim"):
        trim(tmp_path / "once", documents, tmp_path / "small")
    assert not any((tmp_path / "small").iterdir())


def test_a_changed_row_is_detected_and_nothing_is_left(
    tiny_model: Path, documents: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = trim_vocab.cut_rows

    def cut_wrong(model: Any, ids: Any) -> None:
        cut(model, [ids[1], ids[0], *ids[2:]])

    monkeypatch.setattr(trim_vocab, "cut_rows", cut_wrong)
    with pytest.raises(RuntimeError, match="changed while"):
        trim(tiny_model, documents, tmp_path / "small")
    assert not any((tmp_path / "small").iterdir())
    files = check_model_folder(tiny_model)
    assert verify_weights(files, files, range(files.vocabulary_rows)) == len(files.tensors)


def test_a_folder_that_stores_what_follows_from_its_configuration_is_trimmed(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    tensors = load_file(shutil.copytree(tiny_model, tmp_path / "base") / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)  # as Llama 2's own folders do
    save_file(tensors, tmp_path / "base" / "model.safetensors")
    metrics = trim(tmp_path / "base", documents, tmp_path / "small")
    assert metrics["tensors_verified"] == len(tensors) - 1


def test_weights_of_several_dtypes_keep_theirs_when_a_vocabulary_is_trimmed(
    tied_model: Path, documents: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tied_model, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    mixed = {name: weight if "norm" in name else weight.bfloat16() for name, weight in tensors.items()}
    save_file(mixed, base / "model.safetensors", metadata={"format": "pt"})
    trim(base, documents, tmp_path / "small")
    trimmed = load_file(tmp_path / "small" / "model.safetensors")
    assert all(torch.equal(trimmed[name], weight) for name, weight in mixed.items() if "norm" in name)
    assert trimmed["model.embed_tokens.weight"].dtype == torch.bfloat16
