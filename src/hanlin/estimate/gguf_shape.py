"""The shape of the model in a GGUF file, from its header."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from hanlin.config.settings.surgery.import_gguf import ImportGguf
from hanlin.core.errors import UserError
from hanlin.core.files import open_regular
from hanlin.core.i18n import tr
from hanlin.estimate.shapes import ModelShape
from hanlin.models.folder.gguf import choose_gguf, find_gguf_files
from hanlin.tokenizer.gguf_metadata import GgufMetadata, read_gguf_metadata

_HEAD_NAME = b"output.weight"
_ENTRY_BYTES = 256
"""More than the list of tensors needs for one of them."""

_PLAIN_TYPES = {0: "float32", 1: "float16", 32: "bfloat16"}
"""llama.cpp's numbers (`llama_ftype`) of files that are not quantized; `import_gguf` keeps their number format."""


def read_gguf_shape(location: Path, settings: ImportGguf) -> ModelShape | str:
    """The shape of the model that `import_gguf` will make of a file.

    Args:
        location: The GGUF file, or the folder that it is in.
        settings: Which file of a folder, and the number format of the weights.

    Returns:
        The shape, or a sentence on why it is not known.
    """
    try:
        candidates = find_gguf_files(location)
        if not candidates:
            return tr("there is no GGUF file here")
        metadata = read_gguf_metadata(choose_gguf(candidates, location, settings.file))
        if metadata.values.get("llama.expert_count"):
            return tr("training a model of experts is not estimated")
        sizes = [metadata.values[f"llama.{name}"] for name in ("embedding_length", "feed_forward_length")]
        layers, heads = (metadata.values[f"llama.{name}"] for name in ("block_count", "attention.head_count"))
        vocab_size = len(metadata.values["tokenizer.ggml.tokens"])
        return ModelShape(
            vocab_size=vocab_size,
            hidden_size=int(sizes[0]),
            intermediate_size=int(sizes[1]),
            layers=int(layers),
            heads=int(heads),
            kv_heads=int(metadata.values.get("llama.attention.head_count_kv", heads)),
            head_dim=int(metadata.values.get("llama.attention.key_length", int(sizes[0]) // int(heads))),
            tied=not _has_head(metadata),
            dtype=settings.dtype
            if settings.dtype != "auto"
            else _PLAIN_TYPES.get(metadata.get("general.file_type", int, -1), "bfloat16"),
        )
    except UserError as error:
        return error.what
    except (OSError, KeyError, TypeError, ValueError, ZeroDivisionError):
        return tr("the metadata of this GGUF file is broken")


def _has_head(metadata: GgufMetadata) -> bool:
    """Whether the list of tensors names an output head; without one it is the embedding matrix.

    A name is written behind its length, so that `blk.0.attn_output.weight` is not taken for it.
    """
    with open_regular(metadata.path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        stop = metadata.end + metadata.tensors * _ENTRY_BYTES
        return data.find(struct.pack("<Q", len(_HEAD_NAME)) + _HEAD_NAME, metadata.end, min(stop, len(data))) >= 0
