"""The stage `extend_vocabulary`: new Chinese tokens; ids of English and digits and all old weights stay."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import ExtendVocabulary, TrimVocabulary
from hanlin.config.settings.tokenizer import TrainTokenizer
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.records import Document, write_jsonl
from hanlin.models import extend_vocab, train_tokenizer, trim_vocab
from hanlin.models.extend_vocab import measure_by_language, verify_text_unchanged, verify_weights_unchanged
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.extend import Extension
from hanlin.tokenizer.tokenizer import Tokenizer
from random_models import PROMPT

CHINESE = [
    "翰林院的学士在春天读书，学士们都爱读书。",
    "读书人说，春天的翰林院最好看，学士也最多。",
    "学士们在院子里读书，春天来了又去。",
]
ENGLISH = "In 2024 the Academy had 48,213 books; it's the largest library east of town."
WORD = "读书"
RESIZED = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    folder = tmp_path / "documents"
    folder.mkdir()
    write_jsonl(folder / "documents.jsonl", [Document(text * 3, f"d{n}") for n, text in enumerate(CHINESE)])
    write_jsonl(folder / "validation.jsonl", [Document("春天，学士在翰林院读书。", "h0"), Document(ENGLISH, "h1")])
    return folder


def extend_model(
    model: Path, documents: Path, out: Path, new_entries: int = 12, init: str = "mean", **more: Any
) -> dict[str, Any]:
    out.mkdir(exist_ok=True)
    settings = ExtendVocabulary(model="./m", text="./d", new_entries=new_entries, init=init, **more)
    inputs = Inputs({"model": (model,), "text": (documents,)})
    return extend_vocab.run(settings, inputs, out, StageContext())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(params=["untied", "tied"])
def base(request: pytest.FixtureRequest, tiny_model: Path, tied_model: Path) -> Path:
    return tied_model if request.param == "tied" else tiny_model


def test_old_rows_and_all_other_weights_stay_bit_for_bit(base: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(base, documents, tmp_path / "grown")
    before, after = weights(base), weights(tmp_path / "grown")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name][: len(old)] if name in RESIZED else after[name], old)
               for name, old in before.items())  # fmt: skip


def test_a_new_row_is_the_mean_of_the_rows_of_its_old_ids(base: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(base, documents, tmp_path / "grown")
    old, new = Tokenizer.load(base), Tokenizer.load(tmp_path / "grown")
    before, after = weights(base), weights(tmp_path / "grown")
    (number,) = new.encode(WORD)
    assert number >= len(old)
    for name in before.keys() & set(RESIZED):
        assert torch.equal(after[name][number], before[name][old.encode(WORD)].mean(0))


@pytest.mark.parametrize("init", get_args(ExtendVocabulary.model_fields["init"].annotation))
def test_every_init_makes_other_rows_than_the_others_and_changes_nothing_else(
    tied_model: Path, documents: Path, tmp_path: Path, init: str
) -> None:
    extend_model(tied_model, documents, tmp_path / "grown", init=init)
    extend_model(tied_model, documents, tmp_path / "again", init=init)
    old, new = weights(tied_model), weights(tmp_path / "grown")
    first = len(old["model.embed_tokens.weight"])
    assert all(torch.equal(new[name][:first] if name in RESIZED else new[name], old[name]) for name in old)
    assert torch.equal(new["model.embed_tokens.weight"], weights(tmp_path / "again")["model.embed_tokens.weight"])
    if init != "mean":
        extend_model(tied_model, documents, tmp_path / "mean")
        mean = weights(tmp_path / "mean")["model.embed_tokens.weight"]
        assert not torch.equal(new["model.embed_tokens.weight"][first:], mean[first:])


def test_rows_are_distilled_from_as_much_text_as_asked(tied_model: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(tied_model, documents, tmp_path / "all", init="distilled")
    extend_model(tied_model, documents, tmp_path / "little", init="distilled", distill_tokens=20)
    name = "model.embed_tokens.weight"
    assert not torch.equal(weights(tmp_path / "all")[name], weights(tmp_path / "little")[name])


def test_tokens_to_distill_without_distilling_are_refused() -> None:
    with pytest.raises(ValueError, match="distill_tokens is for init: distilled; init is mean"):
        ExtendVocabulary(model="./m", text="./d", init="mean", distill_tokens=100)
    settings = ExtendVocabulary(model="./m", text="./d", init="mean")
    assert ExtendVocabulary.model_validate(settings.model_dump()) == settings, "as the process of the stage gets them"


def test_logits_of_old_tokens_over_old_ids_are_unchanged(base: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(base, documents, tmp_path / "grown")
    with torch.no_grad():
        before = load_model(base)(input_ids=PROMPT).logits
        after = load_model(tmp_path / "grown")(input_ids=PROMPT).logits
    torch.testing.assert_close(after[..., : before.shape[-1]], before, rtol=0, atol=1e-6)


def test_a_new_token_can_be_generated_before_training(base: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(base, documents, tmp_path / "grown")
    old, new = Tokenizer.load(base), Tokenizer.load(tmp_path / "grown")
    (number,) = new.encode(WORD)
    with torch.no_grad():
        logits = load_model(tmp_path / "grown")(input_ids=PROMPT).logits[0]
    torch.testing.assert_close(logits[:, number], logits[:, old.encode(WORD)].mean(-1), rtol=0, atol=1e-5)


def test_a_tied_model_stays_tied(tied_model: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(tied_model, documents, tmp_path / "grown")
    model = load_model(tmp_path / "grown")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_english_and_digits_keep_their_ids(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    extend_model(tiny_model, documents, tmp_path / "grown")
    assert Tokenizer.load(tmp_path / "grown").encode(ENGLISH) == Tokenizer.load(tiny_model).encode(ENGLISH)


def test_prompts_of_a_conversation_without_chinese_keep_their_ids_and_stops(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    extend_model(tiny_model, documents, tmp_path / "grown")
    before, after = ChatTemplate.load(tiny_model), ChatTemplate.load(tmp_path / "grown")
    assert after.stop_ids == before.stop_ids
    assert after.source == before.source


def test_the_number_of_entries_and_rows_before_and_after_is_reported(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    metrics = extend_model(tiny_model, documents, tmp_path / "grown", new_entries=5)
    assert metrics["entries"]["after"] == metrics["entries"]["before"] + 5
    assert metrics["vocabulary_rows"]["after"] == check_model_folder(tmp_path / "grown").vocabulary_rows


def test_chinese_validation_text_needs_fewer_tokens_and_english_as_many(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    metrics = extend_model(tiny_model, documents, tmp_path / "grown")
    before, after = metrics["characters_per_token"]["before"], metrics["characters_per_token"]["after"]
    assert metrics["measured_on"] == "validation"
    assert after["zh"] > before["zh"]
    assert after["en"] == before["en"]
    assert after["all"] > before["all"]


def test_without_validation_documents_the_training_text_is_measured(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    (documents / "validation.jsonl").unlink()
    assert extend_model(tiny_model, documents, tmp_path / "grown")["measured_on"] == "train"


def test_equal_inputs_give_equal_bytes_even_over_files_of_an_earlier_run(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    extend_model(tiny_model, documents, tmp_path / "one")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.safetensors").write_bytes(b"cut")
    extend_model(tiny_model, documents, tmp_path / "other")
    assert all((tmp_path / "other" / file.name).read_bytes() == file.read_bytes()
               for file in (tmp_path / "one").iterdir())  # fmt: skip


def test_the_dtype_stays(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    save_model(load_model(tiny_model), tmp_path / "half", tokenizer=Tokenizer.load(tiny_model), dtype="bfloat16")
    extend_model(tmp_path / "half", documents, tmp_path / "grown")
    assert check_model_folder(tmp_path / "grown").dtype == "bfloat16"


def test_text_without_new_entries_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    write_jsonl(tmp_path / "documents" / "documents.jsonl", [Document(ENGLISH + "学", "d0")])
    with pytest.raises(UserError, match="no new entry"):
        extend_model(tiny_model, tmp_path / "documents", tmp_path / "grown")
    assert not any((tmp_path / "grown").iterdir())


def test_text_without_chinese_characters_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    write_jsonl(tmp_path / "documents" / "documents.jsonl", [Document(ENGLISH, "d0")])
    with pytest.raises(UserError, match="no Chinese character in the text"):
        extend_model(tiny_model, tmp_path / "documents", tmp_path / "grown")
    assert not any((tmp_path / "grown").iterdir())


def test_own_words_become_entries_and_are_reported(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# 专业词\n冠状动脉\n学士\n", encoding="utf-8")
    settings = ExtendVocabulary(
        model="./m", text="./d", new_entries=40, words=("翰林院", "学士"), words_file="./words.txt"
    )
    inputs = Inputs({"model": (tiny_model,), "text": (documents,), "words_file": (tmp_path / "words.txt",)})
    metrics = extend_vocab.run(settings, inputs, tmp_path / "grown", StageContext())
    grown = Tokenizer.load(tmp_path / "grown")
    assert metrics["words"] == {"given": 3, "entries_before": 0}
    assert [len(grown.encode(word)) for word in ("翰林院", "学士", "冠状动脉")] == [1, 1, 1]


def test_a_file_without_words_is_refused(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("# 专业词\n\n", encoding="utf-8")
    settings = ExtendVocabulary(model="./m", text="./d", new_entries=40, words_file="./words.txt")
    inputs = Inputs({"model": (tiny_model,), "text": (documents,), "words_file": (tmp_path / "words.txt",)})
    with pytest.raises(UserError, match=r"words\.txt: the file has no words"):
        extend_vocab.run(settings, inputs, tmp_path / "grown", StageContext())


def test_fewer_entries_than_asked_for_are_said(
    tiny_model: Path, documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ExtendVocabulary(model="./m", text="./d", new_entries=5000)
    inputs = Inputs({"model": (tiny_model,), "text": (documents,)})
    extend_vocab.run(settings, inputs, tmp_path / "grown", StageContext(progress=Progress()))
    assert "not the 5,000 that `new_entries` allows" in capsys.readouterr().err


def test_a_source_of_greater_weight_gives_more_entries(tiny_model: Path, documents: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("城东有湖，湖上有船，船上有人。\n" * 6, encoding="utf-8")
    made = {}
    for weights in ((1.0, 100.0), (100.0, 1.0)):
        settings = ExtendVocabulary(model="./m", text=("./d", "./o"), weights=weights, new_entries=12)
        inputs = Inputs({"model": (tiny_model,), "text": (documents, other)})
        extend_vocab.run(settings, inputs, tmp_path / "grown", StageContext())
        made[weights] = len(Tokenizer.load(tmp_path / "grown").encode("湖上有船，船上有人。"))
    assert made[1.0, 100.0] < made[100.0, 1.0]


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        (extend_vocab, ExtendVocabulary(model="./m", text=("./a", "./b"), init="mean")),
        (trim_vocab, TrimVocabulary(model="./m", text=("./a", "./b"))),
        (train_tokenizer, TrainTokenizer(text=("./a", "./b"))),
    ],
)
def test_a_text_that_is_named_twice_is_refused(
    tiny_model: Path, documents: Path, tmp_path: Path, stage: Any, settings: Any
) -> None:
    (tmp_path / "link").symlink_to(documents)
    inputs = Inputs({"model": (tiny_model,), "text": (documents, tmp_path / "link")})
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="this is named twice"):
        stage.run(settings, inputs, tmp_path / "out", StageContext())
    assert not any((tmp_path / "out").iterdir())


def test_weights_have_to_fit_the_sources() -> None:
    with pytest.raises(ValueError, match="2 weights for 1 sources"):
        ExtendVocabulary(model="./m", text="./d", weights=(1, 2))
    with pytest.raises(ValueError, match="between"):
        ExtendVocabulary(model="./m", text="./d", weights=(0,))


def test_a_tokenizer_that_splits_english_differently_is_detected(tiny_model: Path, tmp_path: Path) -> None:
    changed = Path(shutil.copytree(tiny_model, tmp_path / "changed"))
    rules = json.loads((changed / "tokenizer.json").read_text(encoding="utf-8"))
    rules["model"]["merges"] = rules["model"]["merges"][:10]
    rules["model"]["ignore_merges"] = False
    (changed / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    with pytest.raises(RuntimeError, match="differently"):
        verify_text_unchanged(Tokenizer.load(tiny_model), Tokenizer.load(changed), ["My name is an assistant."])


def test_a_changed_weight_is_detected(tiny_model: Path, tmp_path: Path) -> None:
    model = load_model(tiny_model)
    model.model.norm.weight.data[0] += 1e-3
    tokenizer = Tokenizer.load(tiny_model)
    after = save_model(model, tmp_path / "moved", tokenizer=tokenizer)
    nothing_new = Extension(tokenizer, len(tokenizer), (), ())
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight changed"):
        verify_weights_unchanged(check_model_folder(tiny_model), after, nothing_new)


def test_compression_is_reported_for_each_language(tiny_model: Path) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    assert measure_by_language(tokenizer, ["学士读书。", ENGLISH]).keys() == {"all", "zh", "en"}
    assert measure_by_language(tokenizer, [ENGLISH]).keys() == {"all", "en"}


@pytest.mark.parametrize(("model", "kept"), [("tiny_model", "norm"), ("tied_model", "embed_tokens")])
def test_weights_of_several_dtypes_keep_theirs(
    model: str, kept: str, documents: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base: Path = request.getfixturevalue(model)
    mixed = {name: weight if kept in name else weight.bfloat16() for name, weight in weights(base).items()}
    folder = Path(shutil.copytree(base, tmp_path / "mixed"))
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    extend_model(folder, documents, tmp_path / "grown")
    grown = weights(tmp_path / "grown")
    assert grown.keys() == mixed.keys()
    for name, weight in mixed.items():
        assert grown[name].dtype == weight.dtype
        assert torch.equal(grown[name][: len(weight)], weight)


def test_an_id_that_ends_answers_without_an_entry_is_not_given_to_a_new_one(
    tiny_model: Path, documents: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    size = len(Tokenizer.load(base))
    settings = {"eos_token_id": 5, "pad_token_id": size}  # as in some folders of Llama 2
    (base / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    extend_model(base, documents, tmp_path / "grown")
    written = json.loads((tmp_path / "grown" / "generation_config.json").read_text(encoding="utf-8"))
    assert written.get("pad_token_id") != size
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, size]}), encoding="utf-8")
    with pytest.raises(UserError, match=f"token id {size} is named, but the tokenizer has no such entry"):
        extend_model(base, documents, tmp_path / "refused")
