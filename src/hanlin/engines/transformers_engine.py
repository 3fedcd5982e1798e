"""The engine over transformers: the model in full precision, many rows at a time.

Owns the generation loop and its batches. Does not own loading (`model.loading`) or choosing ids (`sampling`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from hanlin.engines import Finish, Likely, Reply, Request, Score, check_pair, check_text_ids, room_for_answer
from hanlin.engines.sampling import Chooser
from hanlin.engines.score_rows import ScoreRow, rows_of
from hanlin.errors import UserError
from hanlin.job import Progress
from hanlin.language import say
from hanlin.model.loading import load_model
from hanlin.model_files import check_base, check_model_folder, is_adapter

_IDS_A_BATCH = 16_384  # prompts together; what a layer holds for them at once
_FIRST_ROOM = 64
_LOGITS_BYTES = 256 << 20


class TransformersEngine:
    """A model folder, or an adapter folder with its base, in transformers.

    `device`: `cpu`, `cuda`, `cuda:1`, ...; None takes a GPU where there is one. `dtype`: `float32`, `bfloat16`,
    `float16`, or `auto` for the one stored. `batch`: how many answers are written at once at most. `context_length`:
    the most ids of a request, no more than the model was made for.

    Answers do not depend on their neighbours but for rounding: prompts are padded on the left, masked, and keep their
    own positions. In float32 the rounding changes a greedy answer only where two ids are equally likely to six digits.

    `adapters`: LoRA folders over the model at `path`, by the name that requests know them by. All lie in memory beside
    one base; requests with one adapter share batches, and between steps the model switches from one to another.
    """

    name = "transformers"

    def __init__(
        self,
        path: Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        batch: int = 128,
        context_length: int | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise UserError(say("there is no CUDA GPU here", "这里没有 CUDA GPU"), None, say("use cpu", "请用 cpu"))
        loaded: Any = load_model(path, dtype=dtype)
        self._adapters = Adapters(loaded, path, adapters) if adapters else None
        loaded.to(self._device)
        model = cast(PreTrainedModel, loaded.get_base_model() if hasattr(loaded, "get_base_model") else loaded)
        self._decoder: Any = model.get_decoder()
        self._head: Any = model.get_output_embeddings()
        self._layers = int(model.config.num_hidden_layers)
        self._vocabulary = int(self._decoder.get_input_embeddings().weight.shape[0])
        trained = int(model.config.max_position_embeddings)
        self.context_length = min(context_length or trained, trained)
        self._batch = batch
        self._turn = threading.Lock()  # threads take turns step by step: two at once would share the same cores

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Reply]:
        """See `Engine.generate`. Requests with prompts of similar length share a batch, whatever their sampling."""
        rooms = [room_for_answer(request, self.context_length, self._vocabulary) for request in requests]
        replies: dict[int, Reply] = {}
        written = 0
        for places in self._batches(requests):
            rows = _Rows(self, [requests[place] for place in places], [rooms[place] for place in places])
            while rows.open:
                for row, reply in rows.step():
                    replies[places[row]] = reply
                    written += len(reply.ids)
                if progress is not None:
                    progress.at(len(replies), len(requests), "answers", tokens=written)
        if progress is not None:
            progress.at(len(requests), len(requests), "answers", force=True, tokens=written)
        return [replies[place] for place in range(len(requests))]

    def stream(self, request: Request) -> TransformersStream:
        room = room_for_answer(request, self.context_length, self._vocabulary)
        return TransformersStream(_Rows(self, [request], [room]))

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Score]:
        """See `Engine.score`. Logits are computed only where a continuation needs them."""
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.context_length, self._vocabulary)
        scores: dict[int, Score] = {}
        rows = sorted(rows_of(pairs), key=lambda row: len(row.ids))
        start = 0
        while start < len(rows):
            stop = start + 1
            while stop < len(rows) and (stop + 1 - start) * len(rows[stop].ids) <= _IDS_A_BATCH:
                stop += 1
            scores.update(self._score_rows(rows[start:stop]))
            start = stop
        return [scores[place] for place in range(len(pairs))]

    def embed(self, texts: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """See `Engine.embed`. One text after another: padding would cost more than a batch gains on few texts."""
        rows = []
        for ids in texts:
            check_text_ids(ids, self.context_length, self._vocabulary)
        for ids in texts:
            with self._turn:
                hidden = self._forward(input_ids=torch.tensor([ids], device=self._device), use_cache=False)
            rows.append(torch.nn.functional.normalize(hidden[0].float().mean(dim=0), dim=0).cpu().numpy())
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def close(self) -> None:
        self._decoder = self._head = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _batches(self, requests: Sequence[Request]) -> Iterator[list[int]]:
        """Places of requests of one adapter each, the shortest prompts first."""
        order = sorted(
            range(len(requests)),
            key=lambda place: (requests[place].adapter or "", len(requests[place].prompt_ids), place),
        )
        batch: list[int] = []
        for place in order:
            length = len(requests[place].prompt_ids)
            full = len(batch) == self._batch or (len(batch) + 1) * length > _IDS_A_BATCH
            if batch and (full or requests[batch[0]].adapter != requests[place].adapter):
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    @torch.inference_mode()
    def _forward(self, adapter: str | None = None, **inputs: Any) -> torch.Tensor:
        """Hidden states [rows, ids, width]; the head that belongs to them is the adapter's until the next call."""
        if self._decoder is None:
            raise RuntimeError("the engine is closed")
        if self._adapters is not None:
            self._adapters.switch(adapter)
        return cast(torch.Tensor, self._decoder(**inputs).last_hidden_state)

    @torch.inference_mode()
    def _score_rows(self, rows: Sequence[ScoreRow]) -> dict[int, Score]:
        """Rows are padded on the right, where causal attention never looks."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
        steps = [
            (number, start + offset, wanted, place)
            for number, row in enumerate(rows)
            for place, start, continuation in row.scored
            for offset, wanted in enumerate(continuation)
        ]
        sums: dict[int, float] = {}
        greedy: dict[int, bool] = {}
        with self._turn:
            hidden = self._forward(input_ids=ids.to(self._device), use_cache=False)
            size = max(1, _LOGITS_BYTES // (4 * self._vocabulary))
            for first in range(0, len(steps), size):
                part = steps[first : first + size]
                where, at, wanted_ids = (torch.tensor(column) for column in list(zip(*part, strict=True))[:3])
                logits = self._head(hidden[where, at]).float()
                chosen = logits.gather(1, wanted_ids.to(self._device)[:, None])[:, 0]
                logprobs = (chosen - logits.logsumexp(dim=-1)).tolist()
                likeliest = logits.argmax(dim=-1).tolist()
                for (_, _, wanted, place), logprob, best in zip(part, logprobs, likeliest, strict=True):
                    sums[place] = sums.get(place, 0.0) + logprob
                    greedy[place] = greedy.get(place, True) and best == wanted
        return {place: Score(sums[place], greedy[place]) for place in sums}


class Adapters:
    """LoRA adapters over one base, one of them active at a time, or none. Raises UserError as `load_adapter` does."""

    def __init__(self, model: PreTrainedModel, base: Path, folders: Mapping[str, Path]) -> None:
        from hanlin.model.adapters import load_adapter

        if is_adapter(base):
            what = say(
                "adapters are switched over a model, and this is an adapter", "只能在模型上切换适配器，而这里是适配器"
            )
            raise UserError(what, base, say("name its base", "请指定其底座模型"))
        files = check_model_folder(base)
        # PEFT's names hold no dots, people's do
        self._inner = {name: f"adapter{number}" for number, name in enumerate(folders)}
        adapted: Any = model
        for name, folder in folders.items():
            check_base(folder, files)
            adapted = load_adapter(adapted, folder, name=self._inner[name])
        self._model = adapted
        self._active: str | None = next(iter(folders))
        self._model.set_adapter(self._inner[self._active])
        self.switch(None)

    def switch(self, name: str | None) -> None:
        """Make the adapter of that name act, or none. Raises UserError for an unknown one."""
        if name == self._active:
            return
        if name is not None and name not in self._inner:
            raise UserError(say(f"no adapter is called '{name}'", f"没有名为“{name}”的适配器"))
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            if self._active is None:
                self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._inner[name])
        self._active = name


class TransformersStream:
    """The ids of one answer; see `Stream`. Each is computed when it is asked for."""

    def __init__(self, rows: _Rows) -> None:
        self._rows: _Rows | None = rows
        self._chooser = rows.choosers[0]
        self._given = 0
        self.finish: Finish | None = None

    @property
    def likely(self) -> Sequence[Likely]:
        return self._chooser.likely

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        rows = self._rows
        while rows is not None and self._rows is not None:  # another thread may cancel between two steps
            written = rows.answers[0]
            if self._given < len(written):
                self._given += 1
                return written[self._given - 1]
            if rows.open:
                rows.step()
                continue
            self.finish = rows.finishes[0]
            self._rows = None
        raise StopIteration

    def cancel(self) -> None:
        if self._rows is not None:
            self._rows, self.finish = None, "cancelled"

    def close(self) -> None:
        self.cancel()


class _Rows:
    """Answers of one adapter written together. A row leaves soon after its end, so that the last ones are quick."""

    def __init__(self, engine: TransformersEngine, requests: Sequence[Request], rooms: Sequence[int]) -> None:
        self._engine = engine
        self._rooms = rooms
        self._adapter = requests[0].adapter
        self._stops = [frozenset(request.stop_ids) for request in requests]
        self.choosers = [Chooser(request.sampling, request.prompt_ids, request.constraint) for request in requests]
        self.answers: list[list[int]] = [[] for _ in requests]
        self.finishes: list[Finish | None] = [None for _ in requests]
        self._live = list(range(len(requests)))  # which answer each tensor row is
        longest = max(len(request.prompt_ids) for request in requests)
        self._input = torch.zeros(len(requests), longest, dtype=torch.long, device=engine._device)
        self._known = torch.zeros(len(requests), longest, dtype=torch.bool, device=engine._device)
        for row, request in enumerate(requests):
            length = len(request.prompt_ids)
            self._input[row, longest - length :] = torch.tensor(request.prompt_ids)
            self._known[row, longest - length :] = True
        self._padded = not bool(self._known.all())
        self._positions = (self._known.long().cumsum(dim=1) - 1).clamp(min=0)
        self._layers = [_GrowingLayer() for _ in range(engine._layers)]
        self._cache = Cache(layers=list(self._layers))

    @property
    def open(self) -> bool:
        return any(self.finishes[answer] is None for answer in self._live)

    def step(self) -> list[tuple[int, Reply]]:
        """One more id of every open answer; returns those that end with it."""
        with self._engine._turn:
            hidden = self._engine._forward(
                self._adapter,
                input_ids=self._input,
                position_ids=self._positions,
                attention_mask=self._mask(),
                past_key_values=self._cache,
                use_cache=True,
            )
            with torch.inference_mode():
                logits = self._engine._head(hidden[:, -1]).float()
            return self._take(logits)

    def _mask(self) -> torch.Tensor | None:
        """Which known positions each new one sees, [rows, 1, new, known]; None where that is all before it."""
        if not self._padded:
            return None
        new, known = self._input.shape[1], self._known.shape[1]
        seen = self._known[:, None, None, :]
        if new == 1:
            return seen
        place = torch.arange(known, device=seen.device)
        before = place[None, :] <= place[:, None]
        # padding sees itself: a row of attention without any weight would be no number, and spread
        return (seen & before) | torch.eye(known, dtype=torch.bool, device=seen.device)

    def _take(self, logits: torch.Tensor) -> list[tuple[int, Reply]]:
        likeliest = logits.argmax(dim=-1).tolist()
        chosen, ended = [], []
        for row, answer in enumerate(self._live):
            number = likeliest[row]
            chosen.append(number)
            if self.finishes[answer] is not None:
                continue
            if not self.choosers[answer].plain:
                number = chosen[row] = self.choosers[answer].choose(logits[row].cpu().numpy())
            if number in self._stops[answer]:
                self.finishes[answer] = "stop"
            else:
                self.answers[answer].append(number)
                if len(self.answers[answer]) == self._rooms[answer]:
                    self.finishes[answer] = "length"
            if self.finishes[answer] is not None:
                ended.append((answer, Reply(tuple(self.answers[answer]), self.finishes[answer])))  # type: ignore[arg-type]
        self._input = torch.tensor(chosen, device=logits.device)[:, None]
        self._positions = self._positions[:, -1:] + 1
        self._known = torch.nn.functional.pad(self._known, (0, 1), value=True)
        self._drop_ended()
        return ended

    def _drop_ended(self) -> None:
        """Copying the cache costs about what a step of the dropped rows does: wait for a quarter of them."""
        kept = [row for row, answer in enumerate(self._live) if self.finishes[answer] is None]
        if not kept or 4 * len(kept) > 3 * len(self._live):
            return
        rows = torch.tensor(kept, device=self._input.device)
        self._live = [self._live[row] for row in kept]
        self._input, self._positions = self._input[rows], self._positions[rows]
        self._known = self._known[rows]
        if self._padded and bool(self._known.all()):
            self._padded = False
        for layer in self._layers:
            layer.batch_select_indices(rows)


class _GrowingLayer(DynamicLayer):
    """Keys and values of a layer in buffers with room ahead: a step writes one column instead of copying all."""

    def __init__(self) -> None:
        super().__init__()
        self._length = 0
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, heads, new, width = key_states.shape
        if self._room is None or self._length + new > self._room[0].shape[2]:
            size = max(2 * self._length, self._length + new + _FIRST_ROOM)
            larger = (key_states.new_empty(rows, heads, size, width), value_states.new_empty(rows, heads, size, width))
            if self._room is not None:
                for full, small in zip(larger, self._room, strict=True):
                    full[:, :, : self._length] = small[:, :, : self._length]
            self._room = larger
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        end = self._length + new
        self._room[0][:, :, self._length : end] = key_states
        self._room[1][:, :, self._length : end] = value_states
        self._length = end
        self.keys, self.values = self._room[0][:, :, :end], self._room[1][:, :, :end]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self._length

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self._room is not None:
            self._room = (self._room[0][indices], self._room[1][indices])
