"""New rows fitted to what the model does with the old ids ("token distillation", Dobler et al. 2025, arXiv:2505.20133).

The model reads texts in their old ids. Wherever a token of the new vocabulary ends, its hidden states after a quarter
of the blocks are kept, and the last ones:

    old ids    1 [5 8] [6 2] [9 4] 77 [3 1 3 6]      kept at 1, 8, 2, 4, 77 and 6
    new ids    1  900   901   902  77    903         the same blocks read these

The output head's rows begin without training. A text goes on with token 903 if it goes on with 3, its first old id, and
that one with the others; so the logit of 903 is that of 3, minus how much rarer 903 is in the texts than 3. A row has
no bias: it is made of the direction in which all last hidden states have the coordinate 1. Then they are trained on
the last hidden states that were kept, three times through (`tune.train_head`).

The embeddings' rows are trained, and nothing else, so that the blocks come to the same hidden states when they read
the new ids. They begin as the mean of the pieces and the last piece; to that comes a linear function of the pieces that
all new tokens share, so that tokens that the texts hardly hold are initialized too, and a part of their own. In a tied
model one row does both: its embedding is trained on condition that its logits stay near those of the head's row.

Most blocks run once for all this, without gradients. The last step is more expensive: some steps of the whole model on
text in new ids (`tune.tune_rows`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.models.new_rows.sample import Row
from hanlin.models.new_rows.tune import HeadTargets, TrainedRows, multiply_fast, train_head, tune_rows

BLOCKS_SHARE = 4
"""Hidden states are compared after a quarter of the blocks. After 8 of 30 the bits that a Chinese token's first byte
needs fell from 7.99 (the mean) to 7.14, after 4 to 7.54; with the old ids they are 6.21."""
READ_ROWS = 8
FIT_ROWS, EPOCHS = 4, 2
"""Rows of a step, and how often all are read. On 60,000 tokens 2 times in steps of 8 left 8.76 bits per character of
held-out web text, 4 times in steps of 4 8.61, and 6 times in steps of 2 8.64, although the error on the tokens that
were read fell from 0.74 to 0.55 and 0.49: 2 times through 120,000 tokens left 8.47."""
LEARNING_RATE, SHARED_LEARNING_RATE = 1e-2, 2e-3
WARMUP_STEPS = 5
LOGIT_WEIGHT = 0.1
"""Of the squared error of a tied row's logits, beside that of the hidden states as a share of their variance."""
EXTRA_LOGIT = 1.0
"""The first piece keeps the probability that new tokens have taken over, so theirs are raised by this: the bits of
a new token fell from 12.8 to 12.1."""
UNSEEN = 0.1
"""What a token that the texts do not hold counts as."""


@dataclass(frozen=True, slots=True)
class _Observed:
    """A row in new ids, without the begin token, and what the model thinks of it in old ids.

    Attributes:
        ids: [tokens].
        early: Hidden states after the first blocks, behind each token, [tokens, hidden].
        last: The last hidden states before each token, [tokens, hidden].
    """

    ids: Row
    early: torch.Tensor
    last: torch.Tensor


def distill_rows(
    model: LlamaForCausalLM,
    first_id: int,
    old_ids: Sequence[Sequence[int]],
    rows: Sequence[Row],
    stream: Sequence[Row],
    counts: torch.Tensor,
    begin_id: int,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, float]:
    """Fit the new rows of the embeddings and the output head; nothing else of the model changes.

    Args:
        model: A model that has rows for the new tokens already.
        first_id: Id of the first new token.
        old_ids: For each new token the ids that its text had before.
        rows: Texts in new ids that the model reads (`sample.select_rows`).
        stream: Texts in new ids that all rows are trained on in the end (`tune.cut_stream`).
        counts: How often each id occurs in all texts, [first_id + new].
        begin_id: The token that a text begins with.
        seed: Seed of the order of the rows.
        progress: Where progress is reported.

    Returns:
        `hidden_state_error`: mean squared error of the hidden states in the last epoch, in shares of their variance;
        `loss_before`, `loss`: see `tune.tune_rows`.
    """
    fit = _Fit(model, first_id, old_ids, begin_id)
    observed: list[_Observed] = []
    with torch.no_grad():
        for batch in _batches(rows, READ_ROWS):
            observed += fit.observe([rows[index] for index in batch])
            progress.update(len(observed), len(rows), tr("rows read"), force=len(observed) == len(rows))
        progress.close()
        head_rows = fit.head_rows(counts.to(model.device))
    head_rows = fit.train_head(head_rows, observed, seed, progress)
    figures = fit.train(observed, head_rows, seed, progress)
    return figures | tune_rows(model, first_id, old_ids, stream, fit.moment, seed=seed, progress=progress)


class _Fit:
    """The model, and the new rows that are fitted to it."""

    def __init__(self, model: LlamaForCausalLM, first_id: int, old_ids: Sequence[Sequence[int]], begin_id: int) -> None:
        self._model, self._first_id, self._old_ids, self._begin_id = model, first_id, old_ids, begin_id
        self._device = model.device
        self._tied = model.lm_head.weight is model.model.embed_tokens.weight
        self._old_head = model.lm_head.weight[:first_id]
        self._blocks = model.model.layers[: -(-model.config.num_hidden_layers // BLOCKS_SHARE)]
        hidden = model.config.hidden_size
        self._second_moment = torch.zeros((hidden, hidden), device=self._device)
        """Sum over h hᵀ of all last hidden states h."""
        self._sum = torch.zeros(hidden, device=self._device)
        self._positions = 0

    def observe(self, rows: Sequence[Row]) -> list[_Observed]:
        """Read rows in old ids."""
        pieces, ids = self._spell(rows)
        early: list[torch.Tensor] = []
        hook = self._blocks[-1].register_forward_hook(lambda module, args, output: early.append(_hidden(output)))
        try:
            with multiply_fast(self._model):
                last = self._model.model(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            hook.remove()
        observed = []
        for index, (row, spelled) in enumerate(zip(rows, pieces, strict=True)):
            ends = self._ends(spelled)
            states = last[index, ends[:-1]].float()
            self._second_moment += states.T @ states
            self._sum += states.sum(0)
            self._positions += len(states)
            observed.append(_Observed(row, early[0][index, ends[1:]], last[index, ends[:-1]]))
        return observed

    def _spell(self, rows: Sequence[Row]) -> tuple[list[list[Sequence[int]]], torch.Tensor]:
        """The old ids of each token, and of each row behind a begin token, padded."""
        pieces: list[list[Sequence[int]]] = [
            [
                self._old_ids[token_id - self._first_id] if token_id >= self._first_id else (token_id,)
                for token_id in row
            ]
            for row in rows
        ]
        return pieces, _pad(
            [[self._begin_id, *(old for piece in row for old in piece)] for row in pieces], self._device
        )

    def _ends(self, pieces: Sequence[Sequence[int]]) -> torch.Tensor:
        """Where the begin token and each token end, as spelled in old ids."""
        return torch.tensor([0, *map(len, pieces)]).cumsum(0).to(self._device)

    def _run_blocks(self, hidden: torch.Tensor) -> torch.Tensor:
        """The hidden states after the first blocks, for embeddings [rows, tokens, hidden]."""
        positions = torch.arange(hidden.shape[1], device=self._device)[None]
        rotary = self._model.model.rotary_emb(hidden, positions)
        with multiply_fast(self._model):
            for block in self._blocks:
                hidden = _hidden(block(hidden, attention_mask=None, position_ids=positions, position_embeddings=rotary))
        return hidden

    def head_rows(self, counts: torch.Tensor) -> torch.Tensor:
        """The new rows of the output head, float32 [new, hidden]."""
        first_pieces = torch.tensor([ids[0] for ids in self._old_ids], device=self._device)
        own = counts[self._first_id :].double().clamp(min=UNSEEN)
        total = counts[: self._first_id].double().index_add(0, first_pieces, own)
        log_share = (own / total[first_pieces]).log() + EXTRA_LOGIT
        moment = self.moment
        ridge = 1e-3 * moment.diagonal().mean() * torch.eye(len(moment), device=self._device)
        one = torch.linalg.solve(moment + ridge, self._sum / self._positions)
        return self._model.lm_head.weight[first_pieces].float() + log_share.float()[:, None] * one

    @property
    def moment(self) -> torch.Tensor:
        """The mean of h hᵀ over all last hidden states h."""
        return self._second_moment / self._positions

    def train_head(
        self, head_rows: torch.Tensor, observed: Sequence[_Observed], seed: int, progress: Progress
    ) -> torch.Tensor:
        """Train the output head's rows on the hidden states that the old ids gave."""
        ids = torch.tensor([token_id for row in observed for token_id in row.ids], device=self._device)
        targets = HeadTargets.of(torch.cat([row.last for row in observed]), ids, self._old_head)
        stop = self._first_id + len(self._old_ids)
        counts = torch.bincount(ids, minlength=stop)[self._first_id :]
        rows = TrainedRows(self._old_head, head_rows, self._old_ids, counts, self.moment)
        return train_head(rows, targets, self._first_id, seed, progress)

    def train(
        self, observed: Sequence[_Observed], head_rows: torch.Tensor, seed: int, progress: Progress
    ) -> dict[str, float]:
        """Train the embeddings' rows, and write all new rows into the model."""
        embeddings = _Rows(
            self._model.model.embed_tokens.weight[: self._first_id],
            self._old_ids,
            (head_rows, self.moment) if self._tied else None,
        )
        variance = torch.cat([row.early for row in observed]).float().var(0, correction=0).clamp(min=1e-12)
        groups: list[dict[str, Any]] = [
            {"params": [embeddings.own, embeddings.bias], "base_lr": LEARNING_RATE},
            {"params": [embeddings.shared], "base_lr": SHARED_LEARNING_RATE},
        ]
        optimizer = torch.optim.Adam([{**group, "lr": group["base_lr"]} for group in groups], betas=(0.9, 0.95))
        chance = random.Random(seed)
        steps = EPOCHS * math.ceil(len(observed) / FIT_ROWS)
        step = 0
        errors: list[float] = []
        for _ in range(EPOCHS):
            errors = []
            batches = list(_batches([row.ids for row in observed], FIT_ROWS))
            chance.shuffle(batches)
            for batch in batches:
                for group in optimizer.param_groups:
                    decay = 0.5 + 0.5 * math.cos(math.pi * step / steps)
                    group["lr"] = group["base_lr"] * min(1.0, (step + 1) / WARMUP_STEPS) * decay
                optimizer.zero_grad()
                error, logit_error = self._errors([observed[index] for index in batch], variance, embeddings)
                (error + LOGIT_WEIGHT * logit_error).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                step += 1
                errors.append(error.item())
                progress.update(step, steps, tr("steps"), force=step == steps, error=errors[-1])
        stop = self._first_id + len(self._old_ids)
        with torch.no_grad():
            self._model.model.embed_tokens.weight[self._first_id : stop] = embeddings(None).to(
                self._model.model.embed_tokens.weight.dtype
            )
            if not self._tied:
                self._model.lm_head.weight[self._first_id : stop] = head_rows.to(self._model.lm_head.weight.dtype)
        return {"hidden_state_error": round(sum(errors) / len(errors), 4)}

    def _errors(
        self, batch: Sequence[_Observed], variance: torch.Tensor, embeddings: _Rows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The squared errors of the hidden states, in shares of their variance, and of the logits of tied rows."""
        ids = _pad([[self._begin_id, *row.ids] for row in batch], self._device)
        is_new = ids >= self._first_id
        used, index = torch.unique(ids[is_new] - self._first_id, return_inverse=True)
        new_rows = embeddings(used)
        weight = self._model.model.embed_tokens.weight
        hidden = functional.embedding(ids.clamp(max=self._first_id - 1), weight)
        hidden = hidden.masked_scatter(is_new[..., None], new_rows.to(weight.dtype)[index])
        hidden = self._run_blocks(hidden)
        states = torch.cat([hidden[index, 1 : 1 + len(row.ids)] for index, row in enumerate(batch)])
        wanted = torch.cat([row.early for row in batch])
        return ((states.float() - wanted.float()).square() / variance).mean(), embeddings.logit_error(used, new_rows)


class _Rows(nn.Module):
    """The new rows of the embeddings: where they begin + a shared function of the pieces + a part of their own."""

    def __init__(
        self,
        weight: torch.Tensor,
        old_ids: Sequence[Sequence[int]],
        head: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """Begin.

        Args:
            weight: The old rows of the embeddings, [old, hidden].
            old_ids: For each new token the ids that its text had before.
            head: In a tied model the rows that the output head should have, [new, hidden], and the mean of h hᵀ over
                last hidden states h, [hidden, hidden].
        """
        super().__init__()
        first, last = (weight[[ids[end] for ids in old_ids]].float() for end in (0, -1))
        mean = torch.stack([weight[list(ids)].float().mean(0) for ids in old_ids])
        self._pieces = torch.cat([first, last, mean], 1).to(weight.dtype)
        self._start, self._head = (mean + last) / 2, head
        self._filter: torch.Tensor | None = None
        if head is not None:
            # A row is free along a direction in which the last hidden states vary less than along half of all, and
            # hardly along one in which they vary 100 times as much. Without this the first steps moved logits by 8.
            rows, moment = head
            median = torch.linalg.eigvalsh(moment).median().clamp(min=1e-6)
            self._filter = torch.linalg.inv(moment / median + torch.eye(len(moment), device=weight.device))
            self._start = rows + (self._start - rows) @ self._filter
        hidden = weight.shape[1]
        self.shared = nn.Parameter(torch.zeros((3 * hidden, hidden), device=weight.device))
        self.bias = nn.Parameter(torch.zeros(hidden, device=weight.device))
        self.own = nn.Parameter(torch.zeros_like(mean))

    def forward(self, indices: torch.Tensor | None) -> torch.Tensor:
        """The rows of the new tokens `indices`, None for all, float32 [indices, hidden]."""
        part = slice(None) if indices is None else indices
        shared = (self._pieces[part] @ self.shared.to(self._pieces.dtype)).float()
        change = self.own[part] + self.bias + shared
        return self._start[part] + (change if self._filter is None else change @ self._filter)

    def logit_error(self, indices: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The mean squared difference of the logits of `rows` from those of the head's rows; 0 if it is not tied."""
        if self._head is None or not len(indices):
            return rows.new_zeros(())
        difference = rows - self._head[0][indices]
        return ((difference @ self._head[1]) * difference).sum(1).mean()


def _batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """The indices of `size` rows each, of similar length, so that little is padded."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _pad(rows: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Rows of ids as a matrix; behind the end of a row any id will do, since no token looks ahead."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def _hidden(output: Any) -> torch.Tensor:
    """The hidden states that a block returns."""
    hidden: torch.Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return hidden
