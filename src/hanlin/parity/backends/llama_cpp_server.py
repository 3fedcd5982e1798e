"""The process that runs llama.cpp's own server on a GGUF file until its parent closes its input.

It is a process of its own because the server's threads survive a fork badly, and because a template that crashes
llama.cpp must not end an export.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from hanlin.core.errors import UserError
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel


def main() -> None:
    """`python -m hanlin.parity.backends.llama_cpp_server FILE`: read the key, print the address and the ids that
    end an answer, or why the file is refused, and serve until the input ends.
    """
    import xllamacpp

    key = sys.stdin.readline().strip()
    try:
        model = LlamaCppModel(Path(sys.argv[1]), vocabulary_only=True)
        end_ids = sorted(model.end_ids)
        model.close()
    except UserError as error:
        print(json.dumps({"refused": [error.what, error.where, error.hint]}), flush=True)
        return
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.api_keys = [key]
    params.default_template_kwargs = {"preserve_reasoning": "true"}  # what the program `llama-server` sets by itself
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
    params.warmup, params.use_jinja, params.port, params.verbosity = False, True, 0, -1
    server = xllamacpp.Server(params)
    try:
        print(json.dumps({"address": server.listening_address, "end_ids": end_ids}), flush=True)
        sys.stdin.read()
    finally:  # the parent may have been killed; the end of the server waits for its listening thread, without end
        os._exit(0)


if __name__ == "__main__":
    main()
