"""New rows trained by the loss of the next token, of the output head alone or of the whole model.

What rows were set to is near good ones. Few steps bring them there if a row need not learn alone what all have in
common:

    row of a token = where it began + (its own part + a part of all + pieces · matrix of all) · whitening

`pieces` are the old rows of its first piece, its last one, and their mean, as coordinates of mean 0 and equal variance.
The whitening makes a change move logits equally along all directions of the last hidden states. Along a few of these
they vary thousands of times as much as along most, and an optimizer that moves each coordinate by the same step would
move logits by tens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.core.hardware.devices import multiplies_faster_in_bfloat16
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress

STEPS = 20
STEP_ROWS, ROW_TOKENS = 4, 256
VALIDATION_ROWS = 16
"""Rows that are not trained on, 4,096 tokens, which decide how far the trained ones are taken."""
HEAD_STEP_TOKENS, HEAD_EPOCHS = 1024, 3
FEATURES = 512
"""Coordinates of the pieces that the shared matrix reads."""
RARE = 5
"""A token that is trained on so often moves by 0.7 of a step of its own, one that does not occur only with all."""
WARMUP_STEPS = 10
LEAST_GRADIENT = 0.1
"""Added to the root mean square of the gradient that a step is divided by. Each row has a gradient in each step, that
of its softmax probability. Without this a row whose token does not occur would move as far as those of tokens that do,
always away from the mean hidden state."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of the parts of a row."""

    own: float
    shared: float
    bias: float


TUNE_RATES = Rates(own=3e-3, shared=1e-3, bias=1e-3)
HEAD_RATES = Rates(own=1e-2, shared=1e-2, bias=3e-3)


@dataclass(frozen=True, slots=True)
class HeadTargets:
    """Which tokens follow the last hidden states of a model, and what the old rows of its output head make of them.

    Attributes:
        states: [tokens, hidden].
        ids: The tokens that follow, new ids among them, [tokens].
        old_total: log of the sum of exp over the logits of all old tokens, float32 [tokens].
        old_logit: The logit of the token that follows, if it is an old one, float32 [tokens].
    """

    states: torch.Tensor
    ids: torch.Tensor
    old_total: torch.Tensor
    old_logit: torch.Tensor

    @classmethod
    def of(cls, states: torch.Tensor, ids: torch.Tensor, old_head: torch.Tensor) -> HeadTargets:
        """Compute the logits of the old rows `old_head` [old, hidden]."""
        totals, own = [], []
        with torch.no_grad():
            parts = zip(states.split(HEAD_STEP_TOKENS), ids.split(HEAD_STEP_TOKENS), strict=True)
            for part, part_ids in parts:
                logits = (part @ old_head.T).float()
                totals.append(logits.logsumexp(1))
                own.append(logits.gather(1, part_ids.clamp(max=len(old_head) - 1)[:, None])[:, 0])
        return cls(states, ids, torch.cat(totals), torch.cat(own))

    def select(self, index: torch.Tensor) -> HeadTargets:
        """Those at the positions `index`."""
        return HeadTargets(self.states[index], self.ids[index], self.old_total[index], self.old_logit[index])

    def loss_sum(self, new_rows: torch.Tensor, first_id: int) -> torch.Tensor:
        """The sum of -log p of the tokens, with the rows [new, hidden] of new tokens beside the old ones."""
        logits = (self.states @ new_rows.to(self.states.dtype).T).float()
        total = torch.logaddexp(self.old_total, logits.logsumexp(1))
        new = logits.gather(1, (self.ids - first_id).clamp(min=0)[:, None])[:, 0]
        return (total - torch.where(self.ids >= first_id, new, self.old_logit)).sum()


class TrainedRows(nn.Module):
    """The new rows of the embeddings or of the output head, as they are trained."""

    def __init__(
        self,
        weight: torch.Tensor,
        start: torch.Tensor,
        old_ids: Sequence[Sequence[int]],
        counts: torch.Tensor,
        moment: torch.Tensor | None,
    ) -> None:
        """Begin.

        Args:
            weight: The old rows, [old, hidden].
            start: The new rows as they begin, float32 [new, hidden].
            old_ids: For each new token the ids that its text had before.
            counts: How often each new token is trained on, [new].
            moment: The mean of h hᵀ over last hidden states h, [hidden, hidden]; None for rows without logits.
        """
        super().__init__()
        self._pieces = _piece_features(weight, old_ids)
        self._own_share = (counts / (counts + RARE)).sqrt().float()[:, None].to(weight.device)
        self._start, self._whitening = start, None if moment is None else _whitening(moment)
        hidden = weight.shape[1]
        self.shared = nn.Parameter(torch.zeros((self._pieces.shape[1], hidden), device=weight.device))
        self.bias = nn.Parameter(torch.zeros(hidden, device=weight.device))
        self.own = nn.Parameter(torch.zeros_like(start))

    def forward(self) -> torch.Tensor:
        """The rows, float32 [new, hidden]."""
        change = self.own * self._own_share + self.bias + self._pieces @ self.shared
        return self._start + (change if self._whitening is None else change @ self._whitening)

    def prior(self) -> torch.Tensor:
        """The penalty on moving rows away from where they begin."""
        return self.own.square().sum() + 0.1 * self.shared.square().sum()

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply the change of all rows by `factor`; 0 takes it back, also where training went to NaN."""
        for part in (self.own, self.shared, self.bias):
            part.mul_(factor) if factor else part.zero_()


@torch.no_grad()
def _piece_features(weight: torch.Tensor, old_ids: Sequence[Sequence[int]]) -> torch.Tensor:
    """The pieces of each new token as coordinates of mean 0 and about equal variance, float32 [new, features].

    The pieces of Chinese tokens are much alike. By the rows as they are, an optimizer that moves each coordinate of the
    shared matrix by the same step could move all new rows by 0.04 along one direction at once, three tenths of what the
    coordinates of a row differ by: 20 steps raised the bits per character from 9.0 to 10.8.
    """
    first, last = (weight[[ids[end] for ids in old_ids]].float() for end in (0, -1))
    mean = torch.stack([weight[list(ids)].float().mean(0) for ids in old_ids])
    pieces = torch.cat([first, last, mean], 1).cpu()
    pieces -= pieces.mean(0)
    pieces /= pieces.std(0, correction=0).clamp(min=1e-6)
    features = min(FEATURES, *pieces.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _, scales, directions = torch.pca_lowrank(pieces, features, center=False)
    variance = scales.square() / len(pieces)
    scaled = pieces @ directions / (variance + 0.1 * variance.median()).clamp(min=1e-6).sqrt()
    return (scaled / math.sqrt(features)).to(weight.device)


def _whitening(moment: torch.Tensor) -> torch.Tensor:
    values, directions = torch.linalg.eigh(moment.float())
    scale = (values.clamp(min=0) / values.median().clamp(min=1e-6) + 1).rsqrt()
    return (directions * scale) @ directions.T


def train_head(rows: TrainedRows, targets: HeadTargets, first_id: int, seed: int, progress: Progress) -> torch.Tensor:
    """Read all targets three times, and train rows of the output head on them; return these, float32 [new, hidden].

    It takes the last hidden states for what they are, so a step costs a product with the new rows alone. On 28,000
    tokens of a 135M model, held-out web text went from 8.16 to 8.01 bits per character, those of the model that was not
    grown are 7.91; once through them gave 8.05.
    """
    generator, count = torch.Generator().manual_seed(seed), len(targets.ids)
    orders = [torch.randperm(count, generator=generator).to(targets.ids.device) for _ in range(HEAD_EPOCHS)]
    batches = [batch for order in orders for batch in order.split(HEAD_STEP_TOKENS)]

    def loss_sum(step: int) -> tuple[torch.Tensor, int]:
        batch = batches[step]
        loss = targets.select(batch).loss_sum(rows(), first_id)
        return loss + len(batch) / count * rows.prior(), len(batch)

    _optimize([rows], loss_sum, len(batches), HEAD_RATES, progress)
    return rows().detach()


def multiply_fast(model: LlamaForCausalLM) -> AbstractContextManager[Any]:
    """Multiply weights in float32 in bfloat16 where that is faster; weights in another format stay as they are."""
    is_faster = model.dtype == torch.float32 and multiplies_faster_in_bfloat16(model.device)
    return torch.autocast(model.device.type, torch.bfloat16) if is_faster else nullcontext()


def cut_stream(texts: Sequence[Sequence[int]], begin_id: int, count: int) -> list[list[int]]:
    """Rows of 256 ids, texts one behind the other, each after `begin_id`; at most `count` rows."""
    rows: list[list[int]] = []
    row: list[int] = []
    for text in texts:
        row += [begin_id, *text]
        while len(row) >= ROW_TOKENS and len(rows) < count:
            rows.append(row[:ROW_TOKENS])
            row = row[ROW_TOKENS:]
    return rows if len(rows) == count or len(row) < 2 else [*rows, row[:ROW_TOKENS]]


def tune_rows(
    model: LlamaForCausalLM,
    first_id: int,
    old_ids: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    moment: torch.Tensor,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Train the new rows of the embeddings and the output head with the whole model, which does not change.

    Args:
        model: A model whose new rows are where they begin.
        first_id: Id of the first new token.
        old_ids: For each new token the ids that its text had before.
        rows: Texts in new ids (`cut_stream`).
        moment: The mean of h hᵀ over last hidden states h, [hidden, hidden].
        seed: Seed of the order of the rows.
        progress: Where progress is reported.

    Returns:
        `loss_before`, `loss`: the mean of -log p of a token in rows that are not trained on, before and after. If what
        was trained predicts them worse, half of the change is taken, or nothing of it.
    """
    model.requires_grad_(False)
    embeddings, head = model.model.embed_tokens.weight, model.lm_head.weight
    stop, tied = first_id + len(old_ids), head is embeddings
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    held_out = [rows[index] for index in order[: min(VALIDATION_ROWS, -(-len(order) // 8))]]
    order = order[len(held_out) :][: STEPS * STEP_ROWS]
    if not order:
        return {}
    trained_on = torch.tensor([token_id for index in order for token_id in rows[index]])
    counts = torch.bincount(trained_on, minlength=stop)[first_id:stop]
    read = TrainedRows(
        embeddings[:first_id], embeddings[first_id:stop].float(), old_ids, counts, moment if tied else None
    )
    written = read if tied else TrainedRows(head[:first_id], head[first_id:stop].float(), old_ids, counts, moment)
    trained = [read] if tied else [read, written]

    def batch_loss(batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
        width = max(map(len, batch))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in batch], device=model.device)
        lengths = torch.tensor([len(row) for row in batch], device=model.device)
        new = read()
        hidden = functional.embedding(ids, torch.cat([embeddings[:first_id], new.to(embeddings.dtype)]))
        new_head = new if tied else written()
        with multiply_fast(model):
            hidden = model.model(inputs_embeds=hidden, use_cache=False).last_hidden_state[:, :-1]
            is_target = torch.arange(1, width, device=model.device) < lengths[:, None]
            logits = hidden[is_target] @ torch.cat([head[:first_id], new_head.to(head.dtype)]).T
        loss = functional.cross_entropy(logits.float(), ids[:, 1:][is_target], reduction="sum")
        return loss, int(is_target.sum())

    def loss_sum(step: int) -> tuple[torch.Tensor, int]:
        return batch_loss([rows[index] for index in order[step * STEP_ROWS : (step + 1) * STEP_ROWS]])

    @torch.no_grad()
    def validation_loss() -> float:
        losses = [batch_loss(held_out[start : start + STEP_ROWS]) for start in range(0, len(held_out), STEP_ROWS)]
        return sum(loss.item() for loss, _ in losses) / sum(count for _, count in losses)

    before = validation_loss()
    _optimize(trained, loss_sum, math.ceil(len(order) / STEP_ROWS), TUNE_RATES, progress)
    after = validation_loss()
    for factor in (0.5, 0.0):
        if after < before:
            break
        for part in trained:
            part.scale(factor)
        after = validation_loss() if factor else before
    with torch.no_grad():
        for weight, part in ((embeddings, read), (head, written)):
            weight[first_id:stop] = part().to(weight.dtype)
    return {"loss_before": round(before, 4), "loss": round(after, 4)}


def _optimize(
    modules: Sequence[TrainedRows],
    loss_sum: Callable[[int], tuple[torch.Tensor, int]],
    steps: int,
    rates: Rates,
    progress: Progress,
) -> None:
    """Train rows for so many steps; `loss_sum` gives the loss of a step and the number of its tokens."""
    groups = [
        ([rows.own for rows in modules], rates.own),
        ([rows.shared for rows in modules], rates.shared),
        ([rows.bias for rows in modules], rates.bias),
    ]
    optimizer = torch.optim.Adam(
        [{"params": parts, "lr": rate} for parts, rate in groups], betas=(0.9, 0.98), eps=LEAST_GRADIENT
    )
    for step in range(steps):
        scale = min(1.0, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
            group["lr"] = rate * scale
        optimizer.zero_grad()
        loss, count = loss_sum(step)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress.update(step + 1, steps, tr("steps"), force=step + 1 == steps, loss=loss.item() / count)
    progress.close()
