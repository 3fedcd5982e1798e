"""What lies in a model or adapter folder, read from headers alone: is it whole, can it be loaded, which is its base.

Owns the checks that need no weights in memory; imports neither torch nor transformers, so that a plan can use it. Does
not own loading (`model/loading`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.model_refusals import copy_again, few, no_safetensors, no_weights, truncated, why_no_config

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_RECORD = "base.json"
SUPPORTED = {"llama": "LlamaForCausalLM"}
WITH_EXPERTS = {"mixtral": "MixtralForCausalLM"}
"""What can be exported and asked, but not trained: several feed-forward networks in each layer, chosen by a router."""

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_LONGEST_HEADER = 100_000_000
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
_WINDOWS, _WINDOW = 32, 1024


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor of a safetensors file: its dtype by the format's name, its shape, and its bytes in `file`."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A whole model folder: its configuration and every tensor by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]

    @property
    def dtype(self) -> str:
        """The number format that most of the weights are in: `float32`, `bfloat16` or `float16`."""
        sizes: dict[str, int] = {}
        for entry in self.tensors.values():
            sizes[entry.dtype] = sizes.get(entry.dtype, 0) + math.prod(entry.shape)
        return _DTYPES[max(sizes, key=lambda name: sizes[name])]

    @property
    def vocabulary_rows(self) -> int:
        return self.tensors["model.embed_tokens.weight"].shape[0]


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """A whole adapter folder: its PEFT configuration and every tensor by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]


def check_safetensors(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by name. Raises UserError when the file is not whole.

    The format (huggingface/safetensors, README "Format"): 8 bytes little-endian length N, N bytes of JSON, then the
    tensors' bytes without gaps; so the size of a whole file is known from its header.
    """
    found = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if len(first) < 8 or (length <= _LONGEST_HEADER and 8 + length > found):
            raise truncated(path, 8 + length, found)
        if length > _LONGEST_HEADER:
            raise no_safetensors(path)
        text = file.read(length)
    try:
        rows = {name: row for name, row in json.loads(text.decode("utf-8")).items() if name != "__metadata__"}
        tensors = {
            name: TensorEntry(
                str(row["dtype"]),
                tuple(int(size) for size in row["shape"]),
                path,
                8 + length + int(row["data_offsets"][0]),
                8 + length + int(row["data_offsets"][1]),
            )
            for name, row in rows.items()
        }
    except (UnicodeDecodeError, ValueError, AttributeError, TypeError, KeyError, IndexError) as error:
        raise no_safetensors(path) from error
    place = 8 + length
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        bits = _BITS.get(entry.dtype, 0) * math.prod(entry.shape)
        if entry.start != place or bits != 8 * (entry.end - entry.start) or entry.dtype not in _BITS:
            what = say(f"the header places tensor '{name}' wrongly", f"文件头中张量“{name}”的位置有误")
            raise UserError(what, path, copy_again())
        place = entry.end
    if place > found:
        raise truncated(path, place, found)
    if place < found:
        what = say(
            f"the file goes on for {found - place:,} bytes after its last tensor",
            f"最后一个张量之后多出 {found - place:,} 字节",
        )
        raise UserError(what, path, copy_again())
    return tensors


def check_model_folder(folder: Path, *, experts: bool = False) -> ModelFiles:
    """What lies in a Llama model folder. Raises UserError, with place and hint, unless it can be loaded as it is.

    With `experts` a Mixtral-shaped model is taken as well, its experts' matrices apart or packed into one tensor.

    Refused: no `config.json`, another architecture, code of its own, quantised weights, pickled weights only, cut or
    missing weight files, tensors missing or of another shape than the configuration says, a tied model with an output
    head of its own, and a tokenizer with more entries than there are embedding rows.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(say("there is no such folder", "没有这个目录"), folder)
    if not (folder / CONFIG).is_file():
        raise UserError(
            say(f"there is no {CONFIG} here", f"这里没有 {CONFIG}"), folder, why_no_config(folder, is_adapter(folder))
        )
    config = _json_object(folder / CONFIG)
    _check_family(config, folder / CONFIG, {**SUPPORTED, **(WITH_EXPERTS if experts else {})})
    if quantization_of(config):
        hint = say("name the checkpoint that it was quantised from", "请指定量化之前的模型")
        raise UserError(say("the weights are already quantised", "权重已被量化"), folder / CONFIG, hint)
    tensors = check_weights(folder)
    _check_tensors(config, tensors, folder)
    files = ModelFiles(folder, config, tensors)
    _check_vocabulary(files)
    return files


def quantization_of(config: Mapping[str, Any]) -> str:
    """By which method the weights are quantised (`compressed-tensors`, `bitsandbytes`); empty: not at all."""
    row = config.get("quantization_config")
    return str(row.get("quant_method", "?")) if isinstance(row, dict) else ""


def is_quantized(folder: Path) -> bool:
    """Whether a model folder's weights are in a form of few bits that transformers reads itself."""
    return (Path(folder) / CONFIG).is_file() and bool(quantization_of(_json_object(Path(folder) / CONFIG)))


def check_quantized_folder(folder: Path) -> dict[str, Any]:
    """The configuration of a Llama folder in few bits. Raises UserError unless it is one and its files are whole; which
    tensors its method keeps is not looked at."""
    config = _json_object(folder / CONFIG)
    _check_family(config, folder / CONFIG, SUPPORTED)
    check_weights(folder)
    return config


def is_adapter(folder: Path) -> bool:
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def licences_in(folder: Path) -> list[Path]:
    """The texts that go wherever the model goes: `LICENSE`, `NOTICE` and the like."""
    return [path for path in sorted(folder.iterdir()) if path.name.upper().startswith(("LICEN", "NOTICE"))]


def check_adapter_folder(folder: Path) -> AdapterFiles:
    """What lies in a PEFT LoRA folder. Raises UserError unless it is one and whole; the base is not looked at."""
    folder = Path(folder)
    if not is_adapter(folder):
        hint = say("name the folder that a stage with `lora` made", "请指定由设置了 lora 的阶段产生的目录")
        raise UserError(say(f"there is no {ADAPTER_CONFIG} here", f"这里没有 {ADAPTER_CONFIG}"), folder, hint)
    config = _json_object(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        what = say(f"an adapter of type {kind!r} is not supported", f"不支持类型为 {kind!r} 的适配器")
        raise UserError(what, folder / ADAPTER_CONFIG, say("supported: LORA", "支持：LORA"))
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise no_weights(folder, ADAPTER_WEIGHTS, INDEX)
    return AdapterFiles(folder, config, check_safetensors(weights))


def point_to_base(adapter: Path, base: Path) -> None:
    """Let an adapter that was copied elsewhere name the same base, relative to where it lies now."""
    file = adapter / ADAPTER_CONFIG
    config = {**_json_object(file), "base_model_name_or_path": relative_base(base, adapter)}
    aside = file.with_name(file.name + ".writing")
    aside.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    os.replace(aside, file)


def relative_base(base: Path, folder: Path) -> str:
    """The path from an adapter's folder to its base with forward slashes; whole where there is no relative one."""
    try:
        return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return base.resolve().as_posix()


def base_of(adapter: Path) -> Path:
    """The folder of the model that an adapter was trained on; its path stands relative to the adapter's folder.

    Raises UserError when it is not there, or is itself an adapter.
    """
    adapter = Path(adapter)
    named = _json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") if is_adapter(adapter) else None
    if not is_adapter(adapter):
        check_adapter_folder(adapter)
    if not named:
        raise UserError(say("the adapter names no base", "适配器没有写明底座"), adapter / ADAPTER_CONFIG)
    base = Path(os.path.normpath(adapter.resolve() / str(named)))
    hint = say(
        "set base_model_name_or_path to the base's folder, relative to the adapter's",
        "请把 base_model_name_or_path 设为底座目录（相对适配器目录）",
    )
    if not base.is_dir():
        raise UserError(
            say(f"the adapter's base '{named}' is not here", f"找不到适配器的底座“{named}”"),
            adapter / ADAPTER_CONFIG,
            hint,
        )
    if is_adapter(base):
        raise UserError(
            say("the adapter's base is itself an adapter", "适配器的底座本身也是适配器"),
            adapter / ADAPTER_CONFIG,
            say("merge the first adapter, then train the second on the result", "请先合并前一个适配器，再在其上训练"),
        )
    return base


def fingerprint(files: ModelFiles) -> str:
    """A short name for a model's weights and shape: equal for copies and other shardings, another for other weights.

    Hashes the configuration and, of every tensor, name, dtype, shape and 32 windows of 1 KiB spread evenly, so that
    it takes a moment where hashing an 8-billion-parameter model takes a minute.
    """
    config = {name: value for name, value in files.config.items() if name not in _VOLATILE}
    state = hashlib.sha256(json.dumps(config, sort_keys=True, ensure_ascii=False).encode("utf-8"))
    opened: dict[Path, Any] = {}
    try:
        for name, entry in sorted(files.tensors.items()):
            state.update(f"{name} {entry.dtype} {entry.shape}\n".encode())
            if entry.file not in opened:
                opened[entry.file] = entry.file.open("rb")
            file, size = opened[entry.file], entry.end - entry.start
            last = max(0, size - _WINDOW)
            for start in sorted({last * place // (_WINDOWS - 1) for place in range(_WINDOWS)}):
                file.seek(entry.start + start)
                state.update(file.read(min(_WINDOW, size)))
    finally:
        for file in opened.values():
            file.close()
    return state.hexdigest()[:32]


def base_record(files: ModelFiles) -> dict[str, Any]:
    """What an adapter keeps of its base, as `base.json`: whose weights it saw and how many vocabulary rows they had."""
    return {"fingerprint": fingerprint(files), "vocabulary_rows": files.vocabulary_rows}


def check_base(adapter: Path, base: ModelFiles) -> None:
    """Raises UserError when an adapter was trained on other weights than `base`. One without a record is let pass."""
    record_file = adapter / BASE_RECORD
    if not record_file.is_file():
        return
    record = _json_object(record_file)
    if record == base_record(base):
        return
    rows = record.get("vocabulary_rows")
    seen = say(
        f"it has {base.vocabulary_rows} vocabulary rows, the adapter's had {rows}",
        f"它有 {base.vocabulary_rows} 行词表，适配器当初的底座有 {rows} 行",
    )
    if rows == base.vocabulary_rows:
        seen = say("its weights are others", "权重不同")
    raise UserError(
        say(f"the adapter was trained on another base than {base.folder.name}: {seen}",
            f"适配器不是在 {base.folder.name} 上训练的：{seen}"),
        adapter,
        say("name the base it was trained on, or train it again", "请指定训练时的底座，或重新训练适配器"),
    )  # fmt: skip


PACKED_EXPERTS = "model.layers.{}.mlp.experts.gate_up_proj"
"""Where transformers 5 keeps the experts of a layer in one tensor [experts, gate and up rows, hidden]."""


def llama_shapes(config: Mapping[str, Any], *, packed_experts: bool = False) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Llama model by name, with its shape; a tied model has no tensor of its own for the head. A
    configuration with `num_local_experts` is Mixtral's, whose experts lie apart or are packed."""
    hidden, wide = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    shared = int(config.get("num_key_value_heads") or heads)
    head = int(config.get("head_dim") or hidden // heads)
    projections = {
        "self_attn.q_proj": (heads * head, hidden),
        "self_attn.k_proj": (shared * head, hidden),
        "self_attn.v_proj": (shared * head, hidden),
        "self_attn.o_proj": (hidden, heads * head),
    }
    experts = int(config.get("num_local_experts") or 0)
    if not experts:
        projections |= {"mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden), "mlp.down_proj": (hidden, wide)}
    elif not packed_experts:
        projections["block_sparse_moe.gate"] = (experts, hidden)
        for expert in range(experts):
            place = f"block_sparse_moe.experts.{expert}"
            projections |= {f"{place}.w1": (wide, hidden), f"{place}.w2": (hidden, wide), f"{place}.w3": (wide, hidden)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (int(config["vocab_size"]), hidden)}
    for layer in range(int(config["num_hidden_layers"])):
        block = f"model.layers.{layer}."
        for name, shape in projections.items():
            shapes[f"{block}{name}.weight"] = shape
            if config.get("attention_bias" if name.startswith("self_attn") else "mlp_bias"):
                shapes[f"{block}{name}.bias"] = shape[:1]
        if experts and packed_experts:
            shapes[f"{block}mlp.gate.weight"] = (experts, hidden)
            shapes[PACKED_EXPERTS.format(layer)] = (experts, 2 * wide, hidden)
            shapes[f"{block}mlp.experts.down_proj"] = (experts, hidden, wide)
        shapes[f"{block}input_layernorm.weight"] = shapes[f"{block}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = (int(config["vocab_size"]), hidden)
    return shapes


def check_weights(folder: Path) -> dict[str, TensorEntry]:
    """All tensors of a folder: of the one weights file, or of every shard that the index names. Raises UserError when a
    file is missing or not whole."""
    if (folder / WEIGHTS).is_file():
        return check_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise no_weights(folder, WEIGHTS, INDEX)
    places = _json_object(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError(say("the index names no weights", "索引中没有权重"), folder / INDEX, copy_again())
    shards = sorted({str(name) for name in places.values()})
    lost = [name for name in shards if Path(name).name != name or not (folder / name).is_file()]
    if lost:
        what = say(
            f"{len(lost)} of {len(shards)} weight files are not here: {few(lost)}",
            f"{len(shards)} 个权重文件中缺少 {len(lost)} 个：{few(lost)}",
        )
        raise UserError(what, folder, say("copy or download them again", "请重新拷贝或下载"))
    tensors: dict[str, TensorEntry] = {}
    for name in shards:
        tensors.update(check_safetensors(folder / name))
    astray = [name for name in places if name not in tensors]
    if astray:
        what = say(f"no weight file holds {few(astray)}", f"任何权重文件中都没有 {few(astray)}")
        raise UserError(what, folder / INDEX, copy_again())
    return tensors


def _check_family(config: Mapping[str, Any], where: Path, families: Mapping[str, str]) -> None:
    known = say(f"supported: {', '.join(families.values())}", f"支持：{'、'.join(families.values())}")
    named = [str(name) for name in config.get("architectures") or ()]
    architecture = named[0] if named else str(config.get("model_type"))
    family = str(config.get("model_type"))
    if family not in families or (named and named[0] != families[family]):
        what = say(f"the architecture {architecture} is not supported", f"不支持模型结构 {architecture}")
        if family in WITH_EXPERTS:
            what += say(" here: it can be exported and asked, not trained", "：只能导出与提问，不能训练")
        raise UserError(what, where, known)
    if config.get("auto_map"):
        what = say("the model brings code of its own, which is never run", "模型自带代码，本项目从不运行此类代码")
        raise UserError(what, where, known)


def _check_tensors(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry], folder: Path) -> None:
    try:
        expected = llama_shapes(config, packed_experts=PACKED_EXPERTS.format(0) in tensors)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = say(f"the configuration lacks or misstates {error}", f"配置缺少或写错 {error}")
        raise UserError(what, folder / CONFIG, copy_again()) from error
    missing = [name for name in expected if name not in tensors]
    if missing:
        what = say(f"{len(missing)} weights are missing: {few(missing)}", f"缺少 {len(missing)} 个权重：{few(missing)}")
        raise UserError(what, folder, copy_again())
    for name, shape in expected.items():
        entry = tensors[name]
        if entry.shape != shape:
            what = say(
                f"'{name}' has shape {list(entry.shape)}, {CONFIG} says {list(shape)}",
                f"“{name}”的形状是 {list(entry.shape)}，而 {CONFIG} 规定为 {list(shape)}",
            )
            raise UserError(
                what, entry.file, say(f"weights and {CONFIG} must come together", "权重与配置须来自同一模型")
            )
        if entry.dtype not in _DTYPES:
            what = say(f"'{name}' is stored as {entry.dtype}", f"“{name}”以 {entry.dtype} 存储")
            raise UserError(what, entry.file, say("supported: F32, BF16, F16", "支持：F32、BF16、F16"))
    extra = [name for name in tensors if name not in expected and not name.endswith("rotary_emb.inv_freq")]
    if extra == ["lm_head.weight"]:
        if not _same_bytes(tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]):
            what = say(
                "the model says its embeddings are tied, but its output head is another matrix",
                "配置写明词嵌入绑定，但输出头是另一个矩阵",
            )
            hint = say(
                f'set "tie_word_embeddings": false in {CONFIG}', f"请在 {CONFIG} 中设 tie_word_embeddings 为 false"
            )
            raise UserError(what, folder / CONFIG, hint)
    elif extra:
        what = say(f"{len(extra)} weights are no part of a Llama model: {few(extra)}",
                   f"{len(extra)} 个权重不属于 Llama 模型：{few(extra)}")  # fmt: skip
        raise UserError(what, folder, say("name a model without additions", "请指定没有附加结构的模型"))


def _check_vocabulary(files: ModelFiles) -> None:
    tokenizer = files.folder / "tokenizer.json"
    if not tokenizer.is_file():
        return
    state = tokenizer.stat()
    size = _entries(tokenizer, state.st_size, state.st_mtime_ns)
    if size > files.vocabulary_rows:
        what = say(
            f"the tokenizer has {size} entries, the model only {files.vocabulary_rows} embedding rows",
            f"分词器有 {size} 个词条，而模型只有 {files.vocabulary_rows} 行嵌入",
        )
        hint = say("use the tokenizer that the model was saved with", "请使用与模型一同保存的分词器")
        raise UserError(what, tokenizer, hint)


@functools.lru_cache(maxsize=16)
def _entries(tokenizer: Path, size: int, changed: int) -> int:
    """Highest id + 1; remembered while the file stays as it is, for a large one takes half a second to read."""
    data = _json_object(tokenizer)
    entries = (data.get("model") or {}).get("vocab") or {}
    numbers: Iterable[int] = entries.values() if isinstance(entries, dict) else range(len(entries))
    added = (int(row["id"]) for row in data.get("added_tokens") or ())
    return max([*numbers, *added], default=-1) + 1


def _same_bytes(one: TensorEntry, other: TensorEntry) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as first, other.file.open("rb") as second:
        first.seek(one.start)
        second.seek(other.start)
        left = one.end - one.start
        while left:
            step = min(left, 1 << 24)
            if first.read(step) != second.read(step):
                return False
            left -= step
    return True


def _json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(say(f"not JSON: {error}", f"不是合法 JSON：{error}"), path, copy_again()) from error
    if not isinstance(data, dict):
        raise UserError(say("not a JSON object", "不是 JSON 对象"), path, copy_again())
    return data
