"""Which ggml type each tensor of a GGUF file gets: what a name such as `Q4_K_M` means.

`Q4_K_M` is Q4_K with its most sensitive tensors in Q6_K; some types need an importance matrix. Source: llama.cpp,
`src/llama-quant.cpp`, for the architecture `llama`, which is Mixtral's as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGMLQuantizationType as Ggml
from gguf import LlamaFileType

from hanlin.inference.backends.llama_cpp import quants


@dataclass(frozen=True, slots=True)
class FileType:
    """What a name such as `Q4_K_M` means: the number in the file's metadata and the type of an ordinary tensor."""

    ftype: LlamaFileType
    default_type: Ggml


def _mostly(name: str, default_type: Ggml) -> FileType:
    return FileType(LlamaFileType[f"MOSTLY_{name}"], default_type)


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
"""What a type with blocks of 256 becomes if a row is no multiple of 256: one with blocks of 32, a bit larger."""


@dataclass(frozen=True, slots=True)
class QuantShape:
    """The facts about a model that its tensors' types depend on."""

    layers: int
    heads: int
    kv_heads: int
    tied: bool
    experts: int = 0

    @property
    def uses_gqa(self) -> bool:
        """Whether four or more query heads share a value head (GQA): the value matrix is small and gets more bits."""
        return self.heads // self.kv_heads >= 4

    @property
    def is_8x7b(self) -> bool:
        """Mixtral's eight experts, beside which every matrix of the attention is small."""
        return self.experts == 8

    @property
    def is_70b(self) -> bool:
        """Llama 2 and 3 70B, for which llama.cpp gives the value matrices more bits still."""
        return self.layers == 80 and self.heads != self.kv_heads


@dataclass(frozen=True, slots=True)
class _TensorContext:
    """A tensor's layer, and the file that it is written to: all that its type depends on."""

    file_type: str
    default_type: Ggml
    shape: QuantShape
    layer: int
    has_imatrix: bool

    @property
    def in_first_eighth(self) -> bool:
        return self.layer < self.shape.layers // 8

    @property
    def in_last_eighth(self) -> bool:
        return self.layer >= 7 * self.shape.layers // 8

    @property
    def uses_more_bits(self) -> bool:
        """The layers that `_M` types spend bits on (llama.cpp's `use_more_bits`): the first and last eighth, and each
        third between.
        """
        third = (self.layer - self.shape.layers // 8) % 3 == 2
        return self.in_first_eighth or self.in_last_eighth or third


def tensor_type(
    name: str, file_type: str, shape: QuantShape, columns: int, dimensions: int, *, has_imatrix: bool = False
) -> Ggml:
    """The type of one tensor, by the rules of llama.cpp's `llama_tensor_get_type`, so that a file has the types that
    `llama-quantize` gives it.

    Args:
        name: The tensor's name in the file, such as `blk.3.attn_v.weight`.
        file_type: A name of `FILE_TYPES`.
        shape: The model's layers, heads and experts.
        columns: The length of a row. If it does not fit the blocks of the type, a near type with smaller blocks is
            used.
        dimensions: The tensor's dimensions.
        has_imatrix: Whether there is an importance matrix.
    """
    default_type = FILE_TYPES[file_type].default_type
    if dimensions < 2 or name.endswith(("_norm.weight", "ffn_gate_inp.weight")):
        return Ggml.F32
    if default_type in UNQUANTIZED:
        return default_type
    return fit_type(_choose_type(name, file_type, default_type, shape, columns, has_imatrix), columns)


def fit_type(kind: Ggml, columns: int) -> Ggml:
    """`kind` or its fallback for rows of this length; F16 if nothing else fits."""
    for choice in (kind, _FALLBACK.get(kind, kind)):
        if columns % quants.block_size(choice) == 0:
            return choice
    return Ggml.F16


def requires_imatrix(name: str, kind: Ggml, file_type: str) -> bool:
    """Whether a tensor in this type would be garbage without an importance matrix (llama.cpp's
    `tensor_requires_imatrix`).
    """
    if name in ("token_embd.weight", "output.weight"):
        return False
    if kind == Ggml.Q2_K:
        return file_type == "Q2_K_S"
    return kind in (Ggml.IQ3_XXS, Ggml.IQ2_XXS, Ggml.IQ2_XS, Ggml.IQ2_S)


def _choose_type(
    name: str, file_type: str, default_type: Ggml, shape: QuantShape, columns: int, has_imatrix: bool
) -> Ggml:
    if name == "output.weight" or (name == "token_embd.weight" and shape.tied):
        if columns % quants.block_size(default_type) != 0:
            return Ggml.Q8_0
        if file_type in (*_IQ2, "IQ3_XXS"):
            return Ggml.Q5_K
        return default_type if default_type == Ggml.Q8_0 else Ggml.Q6_K
    if name == "token_embd.weight":
        lowest = {"IQ2_XXS": Ggml.Q2_K, "IQ2_XS": Ggml.Q2_K}
        return lowest.get(file_type, Ggml.IQ3_S if file_type in (*_IQ2_LARGER, "IQ3_XXS") else default_type)
    _, layer, part = name.split(".")[:3]
    tensor = _TensorContext(file_type, default_type, shape, int(layer), has_imatrix)
    choose = (_BY_PART_OF_IQ2 if file_type in _IQ2 else _BY_PART).get(part.removesuffix("_exps"))
    return default_type if choose is None else choose(tensor)


def _value_type(tensor: _TensorContext) -> Ggml:
    if tensor.shape.is_8x7b:
        return Ggml.Q8_0
    kind, uses_gqa = tensor.default_type, tensor.shape.uses_gqa
    match tensor.file_type:
        case "Q2_K":
            kind = Ggml.Q4_K if uses_gqa else Ggml.Q3_K
        case "Q2_K_S" | "IQ3_XS" | "IQ3_S" if uses_gqa:
            kind = Ggml.Q4_K
        case "IQ3_XXS":
            kind = Ggml.Q4_K if uses_gqa else (Ggml.IQ3_XXS if tensor.has_imatrix else Ggml.IQ3_S)
        case "IQ3_M":
            kind = Ggml.Q4_K
        case "Q3_K_M":
            kind = Ggml.Q5_K if tensor.layer < 2 else Ggml.Q4_K
        case "Q3_K_L":
            kind = Ggml.Q5_K
        case "IQ4_NL" | "IQ4_XS" if uses_gqa:
            kind = Ggml.Q5_K
        case "Q4_K_M" | "Q5_K_M" if tensor.uses_more_bits:
            kind = Ggml.Q6_K
        case "Q4_K_S" if tensor.layer < 4:
            kind = Ggml.Q5_K
    return Ggml.Q5_K if tensor.shape.is_70b and kind in (Ggml.Q3_K, Ggml.Q4_K) else kind


def _key_type(tensor: _TensorContext) -> Ggml:
    return Ggml.Q8_0 if tensor.shape.is_8x7b else _query_type(tensor)


def _query_type(tensor: _TensorContext) -> Ggml:
    return {"IQ3_XS": Ggml.IQ3_XXS, "IQ3_XXS": Ggml.IQ2_S}.get(tensor.file_type, tensor.default_type)


_SMALL_BESIDE_EXPERTS = (
    *("Q2_K", "IQ3_XS", "IQ3_XXS", "Q3_K_S", "Q3_K_M", "IQ4_NL", "Q4_K_S", "Q4_K_M", "IQ3_S", "IQ3_M", "IQ4_XS"),
)


def _attention_output_type(tensor: _TensorContext) -> Ggml:
    if tensor.shape.is_8x7b:
        return Ggml.Q5_K if tensor.file_type in _SMALL_BESIDE_EXPERTS else tensor.default_type
    chosen = {
        "Q2_K": Ggml.Q3_K,
        "IQ3_XXS": Ggml.IQ3_S,
        "Q3_K_M": Ggml.Q4_K,
        "Q3_K_L": Ggml.Q5_K,
        "IQ3_M": Ggml.Q4_K,
    }
    return chosen.get(tensor.file_type, tensor.default_type)


def _down_type(tensor: _TensorContext) -> Ggml:
    first = tensor.in_first_eighth
    match tensor.file_type:
        case "Q2_K":
            return Ggml.Q3_K
        case "IQ3_XXS" if not tensor.has_imatrix:
            return Ggml.Q4_K if first else Ggml.Q3_K
        case "Q2_K_S" | "IQ3_M" if first:
            return Ggml.Q4_K
        case "IQ3_M" if tensor.shape.is_8x7b and tensor.uses_more_bits:
            return Ggml.Q4_K
        case "Q3_K_M":
            return Ggml.Q5_K if tensor.layer < tensor.shape.layers // 16 else Ggml.Q4_K
        case "Q3_K_L":
            return Ggml.Q5_K
        case "Q4_K_M" | "Q5_K_M" if tensor.uses_more_bits:
            return Ggml.Q6_K
        case "Q4_K_S" if first:
            return Ggml.Q5_K
        case "IQ4_NL" | "IQ4_XS" if first and not tensor.has_imatrix:
            return Ggml.Q5_K
        case "Q4_0" | "Q5_0" if first and tensor.has_imatrix:
            return Ggml.Q4_1 if tensor.file_type == "Q4_0" else Ggml.Q5_1
    return tensor.default_type


def _gate_or_up_type(tensor: _TensorContext) -> Ggml:
    between = not (tensor.in_first_eighth or tensor.in_last_eighth)
    return Ggml.IQ3_XXS if tensor.file_type == "IQ3_XS" and between else tensor.default_type


def _better_iq2(tensor: _TensorContext) -> Ggml:
    return Ggml.IQ3_S if tensor.file_type in _IQ2_LARGER else Ggml.Q2_K


def _value_type_of_iq2(tensor: _TensorContext) -> Ggml:
    return Ggml.Q4_K if tensor.shape.uses_gqa or tensor.shape.experts >= 4 else _better_iq2(tensor)


def _attention_output_type_of_iq2(tensor: _TensorContext) -> Ggml:
    if tensor.shape.is_8x7b:
        return Ggml.Q5_K
    return Ggml.IQ3_S if tensor.file_type in _IQ2_LARGER else tensor.default_type


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
    "attn_k": lambda tensor: Ggml.Q4_K if tensor.shape.is_8x7b else tensor.default_type,
    "attn_output": _attention_output_type_of_iq2,
    "ffn_down": lambda tensor: _better_iq2(tensor) if tensor.in_first_eighth else tensor.default_type,
}
