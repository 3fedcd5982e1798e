"""Which ggml type each tensor of a GGUF file gets: what a name such as `Q4_K_M` stands for.

Owns the mixtures (`Q4_K_M` is Q4_K with its most sensitive tensors in Q6_K) and which types need an importance matrix.
Does not own the bytes (`quantize`). Source: llama.cpp, `src/llama-quant.cpp`, for the architecture `llama`, which is
Mixtral's as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGMLQuantizationType as Ggml
from gguf import LlamaFileType

from hanlin.inference.backends.llama_cpp import quants


@dataclass(frozen=True, slots=True)
class FileType:
    """What a name such as `Q4_K_M` stands for: the number in the file's metadata and the type of an ordinary tensor."""

    number: LlamaFileType
    usual: Ggml


def _mostly(name: str, usual: Ggml) -> FileType:
    return FileType(LlamaFileType[f"MOSTLY_{name}"], usual)


FILE_TYPES = {
    "F32": FileType(LlamaFileType.ALL_F32, Ggml.F32),
    "F16": _mostly("F16", Ggml.F16),
    "BF16": _mostly("BF16", Ggml.BF16),
    "Q8_0": _mostly("Q8_0", Ggml.Q8_0),
    "Q6_K": _mostly("Q6_K", Ggml.Q6_K),
    "Q5_K_M": _mostly("Q5_K_M", Ggml.Q5_K),
    "Q5_K_S": _mostly("Q5_K_S", Ggml.Q5_K),
    "Q5_1": _mostly("Q5_1", Ggml.Q5_1),
    "Q5_0": _mostly("Q5_0", Ggml.Q5_0),
    "Q4_K_M": _mostly("Q4_K_M", Ggml.Q4_K),
    "Q4_K_S": _mostly("Q4_K_S", Ggml.Q4_K),
    "Q4_1": _mostly("Q4_1", Ggml.Q4_1),
    "Q4_0": _mostly("Q4_0", Ggml.Q4_0),
    "IQ4_NL": _mostly("IQ4_NL", Ggml.IQ4_NL),
    "IQ4_XS": _mostly("IQ4_XS", Ggml.IQ4_XS),
    "Q3_K_L": _mostly("Q3_K_L", Ggml.Q3_K),
    "Q3_K_M": _mostly("Q3_K_M", Ggml.Q3_K),
    "Q3_K_S": _mostly("Q3_K_S", Ggml.Q3_K),
    "IQ3_M": _mostly("IQ3_M", Ggml.IQ3_S),
    "IQ3_S": _mostly("IQ3_S", Ggml.IQ3_S),
    "IQ3_XS": _mostly("IQ3_XS", Ggml.IQ3_S),
    "IQ3_XXS": _mostly("IQ3_XXS", Ggml.IQ3_XXS),
    "Q2_K": _mostly("Q2_K", Ggml.Q2_K),
    "Q2_K_S": _mostly("Q2_K_S", Ggml.Q2_K),
    "IQ2_M": _mostly("IQ2_M", Ggml.IQ2_S),
    "IQ2_S": _mostly("IQ2_S", Ggml.IQ2_XS),
    "IQ2_XS": _mostly("IQ2_XS", Ggml.IQ2_XS),
    "IQ2_XXS": _mostly("IQ2_XXS", Ggml.IQ2_XXS),
}

UNQUANTIZED = (Ggml.F32, Ggml.F16, Ggml.BF16)
_IQ2 = ("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS")
_IQ2_LARGER = ("IQ2_M", "IQ2_S")

_FALLBACK = {
    Ggml.Q2_K: Ggml.Q4_0,
    Ggml.Q3_K: Ggml.Q4_0,
    Ggml.Q4_K: Ggml.Q5_0,
    Ggml.Q5_K: Ggml.Q5_1,
    Ggml.Q6_K: Ggml.Q8_0,
    Ggml.IQ2_XXS: Ggml.IQ4_NL,
    Ggml.IQ2_XS: Ggml.IQ4_NL,
    Ggml.IQ2_S: Ggml.IQ4_NL,
    Ggml.IQ3_XXS: Ggml.IQ4_NL,
    Ggml.IQ3_S: Ggml.IQ4_NL,
    Ggml.IQ4_XS: Ggml.IQ4_NL,
}
"""What a type with blocks of 256 becomes where a row is no multiple of 256: one with blocks of 32, a bit larger."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What the choice of types looks at besides a tensor's name."""

    layers: int
    heads: int
    shared_heads: int
    tied: bool
    experts: int = 0

    @property
    def grouped(self) -> bool:
        """Whether four or more query heads share a value head, so that the value matrix is small: it gets more bits."""
        return self.heads // self.shared_heads >= 4

    @property
    def is_8x7b(self) -> bool:
        """Mixtral's eight experts, beside which every matrix of the attention is small."""
        return self.experts == 8

    @property
    def is_70b(self) -> bool:
        """Llama 2 and 3 70B, for which llama.cpp gives the value matrices more bits still."""
        return self.layers == 80 and self.heads != self.shared_heads


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor stands, and in what file: all that a mixture decides by."""

    file_type: str
    usual: Ggml
    shape: Shape
    layer: int
    calibrated: bool

    @property
    def in_first_eighth(self) -> bool:
        return self.layer < self.shape.layers // 8

    @property
    def in_last_eighth(self) -> bool:
        return self.layer >= 7 * self.shape.layers // 8

    @property
    def gets_more_bits(self) -> bool:
        """The layers that `_M` mixtures spend bits on: the first and last eighth, and each third between."""
        third = (self.layer - self.shape.layers // 8) % 3 == 2
        return self.in_first_eighth or self.in_last_eighth or third


def tensor_type(
    name: str, file_type: str, shape: Shape, columns: int, dimensions: int, *, calibrated: bool = False
) -> Ggml:
    """The type of one tensor: llama.cpp's `llama_tensor_get_type`, so that a file here has the types that
    `llama-quantize` gives it, with an importance matrix (`calibrated`) or without.

    `name` is the tensor's name in the file, such as `blk.3.attn_v.weight`. Where `columns`, the length of a row, does
    not fit the blocks of the chosen type, a near type with smaller blocks takes its place.
    """
    usual = FILE_TYPES[file_type].usual
    if dimensions < 2 or name.endswith(("_norm.weight", "ffn_gate_inp.weight")):
        return Ggml.F32
    if usual in UNQUANTIZED:
        return usual
    return fitting(_chosen(name, file_type, usual, shape, columns, calibrated), columns)


def fitting(kind: Ggml, columns: int) -> Ggml:
    """`kind`, or what stands in for it in rows of this length; F16 when nothing else fits."""
    for choice in (kind, _FALLBACK.get(kind, kind)):
        if columns % quants.block_size(choice) == 0:
            return choice
    return Ggml.F16


def needs_importance(name: str, kind: Ggml, file_type: str) -> bool:
    """Whether a tensor in this type would be garbage without an importance matrix (`tensor_requires_imatrix`)."""
    if name in ("token_embd.weight", "output.weight"):
        return False
    if kind == Ggml.Q2_K:
        return file_type == "Q2_K_S"
    return kind in (Ggml.IQ3_XXS, Ggml.IQ2_XXS, Ggml.IQ2_XS, Ggml.IQ2_S)


def _chosen(name: str, file_type: str, usual: Ggml, shape: Shape, columns: int, calibrated: bool) -> Ggml:
    if name == "output.weight" or (name == "token_embd.weight" and shape.tied):
        if columns % quants.block_size(usual) != 0:
            return Ggml.Q8_0
        if file_type in (*_IQ2, "IQ3_XXS"):
            return Ggml.Q5_K
        return usual if usual == Ggml.Q8_0 else Ggml.Q6_K
    if name == "token_embd.weight":
        lowest = {"IQ2_XXS": Ggml.Q2_K, "IQ2_XS": Ggml.Q2_K}
        return lowest.get(file_type, Ggml.IQ3_S if file_type in (*_IQ2_LARGER, "IQ3_XXS") else usual)
    _, layer, part = name.split(".")[:3]
    place = _Place(file_type, usual, shape, int(layer), calibrated)
    choose = (_BY_PART_OF_IQ2 if file_type in _IQ2 else _BY_PART).get(part.removesuffix("_exps"))
    return usual if choose is None else choose(place)


def _value_type(place: _Place) -> Ggml:
    if place.shape.is_8x7b:
        return Ggml.Q8_0
    kind, grouped = place.usual, place.shape.grouped
    match place.file_type:
        case "Q2_K":
            kind = Ggml.Q4_K if grouped else Ggml.Q3_K
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if grouped:
            kind = Ggml.Q4_K
        case "IQ3_XXS":
            kind = Ggml.Q4_K if grouped else (Ggml.IQ3_XXS if place.calibrated else Ggml.IQ3_S)
        case "IQ3_M":
            kind = Ggml.Q4_K
        case "Q3_K_M":
            kind = Ggml.Q5_K if place.layer < 2 else Ggml.Q4_K
        case "Q3_K_L":
            kind = Ggml.Q5_K
        case "IQ4_NL" | "IQ4_XS" if grouped:
            kind = Ggml.Q5_K
        case "Q4_K_M" | "Q5_K_M" if place.gets_more_bits:
            kind = Ggml.Q6_K
        case "Q4_K_S" if place.layer < 4:
            kind = Ggml.Q5_K
    return Ggml.Q5_K if place.shape.is_70b and kind in (Ggml.Q3_K, Ggml.Q4_K) else kind


def _key_type(place: _Place) -> Ggml:
    return Ggml.Q8_0 if place.shape.is_8x7b else _query_type(place)


def _query_type(place: _Place) -> Ggml:
    return {"IQ3_XS": Ggml.IQ3_XXS, "IQ3_XXS": Ggml.IQ2_S}.get(place.file_type, place.usual)


_SMALL_BESIDE_EXPERTS = (
    *("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"),
)


def _attention_output_type(place: _Place) -> Ggml:
    if place.shape.is_8x7b:
        return Ggml.Q5_K if place.file_type in _SMALL_BESIDE_EXPERTS else place.usual
    chosen = {
        "Q2_K": Ggml.Q3_K,
        "IQ3_XXS": Ggml.IQ3_S,
        "Q3_K_M": Ggml.Q4_K,
        "Q3_K_L": Ggml.Q5_K,
        "IQ3_M": Ggml.Q4_K,
    }
    return chosen.get(place.file_type, place.usual)


def _down_type(place: _Place) -> Ggml:
    first = place.in_first_eighth
    match place.file_type:
        case "Q2_K":
            return Ggml.Q3_K
        case "IQ3_XXS" if not place.calibrated:
            return Ggml.Q4_K if first else Ggml.Q3_K
        case "Q2_K_S" | "IQ3_M" if first:
            return Ggml.Q4_K
        case "IQ3_M" if place.shape.is_8x7b and place.gets_more_bits:
            return Ggml.Q4_K
        case "Q3_K_M":
            return Ggml.Q5_K if place.layer < place.shape.layers // 16 else Ggml.Q4_K
        case "Q3_K_L":
            return Ggml.Q5_K
        case "Q4_K_M" | "Q5_K_M" if place.gets_more_bits:
            return Ggml.Q6_K
        case "Q4_K_S" if first:
            return Ggml.Q5_K
        case "IQ4_NL" | "IQ4_XS" if first and not place.calibrated:
            return Ggml.Q5_K
        case "Q4_0" | "Q5_0" if first and place.calibrated:
            return Ggml.Q4_1 if place.file_type == "Q4_0" else Ggml.Q5_1
    return place.usual


def _gate_or_up_type(place: _Place) -> Ggml:
    between = not (place.in_first_eighth or place.in_last_eighth)
    return Ggml.IQ3_XXS if place.file_type == "IQ3_XS" and between else place.usual


def _better_iq2(place: _Place) -> Ggml:
    return Ggml.IQ3_S if place.file_type in _IQ2_LARGER else Ggml.Q2_K


def _value_type_of_iq2(place: _Place) -> Ggml:
    return Ggml.Q4_K if place.shape.grouped or place.shape.experts >= 4 else _better_iq2(place)


def _attention_output_type_of_iq2(place: _Place) -> Ggml:
    if place.shape.is_8x7b:
        return Ggml.Q5_K
    return Ggml.IQ3_S if place.file_type in _IQ2_LARGER else place.usual


_BY_PART = {
    "attn_v": _value_type,
    "attn_q": _query_type,
    "attn_k": _key_type,
    "attn_output": _attention_output_type,
    "ffn_down": _down_type,
    "ffn_gate": _gate_or_up_type,
    "ffn_up": _gate_or_up_type,
}
_BY_PART_OF_IQ2 = {
    "attn_v": _value_type_of_iq2,
    "attn_k": lambda place: Ggml.Q4_K if place.shape.is_8x7b else place.usual,
    "attn_output": _attention_output_type_of_iq2,
    "ffn_down": lambda place: _better_iq2(place) if place.in_first_eighth else place.usual,
}
