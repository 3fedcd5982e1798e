"""The quality_report of a quantized file, and choosing the smallest file that passes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import LlamaForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf, QualityReport, parse_conditions
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Document, Message, write_jsonl
from hanlin.export.gguf import export as export_gguf
from hanlin.export.quality import _build_requests, count_steps, prepare_reference, scored_positions
from hanlin.export.quality_page import draw_chart, format_table
from hanlin.inference.protocol import Completion
from hanlin.models.folder.checks import check_model_folder
from hanlin.tokenizer.tokenizer import Tokenizer
from taught_model import LESSONS, taught_model

Export = Callable[..., tuple[Path, dict[str, Any]]]
SETTINGS = QualityReport(held_out=("./held",), window=64, tokens=200, prompts=5, max_new_tokens=40)


@pytest.fixture(scope="module")
def taught(tiny_model: Path) -> Path:
    return taught_model(tiny_model)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Documents and conversations, Chinese and English, as the stages leave them."""
    texts, chats = tmp_path_factory.mktemp("texts"), tmp_path_factory.mktemp("chats")
    chinese = [Document(f"翰林院在城东，春天开花，第{n}年。", f"z{n}") for n in range(20)]
    english = [Document(f"The library stands in the east of the town, year {n}.", f"e{n}") for n in range(20)]
    write_jsonl(texts / "validation.jsonl", chinese + english)
    asked = [
        Conversation((Message("user", question), Message("assistant", answer)), f"c{n}")
        for n, (question, answer) in enumerate(LESSONS)
    ]
    write_jsonl(chats / "validation.jsonl", asked)
    return texts, chats


def test_a_quality_report_measures_each_file_against_the_source(
    taught: Path, held_out: tuple[Path, Path], export: Export
) -> None:
    out, metrics = export(taught, "F32", "Q8_0", "Q4_0", held_out=held_out, quality_report=SETTINGS, compare=False)
    exact, near, far = (metrics[name] for name in ("F32", "Q8_0", "Q4_0"))
    assert exact["kl"] < 1e-6 < near["kl"] < far["kl"]
    assert exact["same_top_token"] == exact["same_answers"] == exact["stop_rate"] == 1.0
    assert exact["perplexity_ratio"] == pytest.approx(1.0, abs=1e-4)
    assert exact["answers"] == len(LESSONS)
    assert exact["tokens_per_second"] > 0
    assert far["bits_per_weight"] < near["bits_per_weight"] < exact["bits_per_weight"] == 32.0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in card for name in ("F32", "Q8_0", "Q4_0"))
    assert "quality_report.svg" in card
    assert (out / "quality_report.svg").read_text(encoding="utf-8").count("<circle") == 3


def test_what_is_kept_of_the_source_must_fit_the_disk(
    taught: Path, held_out: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanlin.core.files.shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    tokenizer = Tokenizer.load(taught)
    with pytest.raises(UserError, match=r"the disk has 0\.00 GB free"):
        prepare_reference(SETTINGS, held_out, check_model_folder(taught), tokenizer, None, tmp_path, StageContext())
    assert not list(tmp_path.rglob("*.npy"))


def test_perplexity_is_of_the_second_half_of_each_window(
    taught: Path, held_out: tuple[Path, Path], tmp_path: Path
) -> None:
    tokenizer = Tokenizer.load(taught)
    template = ChatTemplate.load(taught, tokenizer)
    files = check_model_folder(taught)
    reference = prepare_reference(SETTINGS, held_out, files, tokenizer, template, tmp_path, StageContext())
    model = LlamaForCausalLM.from_pretrained(taught)
    for language in ("zh", "en"):
        for place, ids in enumerate(reference.windows[language]):
            assert len(ids) == 64
            assert ids[0] == tokenizer.bos_id
            logits = model(torch.tensor([ids])).logits[0]
            expected = torch.log_softmax(logits, -1)[32:63].detach().numpy()
            assert abs(reference.logprobs(language, place) - expected).max() < 1e-4
    assert list(scored_positions(64)) == list(range(32, 63))
    assert len(reference.windows["zh"]) == 3


def test_questions_end_where_the_last_answer_begins(taught: Path, held_out: tuple[Path, Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(taught)
    template = ChatTemplate.load(taught, tokenizer)
    reference = prepare_reference(
        SETTINGS, held_out, check_model_folder(taught), tokenizer, template, tmp_path, StageContext()
    )
    prompt = template.render([Message("user", LESSONS[0][0])], prompt=True).ids
    assert list(reference.requests[0].prompt_ids) == prompt
    assert tokenizer.decode(reference.completions[0].ids) == LESSONS[0][1]


def test_a_conversation_without_an_answer_is_no_question(taught: Path) -> None:
    template = ChatTemplate.load(taught)
    question = Message("user", "?")
    records = [Conversation((question,), "c0"), Conversation((question, Message("assistant", "!")), "c1")]
    assert len(list(_build_requests(records, template, SETTINGS, 64))) == 1


def test_pick_keeps_the_smallest_type_that_passes(taught: Path, held_out: tuple[Path, Path], export: Export) -> None:
    types = ("Q8_0", "F16", "Q4_0", "Q5_0")
    _, all_of_them = export(taught, *types, held_out=held_out, quality_report=SETTINGS, compare=False)
    bound = all_of_them["Q5_0"]["kl"] * 0.9
    out, metrics = export(
        taught, *types, held_out=held_out, quality_report=SETTINGS, compare=False, pick=f"kl<={bound:.8f}"
    )
    passing = [name for name in types if all_of_them[name]["kl"] <= bound]
    assert metrics["picked"] == min(passing, key=lambda name: all_of_them[name]["bytes"]) == "Q8_0"
    assert sorted(file.name for file in out.glob("*.gguf")) == ["model-Q8_0.gguf"]
    assert set(metrics["rejected"]) == {"Q4_0", "Q5_0"}
    assert "| (Q4_0) |" in (out / "README.md").read_text(encoding="utf-8")


def test_nothing_is_picked_when_nothing_passes(taught: Path, held_out: tuple[Path, Path], export: Export) -> None:
    with pytest.raises(UserError, match="no type meets kl<=1e-9"):
        export(taught, "Q4_0", held_out=held_out, quality_report=SETTINGS, compare=False, pick="kl<=1e-9")


def test_a_killed_choice_goes_on_without_measuring_again(
    taught: Path, held_out: tuple[Path, Path], export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {"held_out": held_out, "quality_report": SETTINGS, "compare": False, "pick": "kl<=1e-4"}
    measure = export_gguf.quality.measure_quality
    files = []

    def killed(file: Path, *rest: Any) -> Any:
        files.append(file.name)
        if len(files) == 2:
            raise KeyboardInterrupt
        return measure(file, *rest)

    monkeypatch.setattr(export_gguf.quality, "measure_quality", killed)
    with pytest.raises(KeyboardInterrupt):
        export(taught, "F32", "Q5_0", "Q4_0", out=out, **settings)
    _, metrics = export(taught, "F32", "Q5_0", "Q4_0", out=out, **settings)
    assert files == ["model-Q4_0.gguf", "model-Q5_0.gguf", "model-Q5_0.gguf", "model-F32.gguf"]
    assert metrics["picked"] == "F32"


def test_answers_cannot_be_a_condition_without_questions(
    taught: Path, held_out: tuple[Path, Path], export: Export
) -> None:
    with pytest.raises(UserError, match="'same_answers' was not measured"):
        export(taught, "Q8_0", held_out=held_out[:1], quality_report=SETTINGS, compare=False, pick="same_answers>=0.5")


def test_too_little_text_is_refused(taught: Path, export: Export, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "validation.jsonl", [Document("很短。", "z")])
    with pytest.raises(UserError, match="fewer than 32 tokens"):
        export(taught, "Q8_0", held_out=(tmp_path,), quality_report=SETTINGS, compare=False)


@pytest.mark.parametrize("text", ["kl", "kl<0.1;", "speed>=3", "kl=0.1", "kl<=x", ","])
def test_a_condition_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a condition"):
        parse_conditions(text)


def test_a_choice_needs_something_to_measure_on() -> None:
    with pytest.raises(ValidationError, match="quality_report"):
        Gguf(model="./m", pick="kl<=0.02")


def test_the_stop_token_is_generated_only_where_an_answer_ends_with_one() -> None:
    assert count_steps([Completion((1, 2), "stop"), Completion((1, 2, 3), "length")]) == 6
    assert count_steps([]) == 0


def test_the_table_and_the_picture_hold_every_file() -> None:
    part = {"perplexity": 10.0, "source_perplexity": 9.0, "kl": 0.01, "same_top_token": 0.95}
    rows = {name: {"bytes": 10**6, "bits_per_weight": 4.5, "kl": 0.01, "zh": part} for name in ("Q4_0", "Q4_1")}
    lines = format_table(rows)
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 1 + 2
    assert draw_chart(rows).count("<circle") == 2
    assert "nan" not in draw_chart({"F32": {**rows["Q4_0"], "kl": 0.0}})
