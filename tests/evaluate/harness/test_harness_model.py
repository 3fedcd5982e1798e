"""Hanlin's engines inside lm-evaluation-harness answer as its own `hf` model; runs where lm_eval is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanlin.core.errors import UserError
from hanlin.evaluate.harness.answers import AnswerStore
from hanlin.inference.protocol import SamplingParams

pytest.importorskip("lm_eval", reason="pip install 'hanlin[lm-eval]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of other packages

TEXTS = (("Question: what?\nAnswer:", " yes"), ("", " hello world"), ("a b ", "c"), ("你好", "北京"))
LONG = "翰林院在城东，春天的时候院子里开满了花。" * 30
PROMPTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Once upon a time", {"until": ["\n", "zz"], "max_gen_toks": 24, "do_sample": False}),
    ("你好", {"until": ["\n"], "max_gen_toks": 10}),
    (LONG, {"until": ["\n"], "max_gen_toks": 40}),
)


def instances(kind: str, *rows: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=row, idx=0) for row in rows]  # type: ignore[arg-type]


Open = Callable[..., Any]


@pytest.fixture()
def load_lm() -> Iterator[Open]:
    """Opens models, which are closed after the test."""
    from hanlin.evaluate.harness.model import HanlinLM

    opened: list[Any] = []

    def open_one(path: Path | str, **options: Any) -> Any:
        opened.append(HanlinLM(str(path), **options))
        return opened[-1]

    yield open_one
    for model in opened:
        model.loaded.engine.close()


def their_model(path: Path, **options: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(path), dtype="float32", batch_size=4, device="cpu", **options)


def assert_equal(theirs: Any, ours: Any, tolerance: float = 1e-3) -> None:
    scored = instances("loglikelihood", *TEXTS, (LONG, " hello"))
    for first, second in zip(theirs.loglikelihood(scored), ours.loglikelihood(scored), strict=True):
        assert float(first[0]) == pytest.approx(second[0], abs=tolerance)
        assert bool(first[1]) == second[1]
    whole = instances("loglikelihood_rolling", ("short text.",), ("我们在北京学习中文。",), (LONG,))
    expected = theirs.loglikelihood_rolling(whole)
    assert expected == pytest.approx(ours.loglikelihood_rolling(whole), abs=tolerance, rel=1e-4)


def test_scores_whole_texts_and_answers_are_those_of_its_own_model(tiny_model: Path, load_lm: Open) -> None:
    theirs, ours = their_model(tiny_model), load_lm(tiny_model)
    assert_equal(theirs, ours)
    for row in PROMPTS:
        asked = instances("generate_until", row)
        assert theirs.generate_until(asked) == ours.generate_until(asked)
    assert ours.truncated == 2  # the long context and the long prompt


@pytest.mark.parametrize("tokens", [255, 256, 257, 511, 512, 513])
def test_a_text_around_the_length_of_the_context_loses_no_token(tokens: int, tiny_model: Path, load_lm: Open) -> None:
    """The context of the model holds 256 ids; the last id of a window is predicted and not run."""
    theirs, ours = their_model(tiny_model), load_lm(tiny_model)
    text = "a" * tokens
    assert len(ours.tok_encode(text)) == tokens + ours.loaded.tokenizer.adds_bos
    whole = instances("loglikelihood_rolling", (text,))
    assert theirs.max_length == ours.max_length == ours.loaded.engine.context_length
    assert theirs.loglikelihood_rolling(whole) == pytest.approx(ours.loglikelihood_rolling(whole), abs=1e-3)


def test_an_adapter_is_its_base_with_the_adapter(tiny_model: Path, tmp_path: Path, load_lm: Open) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "adapter"))
    theirs, ours = their_model(tiny_model, peft=str(tmp_path / "adapter")), load_lm(tmp_path / "adapter")
    assert_equal(theirs, ours)
    plain = instances("loglikelihood", *TEXTS)
    assert ours.loglikelihood(plain) != load_lm(tiny_model).loglikelihood(plain)


def test_a_gguf_file_scores_nearly_as_its_model(taught_model: Path, taught_gguf: Path, load_lm: Open) -> None:
    assert_equal(their_model(taught_model), load_lm(taught_gguf), tolerance=0.2)


def test_a_quantized_folder_is_scored_as_what_it_was_made_from(
    taught_model: Path, tmp_path: Path, load_lm: Open
) -> None:
    pytest.importorskip("bitsandbytes")
    from hanlin.config.settings.export import QuantizedModel
    from hanlin.core.context import Inputs, StageContext
    from hanlin.export.hf import run as quantize

    (tmp_path / "int8").mkdir()
    quantize(
        QuantizedModel(model="./m", method="int8"),
        Inputs({"model": (taught_model,)}),
        tmp_path / "int8",
        StageContext(),
    )
    scored = instances("loglikelihood", *TEXTS)
    ours, whole = load_lm(tmp_path / "int8"), load_lm(taught_model)
    for few_bits, full in zip(ours.loglikelihood(scored), whole.loglikelihood(scored), strict=True):
        assert few_bits[0] == pytest.approx(full[0], rel=0.1, abs=0.5)


def test_a_conversation_is_scored_behind_exactly_the_ids_that_it_is_served_with(
    tiny_model: Path, load_lm: Open
) -> None:
    ours = load_lm(tiny_model)
    turns = [{"role": "user", "content": "<|eot_id|>你好"}]
    text = ours.apply_chat_template(turns)
    from hanlin.core.records import Message

    served = ours.loaded.load_template().render([Message("user", turns[0]["content"])], prompt=True).ids
    assert ours.tok_encode(text) == list(served)
    context, continuation = ours._encode_pair(text, "A")
    assert (context, continuation) == (list(served), ours.loaded.tokenizer.encode("A", continuation=True))
    begun = ours.apply_chat_template([*turns, {"role": "assistant", "content": "A"}], add_generation_prompt=False)
    assert ours.tok_encode(begun) == [*served, *continuation]


def test_a_repeated_request_is_sampled_anew(tiny_model: Path, load_lm: Open) -> None:
    ours = load_lm(tiny_model)
    options = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    (request,) = instances("generate_until", ("三加四", options))
    answers = ours.generate_until([request] * 3)
    assert len(set(answers)) == 3
    assert ours.generate_until([request] * 3) == answers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, SamplingParams()),
        ({"temperature": 0.7}, SamplingParams(temperature=0.7, seed=42)),
        ({"temperature": 0.0}, SamplingParams()),
        ({"temperature": 0.7, "do_sample": False}, SamplingParams()),
        ({"do_sample": True, "top_p": 0.9}, SamplingParams(temperature=1.0, top_p=0.9, seed=42)),
        ({"max_tokens": 7}, SamplingParams(max_new_tokens=7)),
        ({"max_completion_tokens": 7, "max_new_tokens": 8}, SamplingParams(max_new_tokens=8)),
        ({"repetition_penalty": 1.2, "num_beams": 1}, SamplingParams(repetition_penalty=1.2)),
        ({"do_sample": True, "min_p": 0.1, "top_k": -1}, SamplingParams(temperature=1.0, min_p=0.1, seed=42)),
    ],
    ids=str,
)
def test_the_options_of_a_task_mean_what_the_harness_means(options: dict[str, Any], expected: SamplingParams) -> None:
    from hanlin.evaluate.harness.model import read_sampling

    assert read_sampling(options) == expected


def test_an_option_of_a_task_that_cannot_be_honored_is_refused() -> None:
    from hanlin.evaluate.harness.model import read_sampling

    for name, value in (("num_beams", 4), ("max_length", 512), ("temprature", 0.5)):
        with pytest.raises(UserError, match=f"`{name}: {value}`, which is not supported"):
            read_sampling({name: value})


def test_a_task_with_answers_as_long_as_the_context_is_refused(tiny_model: Path, load_lm: Open) -> None:
    asked = instances("generate_until", ("x", {"until": [], "max_gen_toks": 256}))
    with pytest.raises(UserError, match=r"answers of 256 tokens, but the context holds 256"):
        load_lm(tiny_model).generate_until(asked)


def test_an_engine_that_scores_less_than_its_context_writes_up_to_all_of_it(
    tiny_model: Path, load_lm: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load_lm(tiny_model)
    whole = ours.generate_until(instances("generate_until", ("x" * 8, {"until": [], "max_gen_toks": 247})))
    engine = ours.loaded.engine
    monkeypatch.setattr(type(engine), "max_scored_length", property(lambda self: self.context_length - 1))
    assert ours.max_length == engine.context_length - 2
    assert ours.generate_until(instances("generate_until", ("x" * 8, {"until": [], "max_gen_toks": 247}))) == whole
    assert ours.truncated == 0


def test_an_option_that_nobody_knows_is_refused(tiny_model: Path, load_lm: Open) -> None:
    with pytest.raises(UserError, match="no option 'dtpye'"):
        load_lm(tiny_model, dtpye="float32")
    load_lm(tiny_model, batch_size=8, max_batch_size=None)


def test_what_was_answered_before_a_kill_is_not_asked_again(tmp_path: Path) -> None:
    def ask(dies_at: int | None) -> tuple[list[Any], int]:
        asked = 0

        def work(chunk: Any, keep: Any) -> None:
            nonlocal asked
            for index, request in enumerate(chunk):
                if asked == dies_at:
                    raise KeyboardInterrupt
                asked += 1
                keep(index, request * 2)

        return AnswerStore(tmp_path).ask("scores", list(range(10)), work, size=4), asked

    with pytest.raises(KeyboardInterrupt):
        ask(dies_at=6)
    assert ask(dies_at=None) == ([number * 2 for number in range(10)], 4)
