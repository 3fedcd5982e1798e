"""Log-probabilities of answers under the model before preference training: computed once, kept, read again.

They are computed in blocks that survive a kill, and are the artifact of kind `reference_logprobs`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic, parse_json, write_json
from hanlin.core.hardware.devices import to_float64
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.train.compute.model import TrainModel
from hanlin.train.dataset.encoded import EncodedRecords
from hanlin.train.dataset.packed import PackedDataset
from hanlin.train.objectives.answer_logprobs import compute_dataset_logprobs

if TYPE_CHECKING:
    from hanlin.train.distributed.context import DistContext

BLOCK_SAMPLES = 256
"""Samples whose log-probabilities are written at once: what a killed run may have to compute again."""
INDEX_FILE = "reference.json"


def compute_reference_logprobs(
    model: TrainModel,
    dist: DistContext,
    dataset: PackedDataset,
    *,
    folder: Path,
    name: str,
    micro_batch_tokens: int,
    progress: Progress,
) -> np.ndarray:
    """Compute the summed log-probabilities of all answers.

    Args:
        model: The model before training.
        dist: The processes.
        dataset: The samples.
        folder: Where blocks are kept, and taken from if they are there.
        name: The beginning of their file names.
        micro_batch_tokens: The most tokens of a micro-batch.
        progress: Shows how far it is.

    Returns:
        float64 [samples, answers of a sample].
    """
    folder.mkdir(exist_ok=True)
    blocks = []
    for start in range(0, len(dataset.samples), BLOCK_SAMPLES):
        indices = range(start, min(start + BLOCK_SAMPLES, len(dataset.samples)))
        file = folder / f"{name}-{start:08d}.npy"
        exists = torch.tensor([float(file.is_file())], device=dist.device)
        dist.all_reduce_sum([exists])
        if float(exists) < dist.world_size:
            logprobs = to_float64(torch.zeros((len(indices), dataset.encoded.width), device=dist.device))
            logprobs[dist.rank :: dist.world_size] = compute_dataset_logprobs(
                model, dataset, indices[dist.rank :: dist.world_size], micro_batch_tokens
            ).sums
            dist.all_reduce_sum([logprobs])
            if dist.is_main:
                _write_array(file, logprobs.cpu().numpy())
            blocks.append(logprobs.cpu().numpy())
        else:
            blocks.append(np.load(file))
        if dist.is_main:
            progress.update(indices[-1] + 1, len(dataset.samples), tr("reference {name}", name=name))
    return np.concatenate(blocks)


def write_reference_logprobs(out: Path, splits: dict[str, tuple[np.ndarray, EncodedRecords]], precision: str) -> None:
    """Write the artifact: the values of each split, and digests of the examples that they belong to.

    Args:
        out: The stage's folder.
        splits: For each split its values [samples, width] and its examples.
        precision: The precision that they were computed in.
    """
    for split, (values, _) in splits.items():
        _write_array(out / f"{split}.npy", values)
    digests = {split: {"examples": _digest(encoded)} for split, (_, encoded) in splits.items()}
    write_json(out / INDEX_FILE, {"precision": precision, "splits": digests})


def read_reference_logprobs(
    folder: Path, split: str, encoded: EncodedRecords, width: int, precision: str
) -> np.ndarray:
    """Read the values of a split; that they are of this model is checked by the first loss.

    Args:
        folder: The artifact.
        split: `train` or `validation`.
        encoded: The examples of the split.
        width: Answers of a sample.
        precision: The precision of the run.

    Returns:
        float64 [samples, width].

    Raises:
        UserError: The values are not of these examples, or were computed for another objective or in another
            precision.
    """
    index: dict[str, Any] = parse_json((folder / INDEX_FILE).read_text(encoding="utf-8"))
    if split not in index["splits"]:
        raise _mismatch_error(tr("it does not cover the validation split"), folder)
    if index["splits"][split]["examples"] != _digest(encoded):
        message = tr("the reference was computed from other records, or with another template or max_seq_length")
        raise _mismatch_error(message, folder)
    values = np.load(folder / f"{split}.npy")
    if values.shape[1] != width or len(values) * encoded.width != len(encoded.starts) - 1:
        raise _mismatch_error(tr("the reference was computed for another objective"), folder)
    stored_precision = index["precision"]
    if stored_precision != precision:
        message = tr(
            "the reference was computed in {stored_precision}, and this run computes in {precision}",
            stored_precision=stored_precision,
            precision=precision,
        )
        raise _mismatch_error(message, folder)
    return values


def _mismatch_error(message: str, folder: Path) -> UserError:
    return UserError(
        message,
        folder,
        tr("give its stage the same model, data, max_seq_length, overlong and precision; or leave `reference` out"),
    )


def _digest(encoded: EncodedRecords) -> str:
    """A digest of examples: their tokens, loss masks and labels."""
    end = int(encoded.starts[-1])
    digest = hashlib.sha256()
    for array in (encoded.starts, encoded.desirable, encoded.ids[:end], encoded.loss_mask[:end]):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write_array(path: Path, values: np.ndarray) -> None:
    with open_atomic(path, "wb") as file:
        np.save(file, values)
