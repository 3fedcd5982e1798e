"""The backends by name, and which one opens a model."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.models.folder.gguf import find_gguf_files

if TYPE_CHECKING:
    pass
from hanlin.inference.protocol import Engine

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
    """Load what lies at `path` into an engine: a name of `ENGINES`, or `auto` (GGUF goes to llama.cpp, what is no GGUF
    to transformers).

    `path` is a model folder, an adapter folder, a GGUF file, or a folder that holds one GGUF file. With `separate_process`, an
    engine that can bring down its process gets one of its own, and is started again when that has ended. `options` are
    the engine's own (see its class); all take `context_length`. Raises UserError for an unknown engine, for a path
    that holds no model, and for an engine whose package is not installed.
    """
    if name == "auto":
        name = "llama_cpp" if find_gguf_files(path) else "transformers"
    if name not in ENGINES:
        what = say(f"no engine is called {name!r}", f"没有名为 {name!r} 的引擎")
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
        what = say(f"the engine {name} needs the package {error.name}", f"引擎 {name} 需要软件包 {error.name}")
        raise UserError(what, hint=f"pip install {package}") from error
    return cast(Engine, engine(path, **options))
