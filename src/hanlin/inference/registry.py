"""Which engines exist, by name, and which one opens a model."""

from __future__ import annotations

import importlib
import inspect
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


SEPARATE_PROCESS_ENGINES = {"llama_cpp", "transformers"}
"""Those that compute in the process that opens them, and can do it in one of their own instead."""


ENGINE_PROCESS = "hanlin.inference.backends.process.engine:EngineProcess"


_PACKAGE_OF = {"transformers": "transformers", "llama_cpp": "xllamacpp"}


def create_engine(name: str, path: Path, *, separate_process: bool = False, **options: Any) -> Engine:
    """Load the model at `path` into an engine.

    Args:
        name: A name in `ENGINES`, or `auto`: llama.cpp for GGUF files, transformers for everything else.
        path: A model folder, an adapter folder, a GGUF file, or a folder with one GGUF file.
        separate_process: Run an engine that would compute in this process in one of its own, which is restarted if it
            ends or does not answer.
        **options: Options of the engine, see its class; all take `context_length`.

    Raises:
        UserError: If the engine is unknown, the path holds no model, or the engine's package is not installed.
    """
    if name == "auto":
        name = "llama_cpp" if find_gguf_files(path) else "transformers"
    if name not in ENGINES:
        what = tr("no engine is called {name!r}", name=name)
        raise UserError(what, hint=did_you_mean(str(name), [*ENGINES, "auto"]))
    if separate_process and name in SEPARATE_PROCESS_ENGINES:
        module, _, attribute = ENGINE_PROCESS.partition(":")
        return cast(Engine, getattr(importlib.import_module(module), attribute)(name, path, **options))
    module, _, attribute = ENGINES[name].partition(":")
    try:
        engine = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "hanlin" or name not in _PACKAGE_OF:
            raise
        package = _PACKAGE_OF[name]
        what = tr("the engine {name} needs the package {package}", name=name, package=error.name)
        raise UserError(what, hint=f"pip install {package}") from error
    parameters = inspect.signature(engine).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for option in options:
        if option not in known and not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            what = tr("the engine {name} has no option '{option}'", name=name, option=option)
            raise UserError(what, hint=did_you_mean(option, known))
    context_length = options.get("context_length")
    if context_length is not None and (not isinstance(context_length, int) or context_length < 0):
        what = tr("{name} must be an integer, 0 or more, not {value!r}", name="context_length", value=context_length)
        raise UserError(what)
    return cast(Engine, engine(path, **options))
