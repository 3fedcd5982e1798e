"""An adapter folder and the base model that it belongs to."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.files import write_json
from hanlin.core.i18n import tr
from hanlin.models.folder.checks import (
    NUM_WINDOWS,
    WINDOW_BYTES,
    check_model_folder,
    check_safetensors,
    missing_weights_error,
    read_json_object,
    same_bytes,
)
from hanlin.models.folder.config import check_adapter_config
from hanlin.models.folder.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_RECORD,
    INDEX,
    ModelFiles,
    TensorEntry,
    is_adapter,
)

_LOG = logging.getLogger(__name__)
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_NAME = re.compile(r"(?P<part>\.(?:lora_\w+|token_adapter\.trainable_tokens_delta))\.default(?=\.|$)")
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
_OF_NO_EFFECT = ("base_model_name_or_path", "inference_mode", "peft_version", "revision")
"""Settings of an adapter that do not change what it does to its base."""


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
        hint = tr("name the folder that a stage with `lora` wrote")
        raise UserError(tr("there is no {adapter_config} here", adapter_config=ADAPTER_CONFIG), folder, hint)
    config = read_json_object(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        what = tr("an adapter of type {kind!r} is not supported", kind=kind)
        raise UserError(what, folder / ADAPTER_CONFIG, tr("supported: LORA"))
    check_adapter_config(config, folder / ADAPTER_CONFIG)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise missing_weights_error(folder, ADAPTER_WEIGHTS, INDEX)
    tensors: dict[str, TensorEntry] = {}
    stored = check_safetensors(weights)
    for key, name in name_tensors(stored).items():
        entry = stored[key]
        if name in tensors and not same_bytes(entry, tensors[name]):
            raise UserError(tr("two tensors are both for {name}", name=name), weights, tr("copy or download it again"))
        tensors[name] = entry
    _check_rank(config, tensors, folder / ADAPTER_CONFIG)
    return AdapterFiles(folder, config, tensors)


def name_tensors(keys: Iterable[str]) -> dict[str, str]:
    """Map the keys of an adapter file to the names of its tensors, see `normalize_key`.

    If the vocabulary was resized, PEFT saves a module of `modules_to_save` under a second name and adds the base's own
    (`original_module`), which counts for nothing and is left out.
    """
    names = {key: normalize_key(key) for key in keys}
    known = set(names.values())
    return {
        key: name
        for key, name in names.items()
        if ".original_module." not in name or name.replace(".original_module.", ".") not in known
    }


def normalize_key(key: str) -> str:
    """Return the name that PEFT gives a tensor of an adapter, whatever the model was wrapped in when it was saved.

    torch.compile, FSDP and activation checkpointing put names between those of the modules, DDP one before them; a
    state dict that was saved as it is names the adapter too, and may lack PEFT's prefix. PEFT skips most of these
    tensors and goes on without them.

    Example:
        `module.base_model.model._orig_mod.lm_head.lora_A.default.weight` is `base_model.model.lm_head.lora_A.weight`.
    """
    name = ".".join(part for part in key.split(".") if part not in _WRAPPERS).removeprefix("module.")
    name = _NAME.sub(r"\g<part>", name).replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
    return f"base_model.model.{name}" if name.startswith(("model.", "lm_head.")) else name


def find_base_tensors(files: AdapterFiles) -> list[str]:
    """The tensors of an adapter that replace some of its base: trained biases, embeddings saved with their adapter.

    PEFT writes them into the base when it loads the adapter, so that they count for any other adapter as well.
    """
    has_biases = files.config.get("bias") not in (None, "none")
    return sorted(
        key
        for key in files.tensors
        if key.endswith(".base_layer.weight") or (has_biases and key.endswith(".bias") and ".lora_" not in key)
    )


def read_token_ids(config: Mapping[str, Any]) -> list[int]:
    """The ids of the vocabulary rows that an adapter trains, in the order of its tensors.

    Args:
        config: What its `adapter_config.json` says.
    """
    token_ids = config.get("trainable_token_indices") or []
    if isinstance(token_ids, Mapping):  # by matrix; each has the same rows
        token_ids = next(iter(token_ids.values()))
    return list(token_ids)


def _check_rank(config: Mapping[str, Any], tensors: Mapping[str, TensorEntry], where: Path) -> None:
    """Raise UserError for a rank that no tensor has, before PEFT takes memory for it."""
    ranks = {entry.shape[0] for name, entry in tensors.items() if ".lora_A." in name and entry.shape}
    ranks |= {entry.shape[-1] for name, entry in tensors.items() if ".lora_embedding_A" in name and entry.shape}
    named = [config.get("r") or 0, *(config.get("rank_pattern") or {}).values()]
    if ranks and max(named) > max(ranks):
        what = tr("the configuration says rank {rank:,}, but no tensor has it", rank=max(named))
        raise UserError(what, where, tr("copy or download it again"))


def refuse_adapter(folder: Path, hint: str | None = None) -> None:
    """Raise UserError if a folder holds an adapter, for work that needs whole model weights.

    Args:
        folder: A model folder or an adapter folder.
        hint: What to do instead; by default, to merge the adapter first.
    """
    if is_adapter(folder):
        what = tr("this is an adapter, but a whole model is needed")
        raise UserError(what, folder, hint or tr("merge it first, with a `merge` stage"))


def rewrite_base_path(adapter: Path, base: Path, target: Path | None = None) -> None:
    """Write the path of `base` into the configuration of an adapter that was copied, relative to `target`, the folder
    that the adapter will be in; by default the one that it is in.
    """
    file = adapter / ADAPTER_CONFIG
    config = {**read_json_object(file), "base_model_name_or_path": relative_base_path(base, target or adapter)}
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
        raise UserError(tr("the adapter names no base model"), adapter / ADAPTER_CONFIG)
    base = Path(os.path.normpath(adapter.resolve() / str(base_path)))
    hint = tr("set base_model_name_or_path to the base's folder, relative to the adapter's")
    if not base.is_dir():
        raise UserError(
            tr("the adapter's base '{base_path}' does not exist", base_path=base_path),
            adapter / ADAPTER_CONFIG,
            hint,
        )
    if is_adapter(base):
        raise UserError(
            tr("the adapter's base is itself an adapter"),
            adapter / ADAPTER_CONFIG,
            tr("merge the first adapter, then train the second on the result"),
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


def is_same_model(files: ModelFiles, other: ModelFiles) -> bool:
    """Whether two folders hold the same weights to the bit; all of them are read only if a sample is equal."""
    if files.folder.resolve() == other.folder.resolve():
        return True
    return fingerprint(files) == fingerprint(other) and all(
        same_bytes(entry, other.tensors[name]) for name, entry in files.tensors.items()
    )


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
        what = tr("the adapter was trained on another base than {name}: the weights differ", name=name)
    else:
        what = tr(
            "the adapter was trained on a base with {rows} embedding rows, but {name} has {vocabulary_rows}",
            rows=rows,
            name=name,
            vocabulary_rows=base.vocabulary_rows,
        )
    hint = tr("name the base it was trained on, or train it again")
    raise UserError(what, adapter, hint)


def warn_of_other_base(adapter: Path, base: ModelFiles) -> None:
    """Log it if an adapter without `base.json` names another model than `base`: one of other weights, or one that is
    not here, such as a model of a hub, so that nothing can be known of its weights.
    """
    if (adapter / BASE_RECORD).is_file():
        return
    name = str(read_json_object(adapter / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
    try:
        named = check_model_folder(resolve_base(adapter), experts=True)
    except UserError:  # one of a hub, or not where it was
        if not _is_named_so(base.folder, name):
            what = tr(
                "no file tells whether {base} is the base that the adapter was trained on ({named}): their shapes fit, "
                "and their tokens if both have a tokenizer",
                named=name or tr("it names none"),
                base=base.folder.name,
            )
            _LOG.warning("%s: %s", adapter, what)
        return
    if named.folder.resolve() != base.folder.resolve() and fingerprint(named) != fingerprint(base):
        what = tr(
            "the adapter names {named} as its base, and {name} has other weights", named=named.folder, name=base.folder
        )
        _LOG.warning("%s: %s", adapter, what)


def _is_named_so(folder: Path, name: str) -> bool:
    """Whether a folder has the name of a model of a hub: `owner/name`, or that in the cache of Hugging Face."""
    parts, wanted = folder.resolve().parts, tuple(name.split("/"))
    return bool(name) and (parts[-len(wanted) :] == wanted or f"models--{'--'.join(wanted)}" in parts)


def refuse_repeated(adapters: Sequence[AdapterFiles]) -> None:
    """Raise UserError if one of several adapters is there twice, also as a link or a copy: it would count twice."""
    for index, adapter in enumerate(adapters):
        for other in adapters[:index]:
            if _is_same(adapter, other):
                what = tr("{name} and {other} are the same adapter", name=adapter.folder.name, other=other.folder.name)
                raise UserError(what, adapter.folder, tr("name it once; `weights` multiplies what it changes"))


def _is_same(adapter: AdapterFiles, other: AdapterFiles) -> bool:
    if adapter.folder.resolve() == other.folder.resolve():
        return True
    if adapter.tensors.keys() != other.tensors.keys():
        return False
    configs = [{k: v for k, v in files.config.items() if k not in _OF_NO_EFFECT} for files in (adapter, other)]
    return configs[0] == configs[1] and all(
        same_bytes(entry, other.tensors[name]) for name, entry in adapter.tensors.items()
    )
