"""Perplexity: every token counted once, equal to the plain computation, comparable by character across vocabularies."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.evaluate import Perplexity
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.records import Conversation, Document, Message, Preference, write_jsonl
from hanlin.core.resumable import read_rows
from hanlin.evaluate.perplexity import (
    Sample,
    answer_sample,
    choose_stride,
    limit_characters,
    run,
    score_samples,
    split_windows,
    text_sample,
)
from hanlin.inference.loading import load_engine
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer
from taught_model import LESSONS

ZH = Document("翰林院在城东，春天的时候院子里开满了花。" * 3, "zh1")
EN = Document("The library stands in the east of the town. " * 3, "en1")
SETTINGS = Perplexity(model="m", data="d", window=32, overlap=8)
LEARNED = [
    Conversation((Message("user", asked), Message("assistant", answer)), f"c{place}")
    for place, (asked, answer) in enumerate(LESSONS)
]


@pytest.fixture()
def corpus(tmp_path: Path) -> Path:
    return held_out(tmp_path / "corpus", [ZH, EN, Document("七", "zh2")])


def held_out(folder: Path, records: list) -> Path:
    folder.mkdir()
    write_jsonl(folder / "validation.jsonl", records)
    return folder


def measured(model: Path, data: Path, out: Path, settings: Perplexity = SETTINGS) -> dict:
    out.mkdir()
    return run(settings, Inputs({"model": (model,), "data": (data,)}), out, StageContext())


def plain_nats(folder: Path, ids: list[int], start: int, stop: int) -> float:
    """−log p of ids[start:stop] by one forward pass."""
    with torch.inference_mode():
        logits = load_model(folder)(input_ids=torch.tensor([ids])).logits[0]
    wanted = torch.tensor(ids[start:stop])
    return torch.nn.functional.cross_entropy(logits[start - 1 : stop - 1], wanted, reduction="sum").item()


# ----------------------------------------------------------------------------------------------------- windows


@given(st.integers(1, 40), st.integers(0, 200), st.integers(16, 64), st.data())
def test_every_token_is_scored_once_and_no_window_is_too_long(
    start: int, length: int, window: int, data: st.DataObject
) -> None:
    stride = choose_stride(window, data.draw(st.integers(0, 2 * window)))
    assert window - window // 2 <= stride < window
    ids = list(range(1000, 1000 + start + length))
    place = start
    for context, scored in split_windows(ids, start, start + length, window, stride):
        assert context[0] == ids[0] and len(context) + len(scored) <= window
        assert list(context[1:]) == ids[max(1, place - len(context) + 1) : place]
        assert list(scored) == ids[place : place + len(scored)]
        place += len(scored)
    assert place == len(ids)


def test_later_windows_see_as_much_as_fits() -> None:
    first, second = list(split_windows(range(50), 1, 41, 32, 24))
    assert first == ((0,), tuple(range(1, 25)))
    assert second == ((0, *range(10, 25)), tuple(range(25, 41)))


# ------------------------------------------------------------------------------------------------------ figures


def test_the_figures_equal_a_plain_forward_pass(tiny_model: Path) -> None:
    loaded = load_engine(tiny_model)
    sample = text_sample(loaded.tokenizer, ZH)
    (row,) = score_samples(loaded, [sample], 256, 255)
    assert sample.ids[0] == loaded.tokenizer.bos_id
    assert row["nats"] == pytest.approx(plain_nats(tiny_model, list(sample.ids), 1, len(sample.ids)), abs=2e-3)
    assert row["tokens"] == len(sample.ids) - 1


def test_what_is_measured_together_changes_nothing(tiny_model: Path) -> None:
    loaded = load_engine(tiny_model)
    samples = [text_sample(loaded.tokenizer, document) for document in (ZH, EN)]
    together = score_samples(loaded, samples, 32, 24)
    alone = [row for sample in samples for row in score_samples(loaded, [sample], 32, 24)]
    assert [row["nats"] for row in together] == pytest.approx([row["nats"] for row in alone], abs=1e-3)


def test_products_are_rounded_only_where_the_processor_is_faster_by_it(
    taught_model: Path, corpus: Path, tmp_path: Path
) -> None:
    capabilities = torch.cpu.get_capabilities()
    is_faster = capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")
    exact = SETTINGS.model_copy(update={"precision": "float32"})
    auto, plain = (
        measured(taught_model, corpus, tmp_path / name, settings)
        for name, settings in (("auto", SETTINGS), ("plain", exact))
    )
    assert (auto["precision"], plain["precision"]) == ("bfloat16" if is_faster else "float32", "float32")
    assert auto["nats_per_token"] == pytest.approx(plain["nats_per_token"], rel=5e-3)
    assert (auto["nats_per_token"] == plain["nats_per_token"]) is not bool(is_faster)


def test_weights_in_another_format_are_multiplied_in_that(taught_model: Path, corpus: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"dtype": "float16"})
    assert measured(taught_model, corpus, tmp_path / "out", settings)["precision"] == "float16"


def test_a_gguf_file_is_as_surprised_as_its_model(
    taught_model: Path, taught_gguf: Path, corpus: Path, tmp_path: Path
) -> None:
    model = measured(taught_model, corpus, tmp_path / "model")
    exact = measured(taught_gguf, corpus, tmp_path / "exact", SETTINGS.model_copy(update={"file": "F32"}))
    eight_bits = measured(taught_gguf, corpus, tmp_path / "eight", SETTINGS.model_copy(update={"file": "Q8_0"}))
    assert exact["nats_per_token"] == pytest.approx(model["nats_per_token"], rel=1e-3)
    assert (exact["dtype"], eight_bits["dtype"], model.get("dtype")) == ("F32", "Q8_0", None)
    assert eight_bits["nats_per_token"] == pytest.approx(model["nats_per_token"], rel=1e-2)


def test_a_number_format_that_a_gguf_file_cannot_take_is_refused(
    taught_gguf: Path, corpus: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"file": "Q8_0", "dtype": "bfloat16"})
    with pytest.raises(UserError, match="has its own number format, not bfloat16"):
        measured(taught_gguf, corpus, tmp_path / "out", settings)


def test_a_random_model_is_as_surprised_as_by_chance(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    metrics = measured(tiny_model, corpus, tmp_path / "out")
    assert metrics["perplexity"] == pytest.approx(len(Tokenizer.load(tiny_model)), rel=0.1)


def test_languages_are_told_apart_and_add_up(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    metrics = measured(tiny_model, corpus, tmp_path / "out")
    assert (metrics["records"], metrics["zh"]["records"], metrics["en"]["records"]) == (3, 2, 1)
    assert metrics["tokens"] == metrics["zh"]["tokens"] + metrics["en"]["tokens"]
    nats = [row["nats"] for row in read_rows(tmp_path / "out/perplexity.jsonl")]
    assert metrics["nats_per_character"] == pytest.approx(sum(nats) / metrics["characters"])
    assert metrics["bits_per_byte"] == pytest.approx(sum(nats) / math.log(2) / metrics["bytes"])


def test_the_limit_counts_characters_of_each_language_and_cuts_the_last() -> None:
    documents = [Document("甲" * 30, "1"), Document("abc " * 10, "2"), Document("乙" * 30, "3"), Document("丙", "4")]
    kept = cast(list[Document], list(limit_characters(documents, 40)))
    assert [(document.id, len(document.text)) for document in kept] == [("1", 30), ("2", 40), ("3", 10)]


def test_progress_is_told_before_and_after_each_window(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    told: list[float] = []

    class Told(Progress):
        def update(self, done: float, total: float, unit: str, force: bool = False, **figures: float) -> None:
            told.append(done / total)

    inputs = Inputs({"model": (tiny_model,), "data": (corpus,)})
    (tmp_path / "out").mkdir()
    run(SETTINGS, inputs, tmp_path / "out", StageContext(progress=Told(quiet=True)))
    assert told[0] == 0 and told[-1] == 1
    assert told == sorted(told) and len(set(told)) > 3


def test_two_runs_write_the_same_bytes(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        measured(tiny_model, corpus, tmp_path / name)
    assert (tmp_path / "one/perplexity.jsonl").read_bytes() == (tmp_path / "two/perplexity.jsonl").read_bytes()


# ------------------------------------------------------------------------------------- conversations and pairs


def test_of_a_conversation_the_answers_and_their_ends_are_measured(taught_model: Path) -> None:
    template = ChatTemplate.load(taught_model)
    turns = (*LEARNED[0].messages, *LEARNED[1].messages)
    sample = answer_sample(template, Conversation(turns, "c"))
    said = [list(sample.ids[start:stop]) for start, stop in sample.spans]
    ends = [template.tokenizer.token_id("<|eot_id|>")]
    assert said == [[*template.tokenizer.encode(answer), *ends] for _, answer in LESSONS[:2]]
    assert sample.text == LESSONS[0][1] + LESSONS[1][1]


def test_answers_are_measured_given_all_that_was_said_before(tiny_model: Path) -> None:
    loaded = load_engine(tiny_model)
    sample = answer_sample(loaded.load_template(), Conversation((*LEARNED[0].messages, *LEARNED[3].messages), "c"))
    (row,) = score_samples(loaded, [sample], 256, 255)
    wanted = sum(plain_nats(tiny_model, list(sample.ids), start, stop) for start, stop in sample.spans)
    assert row["nats"] == pytest.approx(wanted, abs=2e-3)


def test_a_model_is_not_surprised_by_what_it_has_learnt(taught_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    chats = held_out(tmp_path / "chats", LEARNED)
    settings = SETTINGS.model_copy(update={"window": None})
    assert measured(taught_model, chats, tmp_path / "taught", settings)["perplexity"] < 1.1
    assert measured(tiny_model, chats, tmp_path / "untaught", settings)["perplexity"] > 100


def test_of_a_pair_the_preferred_answer_is_measured_and_no_earlier_one(taught_model: Path) -> None:
    template = ChatTemplate.load(taught_model)
    prompt = (*LEARNED[0].messages, Message("user", "三加四等于几？"))
    sample = answer_sample(template, Preference(prompt, Message("assistant", "七"), Message("assistant", "八"), "p"))
    assert sample.text == "七"


def test_pairs_are_measured_from_their_held_out_file(taught_model: Path, tmp_path: Path) -> None:
    asked, answer = LEARNED[1].messages
    pairs = held_out(tmp_path / "pairs", [Preference((asked,), answer, Message("assistant", "八"), "p")])
    metrics = measured(taught_model, pairs, tmp_path / "out", SETTINGS.model_copy(update={"window": None}))
    assert metrics["perplexity"] < 1.1


def test_conversations_need_a_chat_template(tiny_model: Path, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    (base / "chat_template.jinja").unlink()
    chats = held_out(tmp_path / "chats", LEARNED)
    with pytest.raises(UserError, match="no chat template"):
        measured(base, chats, tmp_path / "out")


# ------------------------------------------------------------------------------------------------------- errors


def test_documents_without_a_held_out_part_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(UserError, match=r"no validation split.*validation_fraction"):
        measured(tiny_model, tmp_path / "corpus", tmp_path / "out")


def test_an_empty_held_out_part_is_refused(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    (corpus / "validation.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no records to score"):
        measured(tiny_model, corpus, tmp_path / "out")


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"name": "x"}'])
def test_a_file_of_something_else_is_refused_by_line(tiny_model: Path, corpus: Path, tmp_path: Path, line: str) -> None:
    (corpus / "validation.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"validation.jsonl:1"):
        measured(tiny_model, corpus, tmp_path / "out")


def test_a_window_beyond_the_models_context_is_refused(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="512 tokens is longer than the model's context of 256"):
        measured(tiny_model, corpus, tmp_path / "out", Perplexity(model="m", data="d", window=512))


def test_a_model_whose_weights_are_not_numbers_is_refused(tiny_model: Path, corpus: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"zh1: .*not finite"):
        measured(broken, corpus, tmp_path / "out")


def test_a_sample_of_nothing_predicted_takes_no_part(tiny_model: Path) -> None:
    (row,) = score_samples(load_engine(tiny_model), [Sample("x", [1], [], "")], 32, 24)
    assert (row["tokens"], row["nats"]) == (0, 0.0)
