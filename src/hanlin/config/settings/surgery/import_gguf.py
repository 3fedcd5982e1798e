"""Settings of `import_gguf`."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting


class ImportGguf(Settings):
    """Make a model folder from a GGUF file, to train it or to export it in other types; it is compared with llama.cpp.

    The weights become what the file holds: what its quantization lost does not come back.
    """

    gguf: str = ref("gguf", description="the GGUF file, or a folder of GGUF files")
    file: str = setting(
        "",
        "which file of a folder: its type (Q8_0) or its name; empty: the largest, which is closest to the original",
    )
    license: str = setting(
        "",
        "license of the model, recorded in everything made from it",
        unless_default=True,
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "number format of the weights; auto: that of the file if it is not quantized, else bfloat16",
    )
