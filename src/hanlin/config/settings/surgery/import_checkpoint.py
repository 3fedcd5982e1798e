"""Settings of `import_checkpoint`."""

from __future__ import annotations

from typing import Literal

from hanlin.config.settings.base import Settings, ref, setting


class ImportCheckpoint(Settings):
    """Make a model folder from Meta's original checkpoint (`consolidated.*.pth`), or from pickled weights (`*.bin`).

    The pickles are read in a process without rights, which runs nothing that is in them; weights keep their bits.
    """

    checkpoint: str = ref(
        "files", description="folder with params.json and consolidated.*.pth, or config.json and pytorch_model*.bin"
    )
    holds: Literal["model", "adapter"] = setting(
        "model",
        "what the folder holds; adapter: adapter_config.json and adapter_model.bin, of which an adapter is made",
        unless_default=True,
    )
    tokenizer: str | None = ref(
        "tokenizer", default=None, description="the tokenizer of the model; none: the one in the checkpoint's folder"
    )
    license: str = setting(
        "",
        "license of the model, recorded in everything made from it",
        unless_default=True,
    )
    dtype: Literal["checkpoint", "float32", "bfloat16", "float16"] = setting(
        "checkpoint",
        "number format of the weights; checkpoint: that of each tensor there",
    )
    context_length: int | None = setting(
        None,
        "context length in tokens, which params.json does not say; none: 131072 with use_scaled_rope, else 8192 if "
        "rope_theta is 500000, 16384 if it is 1000000, else 4096",
        ge=8,
    )
    rope_factor: float | None = setting(
        None,
        "factor of Llama 3.1's rotary scaling, which params.json may leave out; none: 32 for the sizes of Llama 3.2 "
        "(1B, 3B), else 8",
        gt=1,
    )
