"""The engine over transformers: the model in full precision, many answers at a time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hanlin.core.errors import UserError
from hanlin.core.hardware.devices import read_device
from hanlin.core.i18n import join_list, tr
from hanlin.inference.backends.transformers.kv_cache import TransformersDecoder
from hanlin.inference.backends.transformers.precision import gains_by_bfloat16, multiply_in_bfloat16
from hanlin.inference.backends.transformers.scoring import score_pairs
from hanlin.inference.protocol import GenerationRequest, OnScore, PromptScore, PromptScoreRequest, Score
from hanlin.inference.request_checks import check_pair, check_text_ids
from hanlin.inference.scheduler import Scheduler
from hanlin.inference.scheduler_engine import SchedulerEngine
from hanlin.inference.tasks import GenerationTask, TokenSink
from hanlin.models.folder.adapter import check_adapter_folder, check_base, find_base_tensors
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import is_adapter
from hanlin.models.load import load_model


class TransformersEngine(SchedulerEngine):
    """A model folder, or an adapter folder with its base, run by transformers.

    Answers depend on the other answers in a batch only by rounding: each has a slot and positions of its own and
    attends to nothing else. In float32 rounding changes a greedy answer only if two tokens are equally likely to six
    digits.

    Args:
        path: The folder.
        device: `cpu`, `cuda`, `cuda:1`, `mps`, ...; None takes an accelerator if there is one.
        dtype: `float32`, `bfloat16`, `float16`, or `auto` for the stored one.
        batch: Maximum number of answers generated at once; fewer if their KV cache would exceed `cache_bytes`.
        cache_bytes: Maximum size of the KV cache.
        context_length: Maximum tokens of a request, at most those of the model.
        adapters: LoRA folders over the model at `path`, by the name that requests use. All are in memory beside one
            base; in each step the answers of one adapter share a call of the model.
        precision: `bfloat16`: multiply weights in float32 in bfloat16 (see `precision`); `fastest`: if the processor is
            faster by it; `auto` and `float32`: as they are.
    """

    name = "transformers"

    def __init__(
        self,
        path: Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        batch: int = 128,
        cache_bytes: int = 4 << 30,
        context_length: int | None = None,
        adapters: Mapping[str, Path] | None = None,
        precision: str = "auto",
    ) -> None:
        self._device = read_device(device)
        loaded: Any = load_model(path, dtype=dtype)
        self._adapters = Adapters(loaded, path, adapters) if adapters else None
        loaded.to(self._device)
        model = cast(PreTrainedModel, loaded.get_base_model() if hasattr(loaded, "get_base_model") else loaded)
        self.precision = str(model.dtype).removeprefix("torch.")
        if precision == "bfloat16" or (precision == "fastest" and gains_by_bfloat16(model, self._device)):
            self.precision = "bfloat16"
            multiply_in_bfloat16(model)
        self._decoder = TransformersDecoder(model, self._device, self._adapters)
        self.vocabulary = self._decoder.vocabulary_size
        self.context_length = min(context_length or self._decoder.trained_context, self._decoder.trained_context)
        self._scheduler = Scheduler(
            self._decoder,
            name="transformers",
            parallel=batch,
            cache_bytes=cache_bytes,
            bytes_per_token=self._decoder.cache_bytes_per_token,
        )
        # at the latest when the interpreter ends: a thread inside torch must not outlive it
        self._closing = weakref.finalize(self, self._scheduler.close)

    def tasks(self, requests: Sequence[GenerationRequest], sinks: Sequence[TokenSink]) -> list[GenerationTask]:
        if self._adapters is not None:
            for request in requests:
                self._adapters.check(request.adapter)
        return super().tasks(requests, sinks)

    def score(
        self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], on_score: OnScore | None = None
    ) -> list[Score]:
        """See `Engine.score`. What pairs share is computed once, logits only where a continuation needs them."""
        for prefix, continuation in pairs:
            check_pair(prefix, continuation, self.max_scored_length, self.vocabulary)
        return score_pairs(self._decoder, pairs, on_score)

    def score_prompts(self, requests: Sequence[PromptScoreRequest]) -> list[PromptScore]:
        if self._adapters is not None:
            for request in requests:
                self._adapters.check(request.adapter)
        return super().score_prompts(requests)

    def embed(self, texts: Sequence[Sequence[int]], adapter: str | None = None) -> NDArray[np.float32]:
        """See `Engine.embed`. One text at a time: padding would cost more than a batch gains on few texts."""
        if self._adapters is not None:
            self._adapters.check(adapter)
        rows = []
        for ids in texts:
            check_text_ids(ids, self.context_length, self.vocabulary)
        for ids in texts:
            with self._decoder.lock:
                inputs = torch.tensor([ids], device=self._device)
                hidden = self._decoder.hidden(adapter, input_ids=inputs, use_cache=False)
            rows.append(torch.nn.functional.normalize(hidden[0].float().mean(dim=0), dim=0).cpu().numpy())
        return np.stack(rows) if rows else np.empty((0, 0), np.float32)

    def close(self) -> None:
        self._closing()


class Adapters:
    """LoRA adapters over one base, at most one of them active. Raises UserError as `load_adapter` does."""

    def __init__(self, model: PreTrainedModel, base: Path, folders: Mapping[str, Path]) -> None:
        from hanlin.models.adapters import load_adapter

        if is_adapter(base):
            what = tr("adapters are switched on a full model, and this is an adapter")
            raise UserError(what, base, tr("name its base"))
        files = check_model_folder(base, experts=True)
        # PEFT's names hold no dots, people's do
        self._peft_names = {name: f"adapter{row_index}" for row_index, name in enumerate(folders)}
        adapted: Any = model
        for name, folder in folders.items():
            check_base(folder, files)
            replaced = find_base_tensors(check_adapter_folder(folder))
            if replaced:
                what = tr("the adapter replaces weights of its base ({names})", names=join_list(replaced[:3]))
                raise UserError(what, folder, tr("merge it first, with a `merge` stage"))
            adapted = load_adapter(adapted, folder, name=self._peft_names[name])
        self._model = adapted
        self._active: str | None = next(iter(folders))
        self._model.set_adapter(self._peft_names[self._active])
        self.switch(None)

    def check(self, name: str | None) -> None:
        """Raise UserError if there is no adapter of this name."""
        if name is not None and name not in self._peft_names:
            raise UserError(tr("no adapter is called '{name}'", name=name))

    def switch(self, name: str | None) -> None:
        """Activate the adapter of this name, or none. Raises UserError for an unknown name."""
        if name == self._active:
            return
        self.check(name)
        if name is None:
            self._model.base_model.disable_adapter_layers()
        else:
            if self._active is None:
                self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(self._peft_names[name])
        self._active = name
