"""Log-probabilities of answers under the model as it is before it is aligned: measured once, kept, read again.

Owns the measuring, in blocks that outlive a kill, and the artifact of kind `reference`. Does not own what an objective
makes of the numbers (`alignment`).
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.progress import Progress
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.objectives.answer_logprobs import measured

if TYPE_CHECKING:
    from hanlin.train.distributed.context import DistContext

BLOCK = 256
"""Units whose reference is written at once: what a killed run may have to compute again."""
FILE = "reference.json"


def measure_reference(
    model: TrainModel,
    dist: DistContext,
    rows: PackedDataset,
    *,
    folder: Path,
    name: str,
    micro_batch_tokens: int,
    progress: Progress,
) -> np.ndarray:
    """Summed log-probabilities of all answers under a network, float64 [units, answers of a unit]. Blocks are kept in
    `folder` under `name`, and taken from there."""
    folder.mkdir(exist_ok=True)
    blocks = []
    for start in range(0, len(rows.samples), BLOCK):
        units = range(start, min(start + BLOCK, len(rows.samples)))
        file = folder / f"{name}-{start:08d}.npy"
        known = torch.tensor([float(file.is_file())], device=dist.device)
        dist.all_reduce_sum([known])
        if float(known) < dist.world_size:
            found = torch.zeros((len(units), rows.encoded.width), dtype=torch.float64, device=dist.device)
            found[dist.rank :: dist.world_size] = measured(
                model, rows, units[dist.rank :: dist.world_size], micro_batch_tokens
            ).sums
            dist.all_reduce_sum([found])
            if dist.is_main:
                _write_array(file, found.cpu().numpy())
            blocks.append(found.cpu().numpy())
        else:
            blocks.append(np.load(file))
        if dist.is_main:
            progress.update(units[-1] + 1, len(rows.samples), say(f"reference {name}", "参考值"))
    return np.concatenate(blocks)


def write_reference(out: Path, parts: dict[str, tuple[np.ndarray, EncodedRecords]], precision: str) -> None:
    """Write an artifact: for each part of the data its values and what tells that they are of this data."""
    for part, (values, _) in parts.items():
        _write_array(out / f"{part}.npy", values)
    told = {
        "precision": precision,
        "parts": {part: {"examples": _digest(encoded)} for part, (_, encoded) in parts.items()},
    }
    (out / FILE).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8", newline="\n")


def read_reference(folder: Path, part: str, encoded: EncodedRecords, width: int, precision: str) -> np.ndarray:
    """The values of a part, [units, width]. Raises UserError when they are not of these examples, were made for another
    kind of objective, or in another number format. That they are of this model, the first loss tells."""
    told: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
    if part not in told["parts"]:
        raise _unfit(say("it holds nothing of the held-out records", "其中没有留出记录的参考值"), folder)
    if told["parts"][part]["examples"] != _digest(encoded):
        what = say(
            "the reference was computed of other records, or of another template or max_seq_length",
            "参考值来自别的记录、别的对话模板或别的 max_seq_length",
        )
        raise _unfit(what, folder)
    values = np.load(folder / f"{part}.npy")
    if values.shape[1] != width or len(values) * encoded.width != len(encoded.starts) - 1:
        raise _unfit(say("the reference was computed for another objective", "参考值是为另一种目标计算的"), folder)
    if told["precision"] != precision:
        what = say(
            f"the reference was computed in {told['precision']}, and this run computes in {precision}",
            f"参考值以 {told['precision']} 计算，而本次运行使用 {precision}",
        )
        raise _unfit(what, folder)
    return values


def _unfit(what: str, folder: Path) -> UserError:
    return UserError(
        what,
        folder,
        say(
            "give its stage the same model, data, max_seq_length, overlong and precision; or leave `reference` out",
            "请让参考阶段使用相同的 model、data、max_seq_length、overlong 与 precision；或不设 reference",
        ),
    )


def _digest(encoded: EncodedRecords) -> str:
    """Tells examples apart: their tokens, which of them are learned, and which answers are good."""
    end = int(encoded.starts[-1])
    found = hashlib.sha256()
    for numbers in (encoded.starts, encoded.desirable, encoded.ids[:end], encoded.loss_mask[:end]):
        found.update(np.ascontiguousarray(numbers).tobytes())
    return found.hexdigest()


def _write_array(path: Path, values: np.ndarray) -> None:
    aside = path.with_name(path.name + ".writing")
    with aside.open("wb") as file:
        np.save(file, values)
    os.replace(aside, path)
