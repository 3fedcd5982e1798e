"""What is optimised, as values: how a record becomes examples, and how a pass through the model becomes a sum of losses
and the weight that the sum is of.

Owns encoding and loss of each objective. Does not own the loop that divides sums by weights, nor the head's arithmetic
(`losses`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch.nn import functional

from hanlin.errors import UserError
from hanlin.language import say
from hanlin.records import Conversation, Document, Message, Preference
from hanlin.tokens.chat_template import ChatTemplate, Rendered
from hanlin.tokens.examples import render_documents, render_preference
from hanlin.tokens.tokenizer import Tokenizer
from hanlin.train.network import Network
from hanlin.train.rows import Encoded, Example, Pass


@dataclass(frozen=True, slots=True)
class LossSum:
    """`total` is a sum over `weight` things (tokens, pairs), never a mean: sums add up over passes, steps' parts and
    processes, and are divided once, by the weight of all. `metrics` are sums over the same things."""

    total: torch.Tensor
    weight: float
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """What the loop needs to know of what it optimises."""

    weighs: ClassVar[str]
    """What the weight counts: `learnt_tokens` or `pairs`."""
    measures: ClassVar[tuple[str, ...]]
    """The names of `LossSum.metrics`."""

    def loss(self, network: Network, batch: Pass) -> LossSum: ...

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """Raise UserError when the very first means (`loss` and the measures) cannot be right; `exact`: not rounded."""


class NextToken:
    """-log p of each learnt token given what stands before it in its document; the weight is their number."""

    weighs: ClassVar[str] = "learnt_tokens"
    measures: ClassVar[tuple[str, ...]] = ()

    def loss(self, network: Network, batch: Pass) -> LossSum:
        return LossSum(network.summed_loss(batch), float(len(batch.targets)))

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """Any finite loss may be where training starts."""


@dataclass(frozen=True, slots=True)
class Dpo:
    """Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290, eq. 7); the weight is the pairs.

    `reference` [pairs, 2] holds the summed log-probabilities of the chosen and the rejected answer under the model as
    it was at the start. `label_smoothing` is the share of pairs assumed to be labelled the wrong way round (Mitchell
    2023, "A note on DPO with noisy preferences"). `chosen_weight` adds the mean -log p of a chosen answer's tokens, so
    that aligning does not unlearn it (Pang et al. 2024, arXiv:2404.19733, eq. 1).
    """

    beta: float
    label_smoothing: float
    reference: np.ndarray
    chosen_weight: float = 0.0
    weighs: ClassVar[str] = "pairs"
    measures: ClassVar[tuple[str, ...]] = (
        "preference_loss",
        "accuracy",
        "margin",
        "chosen_reward",
        "rejected_reward",
    )

    def loss(self, network: Network, batch: Pass) -> LossSum:
        policy = pair_log_probabilities(network, batch)
        reference = torch.from_numpy(self.reference[list(batch.units)]).to(policy.device)
        rewards = self.beta * (policy - reference)
        margin = rewards[:, 0] - rewards[:, 1]
        losses = -functional.logsigmoid(margin) * (1 - self.label_smoothing)
        if self.label_smoothing:
            losses = losses - functional.logsigmoid(-margin) * self.label_smoothing
        known = rewards.detach()
        preference = losses.detach().sum()
        if self.chosen_weight:
            lengths = torch.tensor(batch.counts[::2], dtype=policy.dtype, device=policy.device)
            losses = losses - self.chosen_weight * policy[:, 0] / lengths
        sums = (preference, (margin > 0).sum(), margin.detach().sum(), known[:, 0].sum(), known[:, 1].sum())
        return LossSum(losses.sum(), float(len(batch.units)), dict(zip(self.measures, sums, strict=True)))

    def check_start(self, means: Mapping[str, float], exact: bool) -> None:
        """The policy equals its reference at the start, so every margin is 0 and the preference loss is log 2."""
        loss = means["preference_loss"]
        if abs(loss - math.log(2)) > (1e-5 if exact else 1e-3):
            raise UserError(
                say(
                    f"the first loss is {loss:.6f}, but a policy that equals its reference has log 2 = 0.693147",
                    f"首步损失为 {loss:.6f}，而与参考模型相同的策略应为 log 2 = 0.693147",
                ),
                None,
                say(
                    "the model changed since its reference was computed: remove the stage's .work folder and run again",
                    "参考值计算之后模型已变：请删除该阶段的 .work 目录后重新运行",
                ),
            )


def pair_log_probabilities(network: Network, batch: Pass) -> torch.Tensor:
    """Summed log-probabilities of the learnt tokens of each pair's two examples, float32 [pairs, 2]."""
    found = network.token_log_probabilities(batch)
    return torch.stack([part.sum() for part in found.split(list(batch.counts))]).view(-1, 2)


def encode_documents(documents: Sequence[Document], tokenizer: Tokenizer) -> Iterator[Encoded]:
    """Documents with their begin and end tokens; a text of which no token can be learnt is refused."""
    for rendered in render_documents([document.text for document in documents], tokenizer):
        whole = Example(rendered.ids, rendered.learn)
        yield Encoded((whole,)) if len(whole.ids) > 1 else Encoded(reason="empty")


@dataclass(frozen=True, slots=True)
class ChatEncoder:
    """Conversations and preference pairs as examples, through the chat template, with each answer learnt.

    `row_length` is the most positions that an example may take. `over_length` says what is done with a longer one.
    """

    template: ChatTemplate
    row_length: int
    over_length: str

    def conversations(self, records: Sequence[Conversation]) -> Iterator[Encoded]:
        for record in records:
            yield self._conversation(record)

    def preferences(self, records: Sequence[Preference]) -> Iterator[Encoded]:
        for record in records:
            yield self._preference(record)

    def _conversation(self, record: Conversation) -> Encoded:
        messages = record.messages
        changed = ""
        while True:
            rendered = self.template.render(messages, record.tools, where=record.id)
            example = _trimmed(rendered)
            if len(example.ids) - 1 <= self.row_length:
                break
            messages = _without_last_answer(messages) if self.over_length == "cut_at_turns" else ()
            if not messages:
                return self._too_long(len(example.ids), record.id)
            changed = "cut_at_turns"
        answers = sum(message.role == "assistant" for message in messages)
        _each_answer_is_learnt(rendered, answers, record.id)
        return Encoded((example,), changed)

    def _preference(self, record: Preference) -> Encoded:
        if record.chosen == record.rejected:
            return Encoded(reason="identical_answers")
        for answer in (record.chosen, record.rejected):
            if not answer.text.strip() and not answer.tool_calls:
                return Encoded(reason="empty_answer")
        examples = []
        for rendered in render_preference(record, self.template):
            _each_answer_is_learnt(rendered, 1, record.id)
            examples.append(_trimmed(rendered))
        longest = max(len(example.ids) for example in examples)
        if longest - 1 > self.row_length:
            return self._too_long(longest, record.id)
        if examples[0].ids == examples[1].ids:
            return Encoded(reason="identical_answers")
        return Encoded(tuple(examples))

    def _too_long(self, tokens: int, record_id: str) -> Encoded:
        if self.over_length != "refuse":
            return Encoded(reason="too_long")
        raise UserError(
            say(
                f"{tokens} tokens do not fit into a row of {self.row_length}",
                f"{tokens} 个词元放不进 {self.row_length} 的行",
            ),
            record_id,
            say("raise row_length, or set over_length: drop", "增大 row_length，或设 over_length: drop"),
        )


def _each_answer_is_learnt(rendered: Rendered, answers: int, record_id: str) -> None:
    """As many learnt stretches as answers: the one rule that only the record can tell. The others are `contract`'s."""
    after = [*rendered.learn[1:], False]
    found = sum(learnt and not goes_on for learnt, goes_on in zip(rendered.learn, after, strict=True))
    if found != answers:
        what = say(f"{found} of {answers} answers are learnt", f"{answers} 个回答中只有 {found} 个被学习")
        hint = say(
            "the chat template cannot be trained with: choose a packaged one", "该对话模板不能用于训练：请换用内置模板"
        )
        raise UserError(what, record_id, hint)


def _trimmed(rendered: Rendered) -> Example:
    """Without what comes after the last learnt token: nothing would be learnt from it."""
    end = max((place for place, learnt in enumerate(rendered.learn) if learnt), default=-1) + 1
    return Example(rendered.ids[:end], rendered.learn[:end])


def _without_last_answer(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The turns up to the answer before the last; none when there is no such answer. A call of tools without its result
    is no answer to end with."""
    for place in range(len(messages) - 2, -1, -1):
        if messages[place].role == "assistant" and not messages[place].tool_calls:
            return tuple(messages[: place + 1])
    return ()
