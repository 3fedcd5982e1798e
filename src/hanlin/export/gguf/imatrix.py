"""The stage `imatrix`: the inputs of a model's matrices while it reads your own data, summed into an importance matrix.

The sums are those of llama.cpp's `llama-imatrix`: of squares, by input column, over every position; of experts, over
the positions that each of them computes. The file formats are in `imatrix_file`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanlin.config.settings.export import Imatrix
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import refuse_repeated
from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic
from hanlin.core.hardware.devices import best_device, to_float64
from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.export.calibration import load_calibration_rows
from hanlin.export.gguf.imatrix_file import ImportanceMatrix, InputSums, write_imatrix
from hanlin.models.dtypes import exact_dtype
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.layouts.gguf import EXPERT_NAMES, LAYER_NAMES
from hanlin.models.load import load_model
from hanlin.tokenizer.tokenizer import Tokenizer

_SAVED_EVERY = 64  # rows
_EXPERTS = "mlp.experts"
_ROUTER = "mlp.gate"
_SAME_INPUT = {
    "self_attn.q_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attn.o_proj": ("self_attn.o_proj",),
    "mlp.gate_proj": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj": ("mlp.down_proj",),
    _ROUTER: (_ROUTER,),
}
"""The matrices of a layer by the one whose input they share."""
_EXPERT_MATRICES = {"in": ("w1", "w3"), "down": ("w2",)}
"""The matrices of an expert by what they are given: the hidden states, or what its gate lets through."""


def run(settings: Imatrix, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Read rows of the data through the model and write `imatrix.gguf`, or `imatrix.dat` in the old format.

    Conversations are rendered by the model's chat template; each record begins a row of at most `window` ids, a longer
    one several. Sums are saved now and then, so that a killed run goes on. Raises UserError when there is nothing to
    read, and when conversations are read and the model has no template.
    """
    folder = inputs.path("model")
    refuse_adapter(folder)
    files = check_model_folder(folder, experts=True)
    tokenizer = Tokenizer.load(folder)
    window = min(settings.window, int(files.config["max_position_embeddings"]))
    refuse_repeated(inputs.paths("data"), tr("name it once"))
    rows = list(load_calibration_rows(inputs.paths("data"), tokenizer, window, settings.tokens, context.seed))
    datasets = tuple(Path(name).name for name in settings.data)
    imatrix = collect_imatrix(
        folder, rows, window, datasets, saved=context.scratch_folder(out) / "sums.npz", progress=context.progress
    )
    for name, used in imatrix.used.items():
        if not np.isfinite(used.in_sum2).all():
            what = tr("the inputs of '{name}' are NaN or infinite", name=name)
            raise UserError(what, folder, tr("the training diverged: use an earlier model"))
    write_imatrix(out / f"imatrix.{settings.format}", imatrix)
    return {
        "tokens": sum(map(len, rows)),
        "rows": len(rows),
        "entries": len(imatrix.used),
        "chunks": imatrix.chunks,
    }


def collect_imatrix(
    folder: Path,
    rows: Sequence[Sequence[int]],
    chunk_size: int,
    datasets: tuple[str, ...] = (),
    *,
    saved: Path | None = None,
    progress: Progress | None = None,
) -> ImportanceMatrix:
    """The importance matrix of a model folder over `rows` of ids, each read alone from its beginning.

    Args:
        folder: The model.
        rows: Token ids.
        chunk_size: What llama.cpp calls a chunk, in tokens; it is written to the file.
        datasets: Names of the data, written to the file.
        saved: A file that the sums are saved to now and then, and resumed from.
        progress: Where progress is reported.
    """
    files = check_model_folder(folder, experts=True)
    sums = _Sums(len(rows), int(files.config.get("num_local_experts") or 0))
    if saved is not None:
        sums.read(saved)
    progress = progress or Progress(quiet=True)
    model = load_model(folder, dtype=exact_dtype(files))
    model.to(best_device())  # type: ignore[arg-type]
    total, read = sum(map(len, rows)), sum(map(len, rows[: sums.rows]))
    with _input_hooks(model, sums.add):
        for row in rows[sums.rows :]:
            _read(model, row)
            sums.rows += 1
            read += len(row)
            if saved is not None and sums.rows % _SAVED_EVERY == 0:
                sums.write(saved)
            progress.update(read, total, tr("tokens"))
    progress.close()
    return sums.imatrix(chunk_size, datasets)


def _read(model: Any, row: Sequence[int]) -> None:
    with torch.inference_mode():  # the body alone: what the head is given is not measured, as in llama.cpp
        model.get_decoder()(torch.tensor([list(row)], device=model.device), use_cache=False)


@dataclass(slots=True)
class _Sums:
    """Sums by module, in float64, and how many rows they are of; each expert has its own (`0.mlp.experts.in.3`)."""

    expected: int
    experts: int = 0
    rows: int = 0
    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, inputs: torch.Tensor) -> None:
        """Count `inputs` [..., columns] of a matrix in."""
        flat = to_float64(inputs.detach().reshape(-1, inputs.shape[-1]))
        squares, values = flat.square().sum(0), flat.sum(0)
        if name in self.squares:
            squares, values = squares + self.squares[name], values + self.values[name]
        self.squares[name], self.values[name] = squares, values
        self.counts[name] = self.counts.get(name, 0) + len(flat)

    def imatrix(self, chunk_size: int, datasets: tuple[str, ...]) -> ImportanceMatrix:
        used = {}
        for name, squares in self.squares.items():
            layer, _, part = name.partition(".")
            both = (squares.float().cpu().numpy(), self.values[name].float().cpu().numpy())
            for sharing in _SAME_INPUT.get(part, ()):
                used[f"blk.{layer}.{LAYER_NAMES[sharing]}.weight"] = InputSums(both[0], self.counts[name], both[1])
        for stem in sorted({name.rpartition(".")[0] for name in self.squares if f".{_EXPERTS}." in name}):
            layer, _, part = stem.partition(f".{_EXPERTS}.")
            for matrix in _EXPERT_MATRICES[part]:
                used[f"blk.{layer}.{EXPERT_NAMES[matrix]}.weight"] = self._stack(stem)
        most = max(self.counts.values(), default=0)
        return ImportanceMatrix(used, datasets, (most + chunk_size // 2) // chunk_size, chunk_size)

    def _stack(self, stem: str) -> InputSums:
        """The sums of all experts of a layer, one after the other; zeros for one that was never chosen."""
        counts = tuple(self.counts.get(f"{stem}.{expert}", 0) for expert in range(self.experts))
        some = next(sums for name, sums in self.squares.items() if name.startswith(f"{stem}."))
        squares, values = (
            torch.cat([sums.get(f"{stem}.{expert}", torch.zeros_like(some)) for expert in range(self.experts)])
            for sums in (self.squares, self.values)
        )
        return InputSums(squares.float().cpu().numpy(), max(counts), values.float().cpu().numpy(), counts)

    def write(self, file: Path) -> None:
        names = list(self.squares)
        arrays = {f"squares/{name}": self.squares[name].cpu().numpy() for name in names}
        arrays |= {f"values/{name}": self.values[name].cpu().numpy() for name in names}
        arrays |= {f"count/{name}": np.array(self.counts[name]) for name in names}
        with open_atomic(file, "wb") as target:
            np.savez(target, allow_pickle=False, rows=np.array([self.rows, self.expected]), **arrays)

    def read(self, file: Path) -> None:
        """Go on from what an earlier try saved; a file that a crash of the machine left half there counts as none."""
        try:
            with file.open("rb") as opened, np.load(opened, allow_pickle=False) as saved:
                rows, expected = (int(count) for count in saved["rows"])
                if expected != self.expected:
                    return
                device = to_float64(torch.zeros(1, device=best_device())).device
                for key in saved.files:
                    kind, _, name = key.partition("/")
                    if kind == "count":
                        self.counts[name] = int(saved[key])
                    elif name:
                        part = self.squares if kind == "squares" else self.values
                        part[name] = torch.from_numpy(saved[key]).to(device)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self.squares, self.values, self.counts = {}, {}, {}
            return
        self.rows = rows


@contextmanager
def _input_hooks(model: Any, on_input: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Call `on_input("<layer>.<module>", inputs)` for each forward pass of a linear layer until the exit, and
    `on_input("<layer>.mlp.experts.<in or down>.<expert>", inputs)` for each expert that computes a position.
    """
    handles = []
    for layer, block in enumerate(model.get_decoder().layers):
        modules = dict(block.named_modules())
        if _EXPERTS in modules:

            def expert_hook(experts: Any, inputs: tuple[torch.Tensor, ...], name: str = f"{layer}.{_EXPERTS}") -> None:
                for part, expert, given in _expert_inputs(experts, *inputs[:2]):
                    on_input(f"{name}.{part}.{expert}", given)

            handles.append(modules[_EXPERTS].register_forward_pre_hook(expert_hook))
        for part in (part for part in _SAME_INPUT if part in modules):

            def hook(_: object, inputs: tuple[torch.Tensor, ...], name: str = f"{layer}.{part}") -> None:
                on_input(name, inputs[0])

            handles.append(block.get_submodule(part).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _expert_inputs(
    experts: Any, hidden_states: torch.Tensor, chosen: torch.Tensor
) -> Iterator[tuple[str, int, torch.Tensor]]:
    """What the matrices of each expert are given, computed from its weights again.

    Args:
        experts: transformers' module, with `gate_up_proj` [experts, 2 · intermediate, hidden].
        hidden_states: [positions, hidden].
        chosen: The experts of each position [positions, experts per token].

    Yields:
        `in` or `down`, the expert, and its inputs [its positions, columns].
    """
    for expert in chosen.unique().tolist():
        given = hidden_states[(chosen == expert).any(dim=-1)]
        gate, up = torch.nn.functional.linear(given, experts.gate_up_proj[expert]).chunk(2, dim=-1)
        yield "in", expert, given
        yield "down", expert, experts.act_fn(gate) * up
