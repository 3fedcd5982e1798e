"""The process that runs llama.cpp's own server on a GGUF file until its parent closes its input.

It is a process of its own because the server's threads survive a fork badly, and because a template that crashes
llama.cpp must not end an export.
"""

from __future__ import annotations

import sys


def main() -> None:
    """`python -m hanlin.parity.backends.llama_cpp_server FILE`: read the key, print the address, serve until the input
    ends.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.api_keys = [sys.stdin.readline().strip()]
    params.default_template_kwargs = {"preserve_reasoning": "true"}  # what the program `llama-server` sets by itself
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
    params.warmup, params.use_jinja, params.port, params.verbosity = False, True, 0, -1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
