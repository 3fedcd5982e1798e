"""A model folder written as GGUF files, tensor by tensor, straight from its safetensors; each file is then proven.

Owns the order of the work, the files and their metadata. Does not own the tensors (`llama_tensors`), their types
(`mixtures`) and bytes (`quantize`), the tokenizer (`vocabulary`) or the proof (`proof`).
"""

from __future__ import annotations

import os
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Ggml
from numpy.typing import NDArray

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import save_tokenizer, template_of
from hanlin.config.settings.export import Gguf, conditions_of
from hanlin.core.context import Inputs, Job
from hanlin.core.disk import check_space, full_disk
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.export import quality
from hanlin.export.gguf import verify
from hanlin.export.gguf.imatrix_file import MATRIX_FILES, Importance, read_importance
from hanlin.export.gguf.quant_types import FILE_TYPES, UNQUANTISED, Shape, needs_importance, tensor_type
from hanlin.export.gguf.quantize import Quantizer, stored_bytes
from hanlin.export.gguf.tensors import Made, Stored, Tensor, rope_of, tensors_of
from hanlin.export.gguf.vocab import Vocabulary, add_special_ids, read_vocabulary
from hanlin.export.quality_page import write_card
from hanlin.inference.protocol import gguf_files
from hanlin.models.folder.checks import CONFIG, ModelFiles, check_model_folder, is_adapter
from hanlin.parity import check as contract
from hanlin.tokenizer.tokenizer import GENERATION_FILE, Tokenizer, read_json, write_json_aside

_ALIGNMENT = gguf.GGUF_DEFAULT_ALIGNMENT
_LARGEST_FLOAT16 = 65504.0
_GENERATION = re.compile(r"(?P<open>\{%[-+]?\s*)(?P<end>end)?generation(?P<close>\s*[-+]?%\})")


@dataclass(frozen=True)
class Source:
    """A model folder, read and checked: all that its GGUF files are made of."""

    files: ModelFiles
    tokenizer: Tokenizer
    importance: Importance | None = None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return read_vocabulary(self.tokenizer, self.files.vocabulary_rows)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensors_of(self.files))

    @property
    def experts(self) -> int:
        return int(self.files.config.get("num_local_experts") or 0)

    @cached_property
    def shape(self) -> Shape:
        config = self.files.config
        heads = int(config["num_attention_heads"])
        shared = int(config.get("num_key_value_heads") or heads)
        tied = bool(config.get("tie_word_embeddings"))
        return Shape(int(config["num_hidden_layers"]), heads, shared, tied, self.experts)

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: those of generation_config.json, else of config.json, the tokenizer's and the
        template's."""
        named = read_json(self.files.folder / GENERATION_FILE).get("eos_token_id")
        if named is None:
            named = self.files.config.get("eos_token_id")
        listed = named if isinstance(named, list) else [named]
        found = [int(number) for number in [self.tokenizer.eos_id, *listed] if number is not None]
        return tuple(dict.fromkeys([*found, *(self.template.stop_ids if self.template else ())]))

    @cached_property
    def template(self) -> ChatTemplate | None:
        return template_of(self.tokenizer)

    @cached_property
    def chat_template(self) -> str | None:
        """The folder's chat template without transformers' own `generation` block, which not every program knows.

        An `if true` takes its place: it writes the same text and trims the same white space around it.
        """
        if self.template is None:
            return None
        return _GENERATION.sub(
            lambda block: block["open"] + ("endif" if block["end"] else "if true") + block["close"],
            self.template.source,
        )

    def kinds(self, file_type: str) -> list[Ggml]:
        """The type of each tensor in a file of this type."""
        return [
            tensor_type(
                tensor.name,
                file_type,
                self.shape,
                tensor.shape[-1],
                len(tensor.shape),
                calibrated=self.importance is not None,
            )
            for tensor in self.tensors
        ]

    def weights_of(self, tensor: Tensor) -> NDArray[np.float32] | None:
        """What the importance matrix, where there is one, says of the columns of each of a tensor's parts."""
        if self.importance is None:
            return None
        return self.importance.weights(tensor.name, tensor.shape[-1], len(tensor.parts))

    def bits_per_weight(self, file_type: str) -> float:
        return round(8 * sum(self.sizes(file_type)) / self.weights, 3)

    def sizes(self, file_type: str) -> list[int]:
        """The bytes of each tensor in a file of this type."""
        pairs = zip(self.tensors, self.kinds(file_type), strict=True)
        return [stored_bytes(kind, tensor.shape) for tensor, kind in pairs]


def run(settings: Gguf, inputs: Inputs, out: Path, job: Job) -> dict[str, Any]:
    """Write `model-<TYPE>.gguf` for each type, with the tokenizer's files beside them.

    A file stands under its name only when it is whole, so that a killed run goes on with the types that lack; equal
    input gives equal bytes. Peak memory is a few slabs of `quantize.SLAB_BYTES`, whatever the model's size; the
    comparison of probabilities loads the model itself as well. Raises UserError for a model that cannot be written and
    for a full disk.
    """
    source = read_source(inputs.one("model"), inputs.maybe("importance"))
    for name in settings.types:
        check_importance(source, name)
    held_out = inputs.many("receipt.held_out")
    if settings.receipt is None:
        write_files(settings.types, settings, source, out, job)
        return _prove(settings.types, settings, source, out, job)
    reference = quality.prepare(
        settings.receipt, held_out, source.files, source.tokenizer, source.template, job.scratch(out), job
    )
    receipts: dict[str, quality.Row] = {}
    kept: tuple[str, ...] = settings.types
    if settings.pick:
        kept = (_smallest(settings, source, reference, receipts, out, job),)
    else:
        write_files(kept, settings, source, out, job)
    receipts |= {name: _receipt(name, source, reference, out, job) for name in kept}
    metrics = _prove(kept, settings, source, out, job)
    for chosen in kept:
        metrics[chosen] |= receipts[chosen]
    passed_over = {name: {**row, "kept": False} for name, row in receipts.items() if name not in kept}
    if settings.pick:
        metrics |= {"picked": kept[0], "passed_over": passed_over}
    rows = {**passed_over, **{name: receipts[name] for name in kept}}
    write_card(out, settings.name, settings.licence, rows, _note(settings, kept))
    return metrics


def _note(settings: Gguf, kept: Sequence[str]) -> str:
    if not settings.pick:
        return ""
    return f"{kept[0]} is the smallest that reaches `{settings.pick}`. {kept[0]} 是达到该条件的最小类型。"


def _smallest(
    settings: Gguf,
    source: Source,
    reference: quality.Reference,
    receipts: dict[str, quality.Row],
    out: Path,
    job: Job,
) -> str:
    """Make the types from the smallest up until one passes; the others are measured, remembered and deleted.

    Raises UserError when none does.
    """
    conditions = conditions_of(settings.pick)
    for name in sorted(settings.types, key=lambda name: sum(source.sizes(name))):
        if not _receipt_file(name, out, job).is_file():
            write_files((name,), settings, source, out, job)
        receipts[name] = _receipt(name, source, reference, out, job)
        if not quality.failing(receipts[name], conditions):
            write_files((name,), settings, source, out, job)
            return name
        _file(out, name).unlink(missing_ok=True)
    shown = ", ".join(f"{name} kl {row['kl']:.3g}" for name, row in receipts.items())
    what = say(f"none of the types reaches {settings.pick}: {shown}", f"没有类型达到 {settings.pick}：{shown}")
    raise UserError(what, "pick", say("ask for less, or name larger types", "请放宽条件，或加入更大的类型"))


def _receipt_file(name: str, out: Path, job: Job) -> Path:
    return job.scratch(out) / f"receipt-{name}.json"


def _receipt(name: str, source: Source, reference: quality.Reference, out: Path, job: Job) -> quality.Row:
    """The receipt of a file, measured once."""
    file = _receipt_file(name, out, job)
    if not file.is_file():
        row = {
            "bytes": _file(out, name).stat().st_size,
            "bits_per_weight": source.bits_per_weight(name),
            **quality.measure(_file(out, name), reference, job),
        }
        write_json_aside(file, row)
    return read_json(file)


def write_files(types: Sequence[str], settings: Gguf, source: Source, out: Path, job: Job) -> None:
    """Write `model-<TYPE>.gguf` for each type that is not there yet; nothing is proven."""
    left = [name for name in types if not _file(out, name).is_file()]
    total = sum(sum(source.sizes(name)) for name in left)
    check_space(out, total)
    done = 0
    quantizer = Quantizer()
    try:
        for name in left:
            with full_disk(out):
                aside = job.scratch(out) / _file(out, name).name
                write_header(aside, source, name, settings)
                for size in write_tensors(aside, source, name, quantizer):
                    done += size
                    job.progress.at(done, total, "bytes")
                os.replace(aside, _file(out, name))
    finally:
        quantizer.close()
        job.progress.done()


def read_source(folder: Path, importance: Path | None = None) -> Source:
    """Raises UserError for a folder that is no Llama model, or one that llama.cpp has no equal of, and for an
    importance matrix that cannot be read or belongs to another model."""
    if gguf_files(folder):
        what = say("this is a GGUF file already", "这已经是 GGUF 文件")
        raise UserError(what, folder, say("name the model folder it was made from", "请指定转换前的模型目录"))
    if is_adapter(folder):
        what = say("this is an adapter, not a whole model", "这是适配器，不是完整模型")
        raise UserError(what, folder, say("`merge` it first", "请先用 merge 合并"))
    files = check_model_folder(folder, experts=True)
    activation = files.config.get("hidden_act", "silu")
    if activation != "silu":
        what = say(
            f"llama.cpp's Llama has no activation {activation!r}", f"llama.cpp 的 Llama 没有激活函数 {activation!r}"
        )
        raise UserError(what, folder / CONFIG, say("supported: silu", "支持：silu"))
    matrix = None if importance is None else read_importance(_matrix_file(importance))
    source = Source(files, Tokenizer.load(folder), matrix)
    rope_of(files.config)
    source.vocabulary  # noqa: B018 an unknown tokenizer must show before anything is written
    if matrix is not None and not any(source.weights_of(tensor) is not None for tensor in source.tensors):
        what = say("the importance matrix names no tensor of this model", "重要性矩阵中没有该模型的任何张量")
        raise UserError(what, importance, say("it was collected on another model", "它来自另一个模型"))
    return source


def _matrix_file(path: Path) -> Path:
    """The matrix in an artifact of kind `imatrix`, or the file itself."""
    inside = [path / name for name in MATRIX_FILES] if path.is_dir() else [path]
    return next((file for file in inside if file.is_file()), inside[0])


def check_importance(source: Source, file_type: str) -> None:
    """Raises UserError when a tensor of a file of this type needs an importance matrix and has none."""
    for tensor, kind in zip(source.tensors, source.kinds(file_type), strict=True):
        if needs_importance(tensor.name, kind, file_type) and source.weights_of(tensor) is None:
            what = say(
                f"{file_type} needs an importance matrix: '{tensor.name}' would be garbage without",
                f"{file_type} 需要重要性矩阵：否则“{tensor.name}”将失真严重",
            )
            raise UserError(what, "importance", say("make one with `imatrix`", "请先用 imatrix 阶段制作"))


def _prove(types: Sequence[str], settings: Gguf, source: Source, out: Path, job: Job) -> dict[str, Any]:
    with full_disk(out):
        save_tokenizer(source.tokenizer, source.template, out)
    reference = verify.reference_of(source.files, source.tokenizer) if settings.compare else None
    tokenizer_proof = verify.TokenizerProof(source.tokenizer, source.vocabulary, source.stop_ids)
    metrics: dict[str, Any] = {"weights": source.weights}
    for place, name in enumerate(types):
        job.progress.at(place, len(types), "files")
        file = _file(out, name)
        tokenizer_proof.check(file)
        row: dict[str, Any] = {
            "bytes": file.stat().st_size,
            "bits_per_weight": source.bits_per_weight(name),
            "tensors": _counted(kind.name for kind in source.kinds(name)),
        }
        narrow = _narrow(source, name)
        if narrow:
            row |= {"narrow_tensors": sum(narrow.values()), "narrow_tensors_became": narrow}
        if reference is not None:
            row |= verify.compare_probabilities(file, name, reference)
        metrics[name] = row
    job.progress.done()
    if source.template is not None:
        files = [_file(out, name) for name in types]
        metrics["contract"] = contract.prove(ChatTemplate.load(out), out, files)
    return {**metrics, "tokenizer": tokenizer_proof.metrics}


def _narrow(source: Source, file_type: str) -> dict[str, int]:
    """How many tensors have rows that are no multiple of the blocks that the type wants, by what they became."""
    usual = FILE_TYPES[file_type].usual
    block = gguf.GGML_QUANT_SIZES[usual][0]
    pairs = zip(source.tensors, source.kinds(file_type), strict=True)
    return _counted(kind.name for tensor, kind in pairs if len(tensor.shape) > 1 and tensor.shape[-1] % block)


def _counted(names: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _file(out: Path, file_type: str) -> Path:
    return out / f"model-{file_type}.gguf"


def write_header(path: Path, source: Source, file_type: str, settings: Gguf) -> None:
    """Write all of a file but its tensors' bytes: metadata, tokenizer, and the names, shapes and types of tensors.

    The keys are those that llama.cpp's `convert_hf_to_gguf.py` writes for `llama`, and then its quantiser. For Mixtral
    they are `llama` too.
    """
    writer = _Writer(None, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.LLAMA])
    config = source.files.config
    writer.add_type("model")
    writer.add_name(settings.name)
    writer.add_size_label(_size_label(source))
    if settings.licence:
        writer.add_license(settings.licence)
    writer.add_block_count(source.shape.layers)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(source.shape.heads)
    writer.add_head_count_kv(source.shape.shared_heads)
    _add_rope(writer, rope_of(config))
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    if source.experts:
        writer.add_expert_count(source.experts)
        writer.add_expert_used_count(int(config["num_experts_per_tok"]))
    head_size = int(config.get("head_dim") or config["hidden_size"] // source.shape.heads)
    if config.get("head_dim"):
        writer.add_key_length(head_size)
        writer.add_value_length(head_size)
    writer.add_vocab_size(source.files.vocabulary_rows)
    writer.add_rope_dimension_count(head_size)
    writer.add_file_type(FILE_TYPES[file_type].number)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    source.vocabulary.add_to(writer)
    add_special_ids(writer, source.tokenizer, source.stop_ids)
    if source.chat_template:
        writer.add_chat_template(source.chat_template)
    if source.importance is not None and FILE_TYPES[file_type].usual not in UNQUANTISED:
        for key, value in source.importance.metadata(Path(settings.importance or "").name).items():
            if isinstance(value, int):
                writer.add_uint32(key, value)
            else:
                writer.add_string(key, value)
    for tensor, kind in zip(source.tensors, source.kinds(file_type), strict=True):
        size = stored_bytes(kind, tensor.shape)
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), size, kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()


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


def _size_label(source: Source) -> str:
    """`8B`, or `8x7B` of experts, as llama.cpp's converter counts them (`gguf.size_label`)."""
    of_experts = sum(tensor.weights for tensor in source.tensors if "_exps." in tensor.name)
    others = source.weights - of_experts
    one = of_experts // source.experts if source.experts else 0
    return str(gguf.size_label(source.weights, others, one, source.experts))


def _add_rope(writer: gguf.GGUFWriter, rope: Mapping[str, Any]) -> None:
    """Llama 3.1's scaling is no metadata but a tensor of factors (`llama_tensors.rotary_factors`)."""
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


def write_tensors(path: Path, source: Source, file_type: str, quantizer: Quantizer) -> Iterator[int]:
    """Append every tensor to the file, each at a multiple of the alignment; yields the bytes of each slab written."""
    with path.open("ab") as file:
        for tensor, kind in zip(source.tensors, source.kinds(file_type), strict=True):
            file.write(bytes(-file.tell() % _ALIGNMENT))
            importance = source.weights_of(tensor)
            for place, part in enumerate(tensor.parts):
                read = _Checked(tensor.name, part, kind)
                weights = None if importance is None else importance[place]
                for slab in quantizer.slabs(kind, tensor.matrix, read, weights):
                    file.write(slab.data)
                    yield slab.nbytes
        file.write(bytes(-file.tell() % _ALIGNMENT))


@dataclass(frozen=True, slots=True)
class _Checked:
    """A tensor's rows, refused where the file's type cannot hold them."""

    name: str
    part: Stored | Made
    kind: Ggml

    def __call__(self, start: int, stop: int) -> NDArray[np.float32]:
        rows, name = self.part.read(start, stop), self.name
        if not np.isfinite(rows).all():
            what = say(f"'{name}' holds values that are no numbers", f"“{name}”中有非数值（NaN 或无穷）")
            raise UserError(
                what, None, say("the training diverged: take an earlier model", "训练已发散：请使用更早的模型")
            )
        if self.kind == Ggml.F16 and rows.size and np.abs(rows).max() > _LARGEST_FLOAT16:
            what = say(f"'{name}' holds values too large for F16", f"“{name}”中有超出 F16 范围的数值")
            raise UserError(what, None, say("write BF16 instead", "请改用 BF16"))
        return rows
