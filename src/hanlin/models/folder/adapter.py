"""An adapter folder and the base model that it belongs to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import write_json
from hanlin.core.i18n import say
from hanlin.models.folder.checks import (
    NUM_WINDOWS,
    WINDOW_BYTES,
    check_safetensors,
    missing_weights_error,
    read_json_object,
)
from hanlin.models.folder.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_RECORD,
    INDEX,
    ModelFiles,
    TensorEntry,
    is_adapter,
)

_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An adapter folder: its PEFT configuration and every tensor by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]


def check_adapter_folder(folder: Path) -> AdapterFiles:
    """Read the headers of a PEFT LoRA folder; its base is not read.

    Raises:
        UserError: It is no adapter folder, another kind of adapter, or its weights are missing or incomplete.
    """
    folder = Path(folder)
    if not is_adapter(folder):
        hint = say("name the folder that a stage with `lora` wrote", "请指定由设置了 lora 的阶段生成的目录")
        raise UserError(say(f"there is no {ADAPTER_CONFIG} here", f"这里没有 {ADAPTER_CONFIG}"), folder, hint)
    config = read_json_object(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        what = say(f"an adapter of type {kind!r} is not supported", f"不支持 {kind!r} 类型的适配器")
        raise UserError(what, folder / ADAPTER_CONFIG, say("supported: LORA", "支持：LORA"))
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise missing_weights_error(folder, ADAPTER_WEIGHTS, INDEX)
    return AdapterFiles(folder, config, check_safetensors(weights))


def refuse_adapter(folder: Path, hint: str | None = None) -> None:
    """Raise UserError if a folder holds an adapter, for work that needs whole model weights.

    Args:
        folder: A model folder or an adapter folder.
        hint: What to do instead; by default, to merge the adapter first.
    """
    if is_adapter(folder):
        what = say("this is an adapter, but a whole model is needed", "这是适配器，此处需要完整模型")
        raise UserError(what, folder, hint or say("merge it first, with a `merge` stage", "请先用 merge 阶段合并"))


def rewrite_base_path(adapter: Path, base: Path) -> None:
    """Write the path of `base`, relative to `adapter`, into the configuration of an adapter that was copied."""
    file = adapter / ADAPTER_CONFIG
    config = {**read_json_object(file), "base_model_name_or_path": relative_base_path(base, adapter)}
    write_json(file, config, indent=2)


def relative_base_path(base: Path, folder: Path) -> str:
    """Return the path from an adapter folder to its base with forward slashes; absolute if there is no relative one."""
    try:
        return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    except ValueError:  # another drive of Windows
        return base.resolve().as_posix()


def resolve_base(adapter: Path) -> Path:
    """Return the folder of the model that an adapter was trained on, from the relative path in its configuration.

    Raises:
        UserError: The folder is no adapter, its base is not there, or the base is itself an adapter.
    """
    adapter = Path(adapter)
    base_path = (
        read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") if is_adapter(adapter) else None
    )
    if not is_adapter(adapter):
        check_adapter_folder(adapter)
    if not base_path:
        raise UserError(say("the adapter names no base model", "适配器没有写明底座模型"), adapter / ADAPTER_CONFIG)
    base = Path(os.path.normpath(adapter.resolve() / str(base_path)))
    hint = say(
        "set base_model_name_or_path to the base's folder, relative to the adapter's",
        "请将 base_model_name_or_path 设为底座模型目录（相对于适配器目录的路径）",
    )
    if not base.is_dir():
        raise UserError(
            say(f"the adapter's base '{base_path}' does not exist", f"找不到适配器的底座模型“{base_path}”"),
            adapter / ADAPTER_CONFIG,
            hint,
        )
    if is_adapter(base):
        raise UserError(
            say("the adapter's base is itself an adapter", "适配器的底座本身又是一个适配器"),
            adapter / ADAPTER_CONFIG,
            say(
                "merge the first adapter, then train the second on the result",
                "请先合并第一个适配器，再在合并结果上训练第二个",
            ),
        )
    return base


def fingerprint(files: ModelFiles) -> str:
    """Compute a short hash of a model's weights and shape, which does not depend on how the weights are sharded.

    It covers the configuration and, of every tensor, name, dtype, shape and 32 evenly spread windows of 1 KiB, so that
    it takes a moment; hashing all bytes of an 8-billion-parameter model takes a minute.

    Returns:
        32 hexadecimal digits.
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
            last = max(0, size - WINDOW_BYTES)
            for start in sorted({last * index // (NUM_WINDOWS - 1) for index in range(NUM_WINDOWS)}):
                file.seek(entry.start + start)
                state.update(file.read(min(WINDOW_BYTES, size)))
    finally:
        for file in opened.values():
            file.close()
    return state.hexdigest()[:32]


def build_base_record(files: ModelFiles) -> dict[str, Any]:
    """Build the content of `base.json`: fingerprint and number of vocabulary rows of the base of an adapter."""
    return {"fingerprint": fingerprint(files), "vocabulary_rows": files.vocabulary_rows}


def check_base(adapter: Path, base: ModelFiles) -> None:
    """Raise UserError if an adapter was trained on other weights than `base`; an adapter without `base.json` passes."""
    record_file = adapter / BASE_RECORD
    if not record_file.is_file():
        return
    record = read_json_object(record_file)
    if record == build_base_record(base):
        return
    rows = record.get("vocabulary_rows")
    name = base.folder.name
    if rows == base.vocabulary_rows:
        what = say(
            f"the adapter was trained on another base than {name}: the weights differ",
            f"适配器不是在 {name} 上训练的：权重不同",
        )
    else:
        what = say(
            f"the adapter was trained on a base with {rows} embedding rows, but {name} has {base.vocabulary_rows}",
            f"适配器训练时的底座模型有 {rows} 行词嵌入，而 {name} 有 {base.vocabulary_rows} 行",
        )
    hint = say("name the base it was trained on, or train it again", "请指定训练时使用的底座模型，或重新训练适配器")
    raise UserError(what, adapter, hint)
