"""Which engines exist, by name, and which one opens a model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.inference.protocol import Engine
from hanlin.models.folder.gguf import find_gguf_files

ENGINES = {
    "transformers": "hanlin.inference.backends.transformers.engine:TransformersEngine",
    "llama_cpp": "hanlin.inference.backends.llama_cpp.engine:LlamaCppEngine",
    "llama_server": "hanlin.inference.backends.http.llama_server:LlamaServer",
    "vllm": "hanlin.inference.backends.http.vllm:VllmEngine",
}


FOR_GGUF = {"llama_cpp", "llama_server"}


SEPARATE_PROCESS_ENGINES = {"llama_cpp": "hanlin.inference.backends.llama_cpp.process:LlamaCppProcess"}


_PACKAGE_OF = {"transformers": "transformers", "llama_cpp": "xllamacpp"}


def create_engine(name: str, path: Path, *, separate_process: bool = False, **options: Any) -> Engine:
    """Load the model at `path` into an engine.

    Args:
        name: A name in `ENGINES`, or `auto`: llama.cpp for GGUF files, transformers for everything else.
        path: A model folder, an adapter folder, a GGUF file, or a folder with one GGUF file.
        separate_process: Run an engine that can crash its process in a process of its own, which is restarted if it
            ends.
        **options: Options of the engine, see its class; all take `context_length`.

    Raises:
        UserError: If the engine is unknown, the path holds no model, or the engine's package is not installed.
    """
    if name == "auto":
        name = "llama_cpp" if find_gguf_files(path) else "transformers"
    if name not in ENGINES:
        what = tr("no engine is called {name!r}", name=name)
        raise UserError(what, hint=did_you_mean(name, [*ENGINES, "auto"]))
    module, _, attribute = (
        SEPARATE_PROCESS_ENGINES.get(name, ENGINES[name]) if separate_process else ENGINES[name]
    ).partition(":")
    try:
        engine = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "hanlin" or name not in _PACKAGE_OF:
            raise
        package = _PACKAGE_OF[name]
        what = tr("the engine {name} needs the package {package}", name=name, package=error.name)
        raise UserError(what, hint=f"pip install {package}") from error
    return cast(Engine, engine(path, **options))
