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
from hanlin.core.i18n import say
from hanlin.models.folder.checks import WINDOW, WINDOWS, check_safetensors, json_object, no_weights
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
    """A whole adapter folder: its PEFT configuration and every tensor by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorEntry]


def check_adapter_folder(folder: Path) -> AdapterFiles:
    """What lies in a PEFT LoRA folder. Raises UserError unless it is one and whole; the base is not looked at."""
    folder = Path(folder)
    if not is_adapter(folder):
        hint = say("name the folder that a stage with `lora` made", "请指定由设置了 lora 的阶段产生的目录")
        raise UserError(say(f"there is no {ADAPTER_CONFIG} here", f"这里没有 {ADAPTER_CONFIG}"), folder, hint)
    config = json_object(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        what = say(f"an adapter of type {kind!r} is not supported", f"不支持类型为 {kind!r} 的适配器")
        raise UserError(what, folder / ADAPTER_CONFIG, say("supported: LORA", "支持：LORA"))
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise no_weights(folder, ADAPTER_WEIGHTS, INDEX)
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


def point_to_base(adapter: Path, base: Path) -> None:
    """Let an adapter that was copied elsewhere name the same base, relative to where it lies now."""
    file = adapter / ADAPTER_CONFIG
    config = {**json_object(file), "base_model_name_or_path": relative_base(base, adapter)}
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
    named = json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") if is_adapter(adapter) else None
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
            last = max(0, size - WINDOW)
            for start in sorted({last * place // (WINDOWS - 1) for place in range(WINDOWS)}):
                file.seek(entry.start + start)
                state.update(file.read(min(WINDOW, size)))
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
    record = json_object(record_file)
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
