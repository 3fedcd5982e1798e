"""What is learned of a record, and what an objective makes of it: compared with other people's arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.model import LoraSettings
from hanlin.config.settings.preference import Dpo as DpoSettings
from hanlin.config.settings.train import Sft
from hanlin.core.errors import UserError
from hanlin.core.records import Conversation, Message, Preference
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encode import ChatEncoder
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.objectives.answer_logprobs import compute_pair_logprobs
from hanlin.train.objectives.next_token import NextToken
from hanlin.train.objectives.pairwise import Dpo
from training_data import conversation, many, preference

SFT = Sft(model="m", data=("d",), max_seq_length=256)
DPO = DpoSettings(model="m", data=("d",), max_seq_length=256)
ROW = 256


def encoder(template: ChatTemplate, max_seq_length: int = ROW, overlong: str = "drop") -> ChatEncoder:
    return ChatEncoder(template, max_seq_length, overlong)


def gradients(model: TrainModel) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone() for name, parameter in model.trainable_parameters() if parameter.grad is not None
    }


# ------------------------------------------------------------------------------------------------ what is learned


def test_only_assistant_tokens_are_targets(template: ChatTemplate) -> None:
    record = conversation(3)
    (encoded,) = encoder(template).conversations([record])
    (example,) = encoded.examples
    learned = [id for id, taught in zip(example.ids, example.loss_mask, strict=True) if taught]
    wanted = [
        id
        for message in record.messages
        if message.role == "assistant"
        for id in [*template.tokenizer.encode(message.text), template.tokenizer.token_id("<|eot_id|>")]
    ]
    assert learned == wanted


def test_nothing_is_kept_after_the_last_stop_token(template: ChatTemplate) -> None:
    (encoded,) = encoder(template).conversations([conversation(1)])
    assert encoded.examples[0].loss_mask[-1] and encoded.examples[0].ids[-1] in template.stop_ids


def test_only_the_last_answers_of_a_pair_are_targets(template: ChatTemplate) -> None:
    turns = (Message("user", "甲"), Message("assistant", "乙"), Message("user", "丙"))
    record = Preference(turns, Message("assistant", "好"), Message("assistant", "不好"), "p")
    (encoded,) = encoder(template).preferences([record])
    eot = template.tokenizer.token_id("<|eot_id|>")
    for example, text in zip(encoded.examples, ("好", "不好"), strict=True):
        learned = [id for id, taught in zip(example.ids, example.loss_mask, strict=True) if taught]
        assert learned == [*template.tokenizer.encode(text), eot]


def test_a_long_conversation_is_cut_at_a_turn_and_still_stops(template: ChatTemplate) -> None:
    turns = [Message(role, "三加四等于七。") for _ in range(6) for role in ("user", "assistant")]
    (encoded,) = encoder(template, 80, "truncate_turns").conversations([Conversation(tuple(turns), "long")])
    assert encoded.reason == "truncate_turns"
    (example,) = encoded.examples
    assert len(example.ids) - 1 <= 80 and example.loss_mask[-1] and example.ids[-1] in template.stop_ids


def test_an_answer_too_long_for_a_row_is_dropped_and_counted(template: ChatTemplate) -> None:
    record = Conversation((Message("user", "甲"), Message("assistant", "乙" * 300)), "long")
    for policy in ("truncate_turns", "drop"):
        (encoded,) = encoder(template, 64, policy).conversations([record])
        assert (encoded.examples, encoded.reason) == ((), "too_long")


def test_a_call_of_a_tool_is_no_end_to_cut_at(template: ChatTemplate) -> None:
    del template
    from hanlin.core.records import ToolCall
    from hanlin.train.dataset.encode import _drop_last_answer

    call = Message("assistant", "", (ToolCall("f", {}),))
    turns = [Message("user", "甲"), call, Message("tool", "1"), Message("assistant", "乙")]
    assert _drop_last_answer(turns) == ()


def test_refuse_stops_with_the_record(template: ChatTemplate) -> None:
    record = Conversation((Message("user", "甲"), Message("assistant", "乙" * 300)), "chat-17")
    with pytest.raises(UserError, match="chat-17"):
        list(encoder(template, 64, "error").conversations([record]))


def test_an_answer_without_targets_stops_the_run(template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ChatTemplate._join_spans  # where every rendering comes from, of one conversation and of many

    def without_the_last(self: ChatTemplate, *given: object, **named: object) -> TokenizedExample:
        rendered = whole(self, *given, **named)  # type: ignore[arg-type]
        return TokenizedExample(rendered.ids, rendered.loss_mask[:-8] + bytes(8))

    monkeypatch.setattr(ChatTemplate, "_join_spans", without_the_last)
    record = Conversation(tuple(Message(r, "甲") for _ in range(2) for r in ("user", "assistant")), "chat-3")
    with pytest.raises(UserError, match="1 stretches for 2 answers") as caught:
        list(encoder(template).conversations([record]))
    assert caught.value.where == "chat-3"


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [("好", "好", "identical_answers"), ("好", " ", "empty_answer"), ("好", " 好 ", "identical_answers")],
)
def test_identical_and_empty_pairs_are_refused(template: ChatTemplate, chosen: str, rejected: str, reason: str) -> None:
    record = Preference((Message("user", "甲"),), Message("assistant", chosen), Message("assistant", rejected), "p")
    (encoded,) = encoder(template).preferences([record])
    assert (encoded.examples, encoded.reason) == ((), reason)


# ---------------------------------------------------------------------------------------------- what is optimized


def test_the_sft_loss_and_gradient_are_transformers_own(
    make_model: Callable, encoded: Callable, template: ChatTemplate, tiny_model: Path
) -> None:
    store = encoded([conversation(2)], encoder(template).conversations)
    batch = PackedDataset.pack_examples(store, ROW).collate([0])
    model = make_model(SFT)
    found = NextToken().loss(model, batch)
    (found.total / found.weight).backward()

    theirs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    ids = torch.tensor(store.ids.tolist())[None]
    labels = torch.where(torch.tensor(store.loss_mask.tolist()), ids, -100)
    expected = theirs(input_ids=ids, labels=labels).loss
    expected.backward()
    assert (found.total / found.weight).item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = dict(theirs.named_parameters())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name].grad, atol=1e-6, rtol=1e-4)


def test_packed_equals_unpacked(make_model: Callable, encoded: Callable, template: ChatTemplate) -> None:
    store = encoded(many(conversation, 8), encoder(template).conversations)
    outcomes = []
    for rows in (
        PackedDataset.pack_examples(store, ROW),
        PackedDataset.from_records(store),
    ):  # the second: each conversation a row of its own
        model = make_model(SFT)
        passes = [rows.collate([unit]) for unit in range(len(rows.samples))]
        parts = [NextToken().loss(model, batch) for batch in passes]
        for part in parts:
            part.total.backward()
        outcomes.append((sum(p.total.item() for p in parts), sum(p.weight for p in parts), gradients(model)))
        assert len(passes) == (8 if len(outcomes) == 2 else len(passes))
    packed, unpacked = outcomes
    assert packed[1] == unpacked[1]
    assert packed[0] == pytest.approx(unpacked[0], rel=1e-5)
    for name, gradient in packed[2].items():
        torch.testing.assert_close(gradient, unpacked[2][name], atol=1e-4, rtol=1e-4)


def test_what_stands_before_a_document_does_not_change_it(
    make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    store = encoded(many(conversation, 8), encoder(template).conversations)
    alone, packed = PackedDataset.from_records(store), PackedDataset.pack_examples(store, ROW)
    model = make_model(SFT)
    with torch.no_grad():
        batch = packed.collate([0])
        together = model.hidden_states(batch).split(list(batch.target_counts))
        for segment, found in zip(packed.samples[0], together, strict=True):
            torch.testing.assert_close(
                found, model.hidden_states(alone.collate([segment.example])), atol=1e-5, rtol=1e-5
            )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_dpo_loss_is_the_paper_s(
    make_model: Callable, encoded: Callable, template: ChatTemplate, smoothing: float, tiny_model: Path
) -> None:
    records = many(preference, 3)
    store = encoded(records, encoder(template).preferences, width=2)
    batch = PackedDataset.from_records(store).collate(range(3))
    model = make_model(DPO)
    reference = np.asarray([[-9.0, -11.0], [-20.0, -8.0], [-15.0, -15.5]], np.float32)
    found = Dpo(0.3, smoothing, reference).loss(model, batch)
    found.total.backward()

    theirs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    eot = template.tokenizer.token_id("<|eot_id|>")
    losses = []
    for record, (chosen_then, rejected_then) in zip(records, reference.tolist(), strict=True):
        prompt = template.render(record.prompt, prompt=True).ids
        now = []
        for message in (record.chosen, record.rejected):
            answer = [*template.tokenizer.encode(message.text), eot]
            logits = theirs(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            now.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum())
        margin = 0.3 * ((now[0] - chosen_then) - (now[1] - rejected_then))
        right, wrong = -torch.log(torch.sigmoid(margin)), -torch.log(torch.sigmoid(-margin))
        losses.append((1 - smoothing) * right + smoothing * wrong)
    expected = torch.stack(losses).sum()
    expected.backward()
    assert found.weight == 3
    assert found.total.item() == pytest.approx(expected.item(), abs=1e-4)
    wanted = dict(theirs.named_parameters())
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, wanted[name].grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, dropout=0.2)])
def test_dpo_starts_at_log_two(
    make_model: Callable, encoded: Callable, template: ChatTemplate, lora: LoraSettings | None
) -> None:
    store = encoded(many(preference, 6), encoder(template).preferences, width=2)
    rows = PackedDataset.from_records(store)
    model = make_model(DPO.model_copy(update={"lora": lora}))
    with torch.no_grad():
        reference = torch.cat(
            [compute_pair_logprobs(model, batch).sums for batch in rows.micro_batches(range(6), 100)]
        ).numpy()
    model.hf_model.train()
    found = Dpo(0.1, 0.0, reference).loss(model, rows.collate(range(6)))
    assert found.total.item() / found.weight == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.parametrize(("loss", "exact"), [(0.6950, False), (0.69317, True), (0.0, False)])
def test_a_first_loss_that_is_not_log_two_stops_the_run(loss: float, exact: bool) -> None:
    with pytest.raises(UserError, match="log 2"):
        Dpo(0.1, 0.0, np.zeros((1, 2), np.float32)).check_first_loss({"preference_loss": loss}, exact)


def test_an_adapter_learns_through_a_frozen_head_kept_in_bfloat16(
    make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    settings = SFT.model_copy(update={"lora": LoraSettings(rank=4)})
    batch = PackedDataset.pack_examples(encoded(many(conversation, 4), encoder(template).conversations), ROW).collate(
        [0]
    )
    values = []
    for precision in ("float32", "bfloat16"):
        model = make_model(settings, precision)
        found = NextToken().loss(model, batch)
        found.total.backward()
        values.append(found.total.item() / found.weight)
        assert all("lora_" in name and gradient.isfinite().all() for name, gradient in gradients(model).items())
        assert any(gradient.abs().sum() > 0 for gradient in gradients(model).values())
    assert values[1] == pytest.approx(values[0], rel=0.01)


def test_a_head_trained_whole_beside_an_adapter_is_the_one_that_is_used(
    make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    settings = SFT.model_copy(update={"lora": LoraSettings(rank=4, modules_to_save=("embed_tokens", "lm_head"))})
    batch = PackedDataset.pack_examples(encoded(many(conversation, 4), encoder(template).conversations), ROW).collate(
        [0]
    )
    model = make_model(settings)
    NextToken().loss(model, batch).total.backward()
    found = gradients(model)
    whole = [name for name in found if "lora_" not in name]
    assert len(whole) == 2 and all(found[name].abs().sum() > 0 for name in whole)


def test_recomputed_activations_change_no_gradient(
    make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    batch = PackedDataset.pack_examples(encoded(many(conversation, 4), encoder(template).conversations), ROW).collate(
        [0]
    )
    for lora in (None, LoraSettings(rank=4)):
        found = []
        for less in (False, True):
            model = make_model(SFT.model_copy(update={"gradient_checkpointing": less, "lora": lora}))
            model.hf_model.train()
            NextToken().loss(model, batch).total.backward()
            found.append(gradients(model))
        for name, gradient in found[0].items():
            assert torch.equal(gradient, found[1][name])


def test_a_sum_of_losses_is_what_cross_entropy_sums_to(
    make_model: Callable, encoded: Callable, template: ChatTemplate
) -> None:
    batch = PackedDataset.pack_examples(encoded(many(conversation, 2), encoder(template).conversations), ROW).collate(
        [0]
    )
    model = make_model(SFT)
    with torch.no_grad():
        logits = model.hidden_states(batch) @ model.hf_model.get_output_embeddings().weight.T
        expected = functional.cross_entropy(logits, batch.targets, reduction="sum")
        assert NextToken().loss(model, batch).total.item() == pytest.approx(expected.item(), rel=1e-6)
