"""What adapters do to each weight of their base, and the merged weights, tensor by tensor, without loading models.

Every tensor of an adapter file is used or refused by name. `hanlin.models.merge` writes the weights of a `MergePlan`
and compares the model with PEFT.
"""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.utils.other import get_pattern_key

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.adapters import misplaced_tensors_error
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.adapter import AdapterFiles
from hanlin.models.folder.checks import check_dtype, same_bytes
from hanlin.models.folder.layout import ADAPTER_CONFIG, DTYPE_NAMES, EMBEDDINGS, HEAD, ModelFiles, TensorEntry
from hanlin.models.folder.shapes import llama_shapes, separate_entries
from hanlin.models.patterns import check_patterns
from hanlin.models.safetensors import read_pieces, read_rows
from hanlin.models.save import is_finite, round_weight

_LOG = logging.getLogger(__name__)
_PREFIX = "base_model.model."
_LORA = re.compile(
    r"(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|B\.bias|magnitude_vector(\.weight)?|embedding_[AB])"
)
_STACKED = re.compile(
    r"(?P<block>model\.layers\.\d+\.)mlp\.experts(?P<inner>\.base_layer)?\.lora_(?P<side>[AB])\.weight"
)
"""The adapter of all experts of a block. PEFT puts one wrapper around the other, that of `down_proj` outside."""
_ROUTER = re.compile(r"(?P<block>model\.layers\.\d+\.)mlp\.gate\.lora_(?P<side>[AB])\.weight")
_ROWS = re.compile(r"(?P<module>.+?)(\.token_adapter)?\.trainable_tokens_delta")
_STACKS = {"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}
"""Parameters of the experts of a block, and the matrices of an expert in each, one below the other."""
_PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initializations that leave the base as it is on disk; PiSSA and its like subtract their first product from it, LoftQ
rounds it."""
PIECE_ENTRIES = 1 << 18
"""Entries of a piece: 1 MB in float32 stays in the processor's cache from reading to writing; with 8 MB each operation
takes two to four times as long."""
MEASURED_PIECES = 32
"""One of so many pieces is measured for `rounding_loss`: measuring takes as long as merging, and 3 % of a large model
are millions of numbers."""


@dataclass(frozen=True, slots=True)
class LoraPart:
    """The matrices of LoRA for one weight [out, in]: A [rank, in], B [out, rank], and the magnitudes [out] of DoRA.

    For embeddings [rows, width], A is [rank, rows] and B [width, rank]. For an expert of a stack, both matrices are
    those of all experts: A [experts · rank, in], B [rows of the stack, rank · experts].

    Attributes:
        stack: Index of the expert, number of experts, and the first row of this weight in the stack's B.
        module: Name by which the patterns of the configuration know the weight, if it is not its own.
    """

    a: TensorEntry | None = None
    b: TensorEntry | None = None
    magnitude: TensorEntry | None = None
    is_embedding: bool = False
    scaling: float = 1.0
    stack: tuple[int, int, int] | None = None
    module: str | None = None

    @property
    def rank(self) -> int:
        """The rank of A and B."""
        rows = self.a.shape[0] if self.a is not None and self.a.shape else 1
        return rows // (1 if self.stack is None else self.stack[1])

    def select(self, a: torch.Tensor, b: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A [rank, in] and B [rows, rank] of this weight, from the matrices of the file.

        Column i of expert e is column `i · experts + e` of a stack's B: for two experts of rank 2 the columns are those
        of expert 0, 1, 0, 1.
        """
        if self.stack is None:
            return a, b
        expert, experts, first_row = self.stack
        of_expert = b[first_row : first_row + rows].view(rows, -1, experts)[:, :, expert]
        return a.view(experts, -1, a.shape[1])[expert], of_expert.contiguous()


class AdapterTensors:
    """What an adapter changes.

    Args:
        files: The adapter.
        base: The base.

    Raises:
        UserError: A tensor of the adapter belongs to no weight of the base, has another shape, is not finite or is
            stored in a format that weights do not have.
    """

    def __init__(self, files: AdapterFiles, base: ModelFiles) -> None:
        self.files = files
        self.lora: dict[str, LoraPart] = {}
        self.whole: dict[str, TensorEntry] = {}
        self.rows: dict[str, tuple[torch.Tensor, TensorEntry]] = {}
        self.biases: dict[str, TensorEntry] = {}
        self.base_matrices: set[str] = set()
        self._tied = bool(base.config.get("tie_word_embeddings"))
        self._experts = int(base.config.get("num_local_experts") or 0)
        self._shapes = {HEAD: tuple(base.tensors[EMBEDDINGS].shape), **llama_shapes(base.config)}
        self._loaded = threading.local()
        config, where = files.config, files.folder / ADAPTER_CONFIG
        check_patterns(config, [name.removesuffix(".weight") for name in self._shapes], where)
        if config.get("init_lora_weights", True) not in _PLAIN_INITS:
            what = tr(
                "an adapter that was initialized by {init} belongs to a changed base", init=config["init_lora_weights"]
            )
            raise UserError(what, where, tr("convert it to a plain adapter where it was trained"))
        for key, entry in sorted(files.tensors.items()):
            check_dtype(key, entry)
        unused = [key for key, entry in sorted(files.tensors.items()) if not self._place(key, entry)]
        incomplete = [name for name, part in self.lora.items() if part.a is None or part.b is None]
        if unused or incomplete:
            raise misplaced_tensors_error(files, unused, incomplete, tr("was it trained on another base model?"))
        for name, part in self.lora.items():
            self.lora[name] = replace(part, scaling=_scaling(config, part.module or name.removesuffix(".weight"), part))
            self._check_lora(name, part)
        for name, entry in self.biases.items():
            self._check_bias(name, entry)

    def changes(self, name: str) -> bool:
        """Whether the adapter changes a weight."""
        return name in self.lora or name in self.whole or name in self.rows or name in self.biases

    def head_is_separate(self) -> bool:
        """Whether the output head of a tied base becomes a matrix of its own, different from the embeddings."""
        if HEAD not in self.whole and EMBEDDINGS in self.whole:
            return not self.files.config.get("ensure_weight_tying")
        if HEAD in self.whole and EMBEDDINGS in self.whole:
            head, embeddings = self.whole[HEAD], self.whole[EMBEDDINGS]
            if head != embeddings and not same_bytes(head, embeddings):
                return True
            return HEAD in self.lora or EMBEDDINGS in self.lora  # over the matrix that both share
        return HEAD in self.whole or HEAD in self.lora or HEAD in self.rows or EMBEDDINGS in self.lora

    def apply(self, name: str, weight: torch.Tensor, start: int) -> torch.Tensor:
        """Return rows of a weight as the adapter makes them; those that are given may be overwritten.

        LoRA: W + s B A, with s = alpha/rank, or alpha/√rank with rsLoRA (Hu et al. 2021, arXiv:2106.09685, section 4.1;
        Kalajdzievski 2023, arXiv:2312.03732). DoRA: m (W + s B A) / ‖W + s B A‖, with the norm of each row (Liu et al.
        2024, arXiv:2402.09353, equation 5).

        Args:
            name: Name of the weight.
            weight: Rows `start`, `start + 1`, ... of it, float32 [rows, columns] or [rows].
            start: Index of the first row.
        """
        stop = start + len(weight)
        if name in self.whole:
            weight = self._read(name, self.whole[name], start, stop)
        if name in self.biases:
            part = self.lora[_weight_of(name)]
            weight = weight + self._read(name, self.biases[name], start, stop) * part.scaling
        if name in self.lora:
            part = self.lora[name]
            a, b, magnitude = self._lora_matrices(name, part)
            if part.is_embedding:
                weight = weight + (a[:, start:stop].T @ b.T) * part.scaling
            else:
                weight = weight.addmm_(b[start:stop], a, alpha=part.scaling)
            if magnitude is not None:
                weight = weight * (magnitude[start:stop] / weight.norm(dim=1)).unsqueeze(1)
        if name in self.rows:
            ids, entry = self.rows[name]
            inside = (ids >= start) & (ids < stop)
            if bool(inside.any()):  # few have any: all 8,000 rows, read for each piece, are 260 GB
                first, last = (int(index) for index in inside.nonzero()[[0, -1], 0])
                values = self._read(name, entry, first, last + 1)[inside[first : last + 1]]
                weight = weight.index_copy(0, ids[inside] - start, values)
        return weight

    def _place(self, key: str, entry: TensorEntry) -> bool:
        """Note which weight a tensor of the file belongs to; False if there is none."""
        name = key.removeprefix(_PREFIX)
        if self._experts and (match := _STACKED.fullmatch(name)):
            return self._place_stack(match, entry)
        if self._experts and (match := _ROUTER.fullmatch(name)):
            weight = f"{match['block']}block_sparse_moe.gate.weight"
            return self._set_side(weight, match["side"], entry, module=f"{match['block']}mlp.gate.weight")
        if match := _LORA.fullmatch(name):
            weight, kind = f"{match['module']}.weight", match["part"].removesuffix(".weight")
            if weight not in self._shapes or len(self._shapes[weight]) != 2:
                return False
            part = self.lora.get(weight, LoraPart())
            if kind == "B.bias":
                self.biases[f"{match['module']}.bias"] = entry
                return True
            if kind == "magnitude_vector":
                part = replace(part, magnitude=entry)
            else:
                side = "a" if kind.endswith("A") else "b"
                part = replace(part, is_embedding=kind.startswith("embedding"), **{side: entry})  # type: ignore[arg-type]
            self.lora[weight] = part
            return True
        if match := _ROWS.fullmatch(name):
            weight = f"{match['module']}.weight"
            ids = _token_rows(self.files.config, match["module"])
            expected = (len(ids), *self._shapes.get(weight, ())[1:])
            if weight not in self._shapes or entry.shape != expected or max(ids, default=-1) >= self._shapes[weight][0]:
                return False
            self.rows[weight] = (torch.tensor(ids, dtype=torch.long), entry)
            return True
        is_base, name = ".base_layer." in name, name.replace(".base_layer.", ".")
        if name not in self._shapes:
            return False
        if entry.shape != self._shapes[name]:
            raise self._shape_error(key, entry, self._shapes[name])
        self.whole[name] = entry
        if is_base:
            self.base_matrices.add(name)
        if is_base and self._tied and name in (EMBEDDINGS, HEAD):  # PEFT writes it into the matrix that both share
            self.whole.setdefault(HEAD if name == EMBEDDINGS else EMBEDDINGS, entry)
        return True

    def _place_stack(self, match: re.Match[str], entry: TensorEntry) -> bool:
        """Note which experts' weights a stack of their adapters belongs to."""
        targets = self.files.config.get("target_parameters") or []
        has = {name: any(target.endswith(f"experts.{name}") for target in targets) for name in _STACKS}
        is_gate_up = has["gate_up_proj"] and (match["inner"] is not None or not has["down_proj"])
        if not any(has.values()) or (match["inner"] is not None and not all(has.values())):
            return False
        parameter = "gate_up_proj" if is_gate_up else "down_proj"
        fits = True
        for expert in range(self._experts):
            first_row = 0
            for matrix in _STACKS[parameter]:
                weight = f"{match['block']}block_sparse_moe.experts.{expert}.{matrix}.weight"
                module = f"{match['block']}mlp.experts.{parameter}"
                stack = (expert, self._experts, first_row)
                fits = self._set_side(weight, match["side"], entry, module=module, stack=stack) and fits
                first_row += self._shapes[weight][0] if fits else 0
        return fits

    def _set_side(self, weight: str, side: str, entry: TensorEntry, **changes: Any) -> bool:
        if weight not in self._shapes:
            return False
        side_entry: dict[str, Any] = {side.lower(): entry}
        self.lora[weight] = replace(self.lora.get(weight, LoraPart()), **side_entry, **changes)
        return True

    def _check_lora(self, name: str, part: LoraPart) -> None:
        if part.a is None or part.b is None:
            raise RuntimeError(name)
        out, columns = self._shapes[name]
        rank = part.a.shape[0] if part.a.shape else 0
        if part.stack is not None:
            _, experts, _ = part.stack
            rank, out = part.rank * experts, out * (2 if name.endswith((".w1.weight", ".w3.weight")) else 1)
        expected = [(rank, out), (columns, rank)] if part.is_embedding else [(rank, columns), (out, rank)]
        for entry, shape in zip((part.a, part.b), expected, strict=True):
            if entry.shape != shape:
                raise self._shape_error(name, entry, shape)
        if part.magnitude is not None and part.is_embedding:
            what = tr("DoRA over the embeddings is not supported")
            raise UserError(
                what, self.files.folder, tr("train the embeddings whole (modules_to_save) or with plain LoRA")
            )
        if part.magnitude is not None and math.prod(part.magnitude.shape) != out:
            raise self._shape_error(name, part.magnitude, (out,))

    def _check_bias(self, name: str, entry: TensorEntry) -> None:
        """Raise UserError for a bias of B (`lora_bias`) without B, of another size, or over a layer without biases."""
        if name not in self._shapes:
            what = tr(
                "the adapter adds biases (lora_bias), and {name} has none in the base model", name=_module_of(name)
            )
            raise UserError(what, self.files.folder, tr("train it again without lora_bias"))
        if _weight_of(name) not in self.lora or entry.shape != self._shapes[name]:
            raise self._shape_error(name, entry, self._shapes[name])

    def _shape_error(self, key: str, entry: TensorEntry, expected: tuple[int, ...]) -> UserError:
        what = tr(
            "the adapter does not fit this base model: a tensor for {name} has shape {shape} instead of {expected}",
            name=key,
            shape=list(entry.shape),
            expected=list(expected),
        )
        return UserError(what, self.files.folder, tr("was it trained on another base model?"))

    def _lora_matrices(self, name: str, part: LoraPart) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """A, B and the magnitudes in float32; those of the weight that a thread asked for last are kept."""
        if getattr(self._loaded, "name", None) != name:
            if part.a is None or part.b is None:
                raise RuntimeError(name)
            magnitude = None if part.magnitude is None else self._read(name, part.magnitude).view(-1)
            a, b = part.select(self._read(name, part.a), self._read(name, part.b), self._shapes[name][0])
            self._loaded.matrices = (a, b, magnitude)
            self._loaded.name = name
        matrices: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] = self._loaded.matrices
        return matrices

    def _read(self, name: str, entry: TensorEntry, start: int = 0, stop: int | None = None) -> torch.Tensor:
        tensor = read_rows(entry, start, stop).float()
        if not is_finite(tensor):
            what = tr("the adapter's part for {name} holds numbers that are not finite", name=name)
            raise UserError(what, entry.file, tr("copy or download it again"))
        return tensor


def check_together(base: ModelFiles, adapters: Sequence[AdapterTensors], factors: Sequence[float] | None) -> None:
    """Raise UserError for adapters that mean something only over the base itself, merged with others or by a factor.

    LoRA over tied embeddings leaves the output head as it was, but PEFT, which the result is compared with, merges into
    the matrix that both share. And a matrix of the base that is saved beside LoRA would undo what an earlier adapter
    made of it.
    """
    if len(adapters) == 1 and factors is None:
        return
    for index, adapter in enumerate(adapters):
        over = sorted({EMBEDDINGS, HEAD} & adapter.lora.keys()) if base.config.get("tie_word_embeddings") else []
        earlier = adapters[:index] if factors is None else ()
        over += sorted(name for name in adapter.base_matrices if any(other.changes(name) for other in earlier))
        if over:
            what = tr("an adapter over {name} can be merged only by itself here", name=_module_of(over[0]))
            raise UserError(what, adapter.files.folder, tr("merge it alone, then the others into the result"))


def grow_base(base: ModelFiles, files: AdapterFiles) -> ModelFiles:
    """The base with embeddings and output head of an adapter that saved both whole, if they have more rows than it has.

    Whoever extends the vocabulary and trains `modules_to_save: [embed_tokens, lm_head]` at once has a base on the disk
    without the new rows (Cui et al. 2023, arXiv:2304.08177, Chinese-LLaMA-Alpaca).

    Args:
        base: The base, dense.
        files: The adapter.

    Returns:
        A base whose weights lie in two folders; `base` itself if there is nothing to grow.
    """
    names = (EMBEDDINGS,) if base.config.get("tie_word_embeddings") else (EMBEDDINGS, HEAD)
    plain = {key.removeprefix(_PREFIX).replace(".base_layer.", "."): entry for key, entry in files.tensors.items()}
    saved = {name: plain[name] for name in names if name in plain}
    shapes = {entry.shape for entry in saved.values()}
    rows, *width = next(iter(shapes), ()) or (0,)
    is_grown = len(saved) == len(names) and len(shapes) == 1 and rows > base.vocabulary_rows
    if not is_grown or width != [int(base.config["hidden_size"])] or base.config.get("num_local_experts"):
        return base
    what = tr(
        "the adapter was trained with {count:,} rows of the vocabulary, its base has {rows:,}: embeddings and output "
        "head are the adapter's",
        count=rows,
        rows=base.vocabulary_rows,
    )
    _LOG.warning("%s: %s", files.folder, what)
    return ModelFiles(base.folder, {**base.config, "vocab_size": rows}, {**base.tensors, **saved})


class MergePlan:
    """The weights of a merged model, made piece by piece, and what rounding does to them.

    Args:
        base: The base.
        adapters: What the adapters change, in order.
        factors: A factor on the change of each, all measured from the base; None: one changes what another made.
        dtype: Dtype of the merged weights.
        keeps_dtypes: Whether a weight of the base keeps its own dtype instead: norms in float32 beside bfloat16.
    """

    def __init__(
        self,
        base: ModelFiles,
        adapters: Sequence[AdapterTensors],
        factors: Sequence[float] | None,
        dtype: torch.dtype,
        keeps_dtypes: bool = False,
    ) -> None:
        check_together(base, adapters, factors)
        self.base = base
        self.adapters = adapters
        self.factors = factors
        self.dtype, self._keeps_dtypes = dtype, keeps_dtypes
        self.tied = bool(base.config.get("tie_word_embeddings")) and not any(
            adapter.head_is_separate() for adapter in adapters
        )
        self.names = list(llama_shapes({**base.config, "tie_word_embeddings": self.tied}))
        self._entries = separate_entries(base)
        self.equals_base, self.is_changed = True, False
        self._squares: dict[str, tuple[float, float]] = {}

    @property
    def rounding_loss(self) -> float:
        """The norm of what rounding changed, relative to what the adapters changed, in one of `MEASURED_PIECES`."""
        change, error = (math.fsum(squares) for squares in zip(*self._squares.values(), strict=True))
        return math.sqrt(error / change) if change else 0.0

    def entry(self, name: str) -> TensorEntry:
        """Where the base has a weight; the output head of a tied base is its embedding matrix."""
        return self._entries.get(name) or self._entries[EMBEDDINGS]

    def dtype_of(self, name: str) -> torch.dtype:
        """The dtype of a merged weight. A matrix that an adapter brings along (`grow_base`) has that of the others."""
        entry = self.entry(name)
        is_kept = self._keeps_dtypes and entry.file.parent == self.base.folder
        return torch_dtype(DTYPE_NAMES[entry.dtype]) if is_kept else self.dtype

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a weight."""
        return self.entry(name).shape

    def pieces(self, name: str) -> Iterator[torch.Tensor]:
        """Make a weight, in pieces of whole rows; several threads may make one each.

        A piece lives in memory that the next one takes: with fresh memory for each, converting and multiplying takes
        two to three times as long.

        Raises:
            UserError: A number of an adapter or of the base is not finite, or becomes too large for the dtype.
        """
        entry, dtype = self.entry(name), self.dtype_of(name)
        columns = math.prod(entry.shape[1:])
        rows = max(1, PIECE_ENTRIES // max(1, columns)) if len(entry.shape) > 1 else entry.shape[0]
        changed = any(adapter.changes(name) for adapter in self.adapters)
        shape = (min(rows, entry.shape[0]) if changed else 0, *entry.shape[1:])
        work, rounded = torch.empty(shape, dtype=torch.float32), torch.empty(shape, dtype=dtype)
        change = error = 0.0
        for index, (start, piece) in enumerate(read_pieces(entry, rows)):
            if not changed:
                yield round_weight(piece, dtype, name, entry.file)
                continue
            exact = self.merge(name, work[: len(piece)].copy_(piece), start)
            result = rounded[: len(piece)].copy_(exact)
            self._compare(piece, exact, result)
            if index % MEASURED_PIECES == 0:
                change += float((exact - piece.float()).norm()) ** 2
                error += float((result.float() - exact).norm()) ** 2
            yield result if is_finite(result) else round_weight(exact, dtype, name, entry.file)
        self._squares[name] = (change, error)

    def merge(self, name: str, weight: torch.Tensor, start: int) -> torch.Tensor:
        """Return rows of a weight, float32, with all adapters merged; those that are given may be overwritten."""
        if self.factors is None:
            for adapter in self.adapters:
                weight = adapter.apply(name, weight, start) if adapter.changes(name) else weight
            return weight
        total = weight.clone()
        for adapter, factor in zip(self.adapters, self.factors, strict=True):
            if adapter.changes(name):
                total += (adapter.apply(name, weight.clone(), start) - weight) * factor
        return total

    def _compare(self, stored: torch.Tensor, exact: torch.Tensor, rounded: torch.Tensor) -> None:
        """Note whether the adapters change a number, before and after rounding, until one is known to change."""
        if not self.is_changed:
            self.is_changed = not torch.equal(exact, stored.float())
        if self.equals_base and not torch.equal(rounded, stored.to(rounded.dtype)):
            self.equals_base = False


def _module_of(name: str) -> str:
    return name.rpartition(".")[0]


def _weight_of(bias: str) -> str:
    return f"{_module_of(bias)}.weight"


def _scaling(config: Mapping[str, Any], module: str, part: LoraPart) -> float:
    """alpha/rank or alpha/√rank of a module; the rank is that of its matrices, the alpha may be one of a pattern."""
    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config.get("lora_alpha") or 8))
    return alpha / math.sqrt(part.rank) if config.get("use_rslora") else alpha / part.rank


def _token_rows(config: Mapping[str, Any], module: str) -> list[int]:
    """The ids of the rows that an adapter replaces in the embeddings or the output head."""
    value = config.get("trainable_token_indices") or []
    if isinstance(value, dict):
        return [int(row) for name, rows in value.items() if module.endswith(name) for row in rows]
    return [int(row) for row in value]
