"""Probes: forgetting is seen while it happens, in numbers that plain transformers gives too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hanlin.config.settings.train import Sft
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.train import stages
from hanlin.train.callbacks.forgetting import DEFAULT_PROBES, read_probes
from training_data import conversation, many

SFT = Sft(
    model="m", data=("d",), max_seq_length=128, batch_tokens=512, steps=6, learning_rate=1e-3, precision="float32",
    probe_every=3,
)  # fmt: skip
OWN = (
    {"topic": "english", "text": "The library stands in the east of the town."},
    {"topic": "sums", "question": "三加四等于", "answer": "七"},
    {"topic": "sums", "question": "Three plus four is", "answer": " seven"},
)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in OWN), encoding="utf-8")
    return file


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_packaged_probes_are_english_and_right_arithmetic() -> None:
    probes = read_probes(DEFAULT_PROBES)
    assert {probe.topic for probe in probes} == {"english", "arithmetic"}
    assert all(probe.text.isascii() and probe.answer.isascii() for probe in probes)
    sums = [probe for probe in probes if probe.text.endswith(" =")]
    assert len(sums) >= 20
    for probe in sums:
        left, sign, right = probe.text.removesuffix(" =").split()
        value = {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}
        assert int(probe.answer) == (int(left) // int(right) if sign == "/" else value[sign])


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"topic": "english"}', '{"topic": "Two words", "text": "a"}',
     '{"topic": "a", "text": "b", "answer": "c"}'],
)  # fmt: skip
def test_a_line_that_is_no_probe_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "probes.jsonl"
    file.write_text(json.dumps(OWN[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_probes(file)
    assert str(caught.value.where).endswith("probes.jsonl:2")


def test_probes_tell_what_plain_transformers_tells(
    own: Path, tiny_model: Path, tmp_path: Path, inputs: Callable[..., Inputs]
) -> None:
    given = inputs(many(conversation, 12))
    out = tmp_path / "out"
    out.mkdir()
    metrics = stages.sft(SFT, Inputs({**given.by_field, "probes": (own,)}), out, StageContext())
    rows = curve(out)
    assert [row["step"] for row in rows if "probe_sums_loss" in row] == [3, 6]
    tokenizer = Tokenizer.load(tiny_model)
    for place, folder, suffix in ((0, tiny_model, "_at_start"), (-1, out, "")):
        model = AutoModelForCausalLM.from_pretrained(folder)
        losses: dict[str, list[float]] = {"english": [], "sums": []}
        right = []
        for row in OWN:
            read = [tokenizer.bos_id, *(tokenizer.encode(row["question"]) if "question" in row else [])]
            asked = tokenizer.encode(row.get("answer") or row["text"])
            with torch.no_grad():
                shares = model(torch.tensor([read + asked])).logits[0, len(read) - 1 : -1].log_softmax(-1)
            losses[row["topic"]] += (-shares[range(len(asked)), asked]).tolist()
            if "answer" in row:
                right.append(shares.argmax(-1).tolist() == asked)
        for topic, values in losses.items():
            mean = sum(values) / len(values)
            assert rows[place][f"probe_{topic}_loss{suffix}"] == pytest.approx(mean, rel=1e-4)
        assert rows[place][f"probe_sums_accuracy{suffix}"] == sum(right) / len(right)
    assert metrics["probe_english_loss"]["before"] == rows[0]["probe_english_loss_at_start"]
    assert metrics["probe_english_loss"]["after"] == rows[-1]["probe_english_loss"]


def test_training_stops_when_a_probe_has_grown_by_more_than_the_limit(
    own: Path, tmp_path: Path, inputs: Callable[..., Inputs], capsys: pytest.CaptureFixture
) -> None:
    given = inputs(many(conversation, 12))
    settings = SFT.model_copy(update={"learning_rate": 0.5, "steps": 12, "probe_limit": 0.5})
    stages.sft(settings, Inputs({**given.by_field, "probes": (own,)}), tmp_path, StageContext(progress=Progress("sft")))
    assert len(curve(tmp_path)) == 3
    assert "probe_limit" in capsys.readouterr().err


def test_probes_need_to_be_measured() -> None:
    with pytest.raises(ValueError, match="probe_every"):
        Sft(model="m", data=("d",), probe_limit=1.0)
