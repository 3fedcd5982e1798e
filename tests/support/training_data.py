"""Records, models and encoded data that the tests of training share, as functions and as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.train import Training
from hanlin.core.context import Inputs
from hanlin.core.progress import Progress
from hanlin.core.records import Conversation, Document, Message, Preference, UnpairedPreference, write_jsonl
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encoded import Encode, EncodedRecords, encode_records
from hanlin.train.load import load_train_model

CPU = torch.device("cpu")
SENTENCES = (
    "翰林院在城东，春天的时候院子里开满了花。",
    "你叫什么名字？我叫小翰，是一个中文助手。",
    "三加四等于七，十二减五等于七。",
    "What is your name? My name is Xiaohan, an assistant.",
    "The library stands in the east of the town.",
)


def document(number: int) -> Document:
    return Document(SENTENCES[number % 5] * (1 + number % 3), id=f"text-{number}")


def conversation(number: int) -> Conversation:
    turns = [Message("system", "用中文回答。")] if number % 3 == 0 else []
    for turn in range(1 + number % 2):
        turns += [Message("user", f"第{turn + number}问：{SENTENCES[number % 5]}")]
        turns += [Message("assistant", f"答{number}：{SENTENCES[(number + turn + 1) % 5]}")]
    return Conversation(tuple(turns), id=f"chat-{number}")


def preference(number: int) -> Preference:
    prompt = (Message("user", SENTENCES[number % 5]),)
    chosen, rejected = (Message("assistant", f"{word}{number}") for word in ("好的，是", "No, it is not "))
    return Preference(prompt, chosen, rejected, id=f"pair-{number}")


def unpaired_preference(number: int) -> UnpairedPreference:
    """Good answers and bad ones in turn; every prompt occurs more than once."""
    good = number % 2 == 0
    answer = Message("assistant", f"好的，是{number}" if good else f"No, it is not {number}")
    return UnpairedPreference((Message("user", SENTENCES[number // 2 % 5]),), answer, good, id=f"judged-{number}")


def many(make: Callable[[int], object], count: int) -> list:
    return [make(number) for number in range(count)]


@pytest.fixture
def inputs(tiny_model: Path, tmp_path: Path) -> Callable[..., Inputs]:
    """The inputs of a stage that trains the tiny model on records written for it."""

    def of(records: Sequence, model: Path = tiny_model) -> Inputs:
        folder = tmp_path / f"data-{type(records[0]).__name__}-{len(records)}"
        folder.mkdir(exist_ok=True)
        write_jsonl(folder / f"{records[0].kind}.jsonl", records)
        return Inputs({"model": (model,), "data": (folder,)})

    return of


@pytest.fixture
def encoded(tmp_path: Path) -> Callable[..., EncodedRecords]:
    """Records encoded into a folder of the test's own."""

    def of(records: Sequence, encode: Encode, width: int = 1) -> EncodedRecords:
        folder = tmp_path / f"rows-{len(list(tmp_path.iterdir()))}"
        return encode_records(
            records, encode, width=width, folder=folder, progress=Progress(quiet=True), total=len(records)
        )

    return of


@pytest.fixture
def make_model(tiny_model: Path) -> Callable[..., TrainModel]:
    """The tiny model in training; every call gives an equal one."""

    def of(settings: Training, precision: str = "float32") -> TrainModel:
        return load_train_model(tiny_model, settings, seed=7, device=CPU, precision=precision)  # type: ignore[arg-type]

    return of


@pytest.fixture
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)
