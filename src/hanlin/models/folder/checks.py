"""What lies in a model or adapter folder, read from headers alone: is it whole, can it be loaded, which is its base.

Owns the checks that need no weights in memory; imports neither torch nor transformers, so that a plan can use it. Does
not own loading (`model/loading`).
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.models.folder.layout import (
    CONFIG,
    DTYPES,
    INDEX,
    SUPPORTED,
    WEIGHTS,
    WITH_EXPERTS,
    ModelFiles,
    TensorEntry,
    is_adapter,
)
from hanlin.models.folder.shapes import PACKED_EXPERTS, llama_shapes

"""What can be exported and asked, but not trained: several feed-forward networks in each layer, chosen by a router."""

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_LONGEST_HEADER = 100_000_000
WINDOWS, WINDOW = 32, 1024


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

    Refused: no `config.json`, another architecture, code of its own, quantized weights, pickled weights only, cut or
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
    config = json_object(folder / CONFIG)
    _check_family(config, folder / CONFIG, {**SUPPORTED, **(WITH_EXPERTS if experts else {})})
    if quantization_of(config):
        hint = say("name the checkpoint that it was quantized from", "请指定量化之前的模型")
        raise UserError(say("the weights are already quantized", "权重已被量化"), folder / CONFIG, hint)
    tensors = check_weights(folder)
    _check_tensors(config, tensors, folder)
    files = ModelFiles(folder, config, tensors)
    _check_vocabulary(files)
    return files


def quantization_of(config: Mapping[str, Any]) -> str:
    """By which method the weights are quantized (`compressed-tensors`, `bitsandbytes`); empty: not at all."""
    row = config.get("quantization_config")
    return str(row.get("quant_method", "?")) if isinstance(row, dict) else ""


def is_quantized(folder: Path) -> bool:
    """Whether a model folder's weights are in a form of few bits that transformers reads itself."""
    return (Path(folder) / CONFIG).is_file() and bool(quantization_of(json_object(Path(folder) / CONFIG)))


def check_quantized_folder(folder: Path) -> dict[str, Any]:
    """The configuration of a Llama folder in few bits. Raises UserError unless it is one and its files are whole; which
    tensors its method keeps is not looked at."""
    config = json_object(folder / CONFIG)
    _check_family(config, folder / CONFIG, SUPPORTED)
    check_weights(folder)
    return config


"""Where transformers 5 keeps the experts of a layer in one tensor [experts, gate and up rows, hidden]."""


def check_weights(folder: Path) -> dict[str, TensorEntry]:
    """All tensors of a folder: of the one weights file, or of every shard that the index names. Raises UserError when a
    file is missing or not whole."""
    if (folder / WEIGHTS).is_file():
        return check_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).is_file():
        raise no_weights(folder, WEIGHTS, INDEX)
    places = json_object(folder / INDEX).get("weight_map")
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
        if entry.dtype not in DTYPES:
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
    data = json_object(tokenizer)
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


def json_object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(say(f"not JSON: {error}", f"不是合法 JSON：{error}"), path, copy_again()) from error
    if not isinstance(data, dict):
        raise UserError(say("not a JSON object", "不是 JSON 对象"), path, copy_again())
    return data


def few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def copy_again() -> str:
    return say("copy or download it again", "请重新拷贝或下载")


def truncated(path: Path, expected: int, found: int) -> UserError:
    what = say(
        f"the file is cut off: {expected:,} bytes expected, {found:,} found",
        f"文件不完整：应有 {expected:,} 字节，实有 {found:,} 字节",
    )
    return UserError(what, path, copy_again())


def no_safetensors(path: Path) -> UserError:
    return UserError(say("this is not a safetensors file", "不是 safetensors 文件"), path, copy_again())


def _pickles(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))


def no_weights(folder: Path, name: str, index: str) -> UserError:
    """Says why a folder has no weights that can be read: pickled ones, shards without their index, or none at all."""
    pickles = [file for file in _pickles(folder) if file not in ("training_args.bin", "optimizer.bin")]
    if pickles:
        what = say(
            f"the weights are pickled ({few(pickles)}); a pickle can run any code, so it is not opened",
            f"权重是 pickle 格式（{few(pickles)}）；pickle 可执行任意代码，故不打开",
        )
        hint = say(
            'convert it where you trust it: python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('IN').save_pretrained('OUT')\"",
            '请在可信环境中转换：python -c "from transformers import AutoModelForCausalLM as M; '
            "M.from_pretrained('IN').save_pretrained('OUT')\"",
        )
        return UserError(what, folder, hint)
    if sorted(folder.glob("model-*-of-*.safetensors")):
        return UserError(say(f"the weights' index {index} is not here", f"缺少权重索引 {index}"), folder, copy_again())
    return UserError(say(f"there are no weights ({name}) here", f"这里没有权重（{name}）"), folder, copy_again())


def why_no_config(folder: Path, is_adapter: bool) -> str:
    if is_adapter:
        return say("this is an adapter: `merge` it first", "这是适配器：请先用 merge 合并")
    if any(folder.glob("*.gguf")):
        return say("this is a GGUF file; name the model it was made from", "这是 GGUF 文件；请指定转换前的模型")
    if (folder / "params.json").is_file():
        return say(
            "this is Meta's own form; take the Hugging Face form of the model",
            "这是 Meta 的原始格式；请使用 Hugging Face 格式",
        )
    return say("name a folder with config.json and *.safetensors", "请指定含 config.json 与 *.safetensors 的目录")
