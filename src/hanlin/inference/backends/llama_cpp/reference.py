"""What llama.cpp makes of a GGUF file, as a reference to compare with: for a child process, since a file of others may
end it (`core.process.run_bounded`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hanlin.core.errors import UserError
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.inference.decoder import BatchItem

_ONE_THREAD_BYTES = 1 << 30


def compute_reference(request: dict[str, Any]) -> dict[str, Any]:
    """Tokenize texts, and compute the logits of the first of them.

    Args:
        request: `file`; `texts`; `compared`, of how many texts logits are computed; `begin`, the ids set before each of
            these; `length`, how many ids of each at most; `logits`, a file to write them to: float32
            [positions, vocabulary], the texts one after another.

    Returns:
        `ids` of each text; `prompts`, the ids of the compared ones; `end_ids`; or `refusal`, why the file cannot be
        loaded.
    """
    try:
        return _compute(request)
    except UserError as error:
        return {"refusal": error.what}


def _compute(request: dict[str, Any]) -> dict[str, Any]:
    model = LlamaCppModel(Path(request["file"]))
    ids = [model.tokenize(text) for text in request["texts"]]
    prompts = [[*request["begin"], *row][: request["length"]] for row in ids[: request["compared"]]]
    prompts = [prompt for prompt in prompts if prompt]
    # threads that wait for one another beside other processes cost far more than they save on a few hundred tokens
    threads = 1 if model.bytes < _ONE_THREAD_BYTES else None
    kv_cache = model.new_kv_cache(sequences=1, length=request["length"], cache_type="f32", threads=threads)
    rows = []
    for prompt in prompts:
        kv_cache.truncate(0, 0)
        (logits,) = kv_cache.decode([BatchItem(0, 0, prompt, range(len(prompt)))])
        rows.append(np.array(logits))
    np.save(request["logits"], np.concatenate(rows))
    return {"ids": ids, "prompts": prompts, "end_ids": sorted(model.end_ids)}
