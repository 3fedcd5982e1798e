"""Writing a GGUF file: header, metadata, tensors."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Ggml
from numpy.typing import NDArray

from hanlin.config.settings.export import Gguf
from hanlin.core.context import StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space
from hanlin.core.i18n import tr
from hanlin.export.gguf.quant_types import FILE_TYPES, UNQUANTIZED
from hanlin.export.gguf.quantize import Quantizer, tensor_bytes
from hanlin.export.gguf.source import GgufSource, count_names
from hanlin.export.gguf.tensors import ComputedRows, StoredRows, rope_parameters, yarn_attention_factor
from hanlin.export.gguf.vocab import add_special_ids
from hanlin.models.folder.config import read_number
from hanlin.tokenizer.generation_config import GREEDY, read_sampling_params

_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT


_MAX_FLOAT16 = 65504.0


def write_files(types: Sequence[str], settings: Gguf, source: GgufSource, out: Path, context: StageContext) -> None:
    """Write `model-<TYPE>.gguf` for each type that is not there yet, without verifying it."""
    missing_types = [name for name in types if not gguf_path(out, name).is_file()]
    total = sum(sum(source.tensor_sizes(name)) for name in missing_types)
    check_free_space(out, total)
    bytes_written = 0
    quantizer = Quantizer()
    try:
        for name in missing_types:
            with catch_full_disk(out):
                # Written in the scratch folder, so that a killed run leaves no half file among the finished ones.
                tmp_path = context.scratch_folder(out) / gguf_path(out, name).name
                write_header(tmp_path, source, name, settings)
                for size in write_tensors(tmp_path, source, name, quantizer):
                    bytes_written += size
                    context.progress.update(bytes_written, total, tr("bytes"))
                os.replace(tmp_path, gguf_path(out, name))
    finally:
        quantizer.close()
        context.progress.close()


def count_fallback_tensors(source: GgufSource, file_type: str) -> dict[str, int]:
    """How many tensors have rows that are no multiple of the type's blocks, by the fallback type that they get."""
    default_type = FILE_TYPES[file_type].default_type
    block = gguf.GGML_QUANT_SIZES[default_type][0]
    pairs = zip(source.tensors, source.tensor_types(file_type), strict=True)
    return count_names(kind.name for tensor, kind in pairs if len(tensor.shape) > 1 and tensor.shape[-1] % block)


def gguf_path(out: Path, file_type: str) -> Path:
    """The file of a quantization type (`q4_k_m`, `f16`) in the folder of an artifact."""
    return out / f"model-{file_type}.gguf"


def write_header(path: Path, source: GgufSource, file_type: str, settings: Gguf) -> None:
    """Write all of a file but its tensors' bytes: metadata, tokenizer, and the names, shapes and types of tensors.

    The keys are those that llama.cpp's `convert_hf_to_gguf.py` writes for `llama`, and then its quantizer. For Mixtral
    they are `llama` too.
    """
    writer = _Writer(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    config = source.files.config
    writer.add_type("model")
    writer.add_name(settings.name)
    writer.add_size_label(_size_label(source))
    if settings.license:
        writer.add_license(settings.license)
    writer.add_block_count(source.shape.layers)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(source.shape.heads)
    writer.add_head_count_kv(source.shape.kv_heads)
    _add_rope(writer, rope_parameters(config))
    writer.add_layer_norm_rms_eps(float(read_number(config, "rms_norm_eps")))
    if source.experts:
        writer.add_expert_count(source.experts)
        writer.add_expert_used_count(int(read_number(config, "num_experts_per_tok")))
    head_size = int(config.get("head_dim") or config["hidden_size"] // source.shape.heads)
    if config.get("head_dim"):
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    writer.add_vocab_size(source.files.vocabulary_rows)
    writer.add_rope_dimension_count(head_size)
    writer.add_file_type(FILE_TYPES[file_type].ftype)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    source.vocabulary.add_to(writer)
    add_sampling(writer, read_sampling_params(source.files.folder))
    add_special_ids(writer, source.tokenizer, source.stop_ids, source.answer_end)
    if source.chat_template:
        writer.add_chat_template(source.chat_template)
    if source.imatrix is not None and FILE_TYPES[file_type].default_type not in UNQUANTIZED:
        for key, value in source.imatrix.metadata(Path(settings.importance or "").name).items():
            if isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_string(key, value)
    for tensor, kind in zip(source.tensors, source.tensor_types(file_type), strict=True):
        size = tensor_bytes(kind, tensor.shape)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


def add_sampling(writer: gguf.GGUFWriter, params: Mapping[str, Any]) -> None:
    """Write the sampling defaults of a model that has some; llama.cpp draws by them where nobody says otherwise."""
    if params == GREEDY:
        return
    for name, value in params.items():
        if name == "top_k":
            writer.add_sampling_top_k(int(value))
            continue
        add = {"temperature": writer.add_sampling_temp, "top_p": writer.add_sampling_top_p}
        add |= {"min_p": writer.add_sampling_min_p, "repetition_penalty": writer.add_sampling_penalty_repeat}
        add[name](float(value))


class _Writer(gguf.GGUFWriter):
    """The package's writer, which spends seconds on a vocabulary: it packs item by item."""

    def _pack_val(self, val: Any, vtype: Any, add_vtype: bool, sub_type: Any = None) -> bytes:
        if vtype != gguf.GGUFValueType.ARRAY or sub_type is not None or not isinstance(val, list):
            return super()._pack_val(val, vtype, add_vtype, sub_type)
        kinds = {type(item) for item in val}
        if kinds == {str}:
            texts = [text.encode() for text in val]
            packed = b"".join([part for text in texts for part in (len(text).to_bytes(8, "little"), text)])
        elif kinds in ({float}, {int}):
            packed = np.array(val, "<f4" if kinds == {float} else "<i4").tobytes()
        else:
            return super()._pack_val(val, vtype, add_vtype, sub_type)
        item = gguf.GGUFValueType.get_type(val[0])
        head = struct.pack("<I", vtype) if add_vtype else b""
        return head + struct.pack("<IQ", item, len(val)) + packed


def _size_label(source: GgufSource) -> str:
    """`8B`, or `8x7B` of experts, as llama.cpp's converter counts them (`gguf.size_label`)."""
    expert_weights = sum(tensor.weights for tensor in source.tensors if "_exps." in tensor.name)
    shared_weights = source.weights - expert_weights
    weights_per_expert = expert_weights // source.experts if source.experts else 0
    return str(gguf.size_label(source.weights, shared_weights, weights_per_expert, source.experts))


def _add_rope(writer: gguf.GGUFWriter, rope: Mapping[str, Any]) -> None:
    """Llama 3.1's scaling is no metadata but a tensor of factors (`tensors.rope_factors`)."""
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    kinds = {"linear": gguf.RopeScalingType.LINEAR, "yarn": gguf.RopeScalingType.YARN}
    if rope["rope_type"] not in kinds:
        return
    writer.add_rope_scaling_type(kinds[rope["rope_type"]])
    writer.add_rope_scaling_factor(float(rope["factor"]))
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        for name in ("beta_fast", "beta_slow"):
            if rope.get(name) is not None:
                getattr(writer, f"add_rope_scaling_yarn_{name}")(float(rope[name]))
        attention = yarn_attention_factor(rope)
        if attention is not None:
            writer.add_rope_scaling_attn_factors(attention)


def write_tensors(path: Path, source: GgufSource, file_type: str, quantizer: Quantizer) -> Iterator[int]:
    """Append every tensor to the file, each at a multiple of the alignment; yields the size of each chunk written."""
    with path.open("ab") as file:
        for tensor, kind in zip(source.tensors, source.tensor_types(file_type), strict=True):
            file.write(bytes(-file.tell() % _ALIGNMENT))
            imatrix = source.imatrix_weights(tensor)
            for index, part in enumerate(tensor.parts):
                read = _CheckedRows(tensor.name, part, kind)
                weights = None if imatrix is None else imatrix[index]
                for chunk in quantizer.quantize_chunks(kind, tensor.matrix, read, weights):
                    file.write(chunk.data)
                    yield chunk.nbytes
        file.write(bytes(-file.tell() % _ALIGNMENT))


@dataclass(frozen=True, slots=True)
class _CheckedRows:
    """Reads a tensor's rows; raises UserError if they are not finite or too large for the type."""

    name: str
    part: StoredRows | ComputedRows
    kind: Ggml

    def __call__(self, start: int, stop: int) -> NDArray[np.float32]:
        rows, name = self.part.read(start, stop), self.name
        if not np.isfinite(rows).all():
            what = tr("'{name}' holds NaN or infinite values", name=name)
            raise UserError(what, None, tr("the training diverged: use an earlier model"))
        if self.kind == Ggml.F16 and rows.size and np.abs(rows).max() > _MAX_FLOAT16:
            what = tr("'{name}' holds values too large for F16", name=name)
            raise UserError(what, None, tr("write BF16 instead"))
        return rows
