"""What a peer's trainer is asked at marks of processor time, for `bench/worth.py`: steps, tokens, held-out snippets."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback


class Budget(TrainerCallback):
    """Measures when a mark of processor time is reached, and stops the run at the last."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.marks = list(options["marks"])
        self.step_tokens = options["rows_per_step"] * options["max_seq_length"]
        self.snippets = json.loads(Path(options["snippets"]).read_text())
        self.started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.started = time.process_time()
        self.reach_marks(model, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.reach_marks(model, state, control)

    def reach_marks(self, model: Any, state: Any, control: Any) -> None:
        begun = time.process_time()
        if begun - self.started < self.marks[0]:
            return
        row = {"at": self.marks.pop(0), "processor_seconds": round(begun - self.started, 1)}
        row |= {"steps": state.global_step, "tokens": state.global_step * self.step_tokens}
        print("\n" + json.dumps({**row, "nats": self.measure(model)}), flush=True)
        control.should_training_stop = not self.marks
        self.started += time.process_time() - begun

    @torch.no_grad()
    def measure(self, model: Any) -> dict[str, list[float]]:
        """-log p of each snippet but for its first token."""
        model.eval()
        found: dict[str, list[float]] = {}
        for kind, snippets in self.snippets.items():
            found[kind] = []
            for ids in snippets:
                with torch.autocast("cpu", torch.bfloat16):
                    logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0]
                logprobs = logits.float().log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])
                found[kind].append(round(-float(logprobs.double().sum()), 3))
        model.train()
        return found
