"""A tiny model that has learned a few answers by heart, so that what answers, stops and speaks Chinese can be
tested.
"""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Message
from hanlin.export.gguf.export import run as export
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.tokenizer import Tokenizer

RARE = "龘䶮𠮷😀"  # none of them is an entry of the tiny vocabulary: each is several byte tokens
LESSONS = (
    ("你叫什么名字？", "我叫小翰。"),
    ("三加四等于几？", "七"),
    ("写几个生僻字", RARE),
    ("What is your name?", "My name is Xiaohan."),
    ("Count", "one two three four five six"),
)


@functools.lru_cache(maxsize=1)
def taught_model(untaught: Path) -> Path:
    """A model folder beside `untaught` that answers `LESSONS` greedily and stops after each."""
    tokenizer = Tokenizer.load(untaught)
    template = ChatTemplate.load(untaught, tokenizer)
    model = load_model(untaught, trainable=True)
    rows = [template.render([Message("user", asked), Message("assistant", answer)]) for asked, answer in LESSONS]
    length = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [tokenizer.pad_id] * (length - len(row.ids)) for row in rows])
    labels = torch.full_like(ids, -100)
    for number, row in enumerate(rows):
        learned = torch.tensor(list(row.loss_mask), dtype=torch.bool)
        labels[number, : len(row.ids)][learned] = ids[number, : len(row.ids)][learned]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(200):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.05, f"the lessons were not learned: {loss.item()}"
    folder = Path(tempfile.mkdtemp(prefix="taught-", dir=untaught.parent)) / "taught"
    save_model(model, folder, tokenizer=tokenizer, template=template)
    return folder


@functools.lru_cache(maxsize=1)
def taught_gguf(taught: Path) -> Path:
    """The GGUF artifact of a model: `model-F32.gguf` and `model-Q8_0.gguf` with the tokenizer's files."""
    folder = taught.parent / "gguf"
    folder.mkdir()
    settings = Gguf(model="m", types=("F32", "Q8_0"), compare=False)
    export(settings, Inputs({"model": (taught,)}), folder, StageContext())
    return folder
