"""Copies of GGUF files with other metadata, fewer tensors or in several files, by the `gguf` package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf


def rewrite_gguf(
    source: Path, target: Path, changes: Mapping[str, Any] | None = None, skip: str = "", split_max_tensors: int = 0
) -> None:
    """Copy a GGUF file.

    Args:
        source: The file.
        target: The copy; of one in several files, the name that `-00001-of-0000N` is added to.
        changes: Values to set instead of the file's, by name; one that is no text or number leaves the name out.
        skip: Beginning of the names of tensors to leave out; empty for none.
        split_max_tensors: Tensors of each of several files, as `llama-gguf-split` divides them; 0: one file.
    """
    changes = changes or {}
    reader = gguf.GGUFReader(source)
    architecture = changes.get("general.architecture", "llama")
    writer = gguf.GGUFWriter(target, architecture, split_max_tensors=split_max_tensors)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in changes or name == "general.architecture":
            continue
        sub_type = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type)
    for name, value in changes.items():
        if isinstance(value, str) and name != "general.architecture":
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
    for tensor in reader.tensors:
        if not skip or not tensor.name.startswith(skip):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
