"""One model of the command line with its engine: loaded at the start or later, and again when its files change.

The models that clients can name are `ServedModel`s in the `ModelRegistry`; a `LoadedModel` makes them, one for the
base and one for each adapter, all over one engine.
"""

from __future__ import annotations

import asyncio
import queue
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError, explain_memory_error
from hanlin.core.i18n import Language, language, tr, use_language
from hanlin.inference.loading import (
    LoadedEngine,
    ModelLocation,
    find_model,
    list_model_files,
    load_engine,
    parse_model_spec,
)
from hanlin.models.folder.layout import is_adapter
from hanlin.serve.admission import Limits
from hanlin.serve.registry import ModelRegistry, ServedModel
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

_DRAIN_POLL_SECONDS = 0.05
_FileStamps = tuple[tuple[str, int, int], ...]
"""Of each file: path, size in bytes, modification time in nanoseconds."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The engine that runs models (`auto`, or a name of `inference.registry`) and its own options."""

    name: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


class LoadedModel:
    """A model as the command line named it, with its adapters: they share an engine and an admission queue.

    Args:
        spec: `PATH` or `NAME=PATH`; `folder:Q8_0` chooses a GGUF file.
        adapters: Name to folder of each adapter that is served over this model.
        engine: What runs it.
        limits: Limits of the server.
    """

    def __init__(self, spec: str, adapters: Mapping[str, Path], engine: EngineConfig, limits: Limits) -> None:
        self._name, self._path = split_name(spec)
        self._adapters, self._engine_config, self._limits = adapters, engine, limits
        self._file_stamps: _FileStamps = ()
        self.served: list[ServedModel] = []
        """The base, then each adapter; empty until `load`."""

    def find_names(self) -> list[str]:
        """The names under which the base and each adapter will be served, read from their places alone.

        Raises:
            UserError: as `find_model` does.
        """
        return [self._name or find_model(*parse_model_spec(self._path)).name, *self._adapters]

    def load(self) -> None:
        """Load the files that are on disk now; if that fails, what was loaded before is still served.

        Raises:
            UserError: as `load_engine` does, or for an adapter whose tokenizer differs.
        """
        path, gguf_choice = parse_model_spec(self._path)
        file_stamps = self._read_file_stamps(path, gguf_choice)
        options = {"batch": self._limits.parallel, "separate_process": True, **self._engine_config.options}
        if self._adapters:
            options["adapters"] = self._adapters
        opened = load_engine(path, gguf_choice, self._engine_config.name, **options)
        try:
            base = ServedModel(self._name or opened.location.name, opened, self._limits)
            with_adapters = [
                ServedModel(name, _open_adapter(opened, folder), self._limits, adapter=name, queue=base.queue)
                for name, folder in self._adapters.items()
            ]
        except BaseException:
            opened.engine.close()
            raise
        self.served, self._file_stamps = [base, *with_adapters], file_stamps

    @property
    def is_stale(self) -> bool:
        """Whether the files on disk are others than those that were loaded. Raises UserError as `find_model` does."""
        return self._read_file_stamps(*parse_model_spec(self._path)) != self._file_stamps

    def _read_file_stamps(self, model_path: Path, gguf_choice: str) -> _FileStamps:
        """Of every file that answers depend on: of a GGUF file also the template and the settings beside it."""
        files = list_model_files(find_model(model_path, gguf_choice))
        for folder in self._adapters.values():
            files += [file for file in sorted(folder.iterdir()) if file.is_file()]
        resolved = [(file.resolve(), file.stat()) for file in files]
        return tuple((str(file), status.st_size, status.st_mtime_ns) for file, status in resolved)

    def close(self) -> None:
        for model in self.served[:1]:  # one engine for all of them
            model.engine.close()


async def reload_changed(loaded: Sequence[LoadedModel], models: ModelRegistry, on_event: Callable[[str], None]) -> None:
    """Load again what changed on disk, and close the old engine when its requests are done.

    Slots are reserved on the event loop, and so is the exchange: each request is answered by the old or by the new
    model, none is lost. If a model fails to load, the old one stays.

    Args:
        loaded: The server's models.
        models: Registry in which the new ones replace the old ones.
        on_event: Gets one line for each model that was or was not reloaded.
    """
    for model in loaded:
        old = model.served
        try:
            if not model.is_stale:
                continue
            await asyncio.to_thread(model.load)
        except (UserError, OSError) as error:
            name = old[0].name
            on_event(tr("{name} was not reloaded: {error}", name=name, error=error))
            continue
        models.replace(old, model.served)
        name = model.served[0].name
        on_event(tr("{name} was reloaded", name=name))
        while old[0].queue.running or old[0].queue.waiting:
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        await asyncio.to_thread(old[0].engine.close)


@dataclass(frozen=True, slots=True)
class ModelState:
    """How far a model is that is loaded while the server runs.

    Attributes:
        spec: `PATH` or `NAME=PATH`, as it was asked for.
        names: The names under which it is served, the base's first; known before it is loaded.
        state: What it does; a model that failed may be asked for again.
        problem: Why it failed.
    """

    spec: str
    names: tuple[str, ...]
    state: Literal["waiting", "loading", "ready", "failed"]
    problem: str = ""


class ModelLoader:
    """Loads models into a registry while the server answers, one after the other.

    Args:
        models: Gets the models.
        engine: What runs them.
        limits: Limits of the server.
        on_loaded: Gets each model that is served then.
        on_event: Gets a line for each model that was or was not loaded.
    """

    def __init__(
        self,
        models: ModelRegistry,
        engine: EngineConfig,
        limits: Limits,
        on_loaded: Callable[[LoadedModel], None] = lambda _: None,
        on_event: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._models, self._engine, self._limits = models, engine, limits
        self._on_loaded, self._on_event = on_loaded, on_event
        self._states: dict[str, ModelState] = {}
        self._waiting: queue.SimpleQueue[tuple[str, LoadedModel, Language]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self.loaded: list[LoadedModel] = []
        """Those that are served, for whoever loads changed ones again."""

    @property
    def states(self) -> list[ModelState]:
        """The models that were asked for, in their order."""
        return list(self._states.values())

    def load(self, spec: str, adapters: Mapping[str, Path] | None = None) -> ModelState:
        """Ask for a model; it is loaded after those that were asked for before it.

        Args:
            spec: `PATH` or `NAME=PATH`; asking again for one that is loading or ready does nothing.
            adapters: Name to folder of each adapter that is served over it.

        Raises:
            UserError: There is no model at the path, or another one has its name.
        """
        model = LoadedModel(spec, adapters or {}, self._engine, self._limits)
        names = tuple(model.find_names())
        with self._lock:
            known = self._states.get(spec)
            if known is not None and known.state != "failed":
                return known
            taken = [*self._models.by_name, *(name for state in self._unloaded() for name in state.names)]
            if duplicate := next((name for name in names if name in taken), None):
                what = tr("another model is called {duplicate}", duplicate=duplicate)
                raise UserError(what, spec, tr("give names: NAME=PATH"))
            state = self._states[spec] = ModelState(spec, names, "waiting")
            self._waiting.put((spec, model, language()))
            if self._thread is None:
                self._thread = threading.Thread(target=self._load_waiting, name="model-loader", daemon=True)
                self._thread.start()
        return state

    def _unloaded(self) -> Sequence[ModelState]:
        return [state for state in self._states.values() if state.state in ("waiting", "loading")]

    def _load_waiting(self) -> None:
        while True:
            spec, model, spoken = self._waiting.get()
            names = self._states[spec].names
            self._states[spec] = ModelState(spec, names, "loading")
            try:
                with use_language(spoken):
                    model.load()
                    self._serve(model)
            except Exception as error:
                explained = error if isinstance(error, UserError) else explain_memory_error(error, spec)
                problem = str(explained) if explained else f"{type(error).__name__}: {error}"
                self._states[spec] = ModelState(spec, names, "failed", problem)
                self._on_event(tr("{name} was not loaded: {problem}", name=names[0], problem=problem))
            else:
                self._states[spec] = ModelState(spec, names, "ready")
                self._on_loaded(model)
                self._on_event(tr("{name} is loaded", name=names[0]))

    def _serve(self, model: LoadedModel) -> None:
        with self._lock:
            if self._is_closed:
                model.close()
                return
            try:
                self._models.add(model.served)
            except UserError:
                model.close()
                raise
            self.loaded.append(model)

    def close(self) -> None:
        """Close the engines; harmless when repeated. One that is being loaded is closed when it is there."""
        with self._lock:
            self._is_closed = True
            closing = list(self.loaded)
        for model in closing:
            model.close()


def split_name(spec: str) -> tuple[str, str]:
    """`NAME=PATH` as (name, path); a path that exists as it is written has the name ''."""
    match = re.fullmatch(r"([\w.:-]+)=(.+)", spec)
    if match is None or Path(spec).expanduser().exists():
        return "", spec
    return match[1], match[2]


def parse_adapters(specs: Sequence[str]) -> dict[str, Path]:
    """Adapter folders by name, from `NAME=FOLDER` or `FOLDER` (named by its last part).

    Raises:
        UserError: a folder that is no adapter, or two of one name.
    """
    adapters: dict[str, Path] = {}
    for spec in specs:
        name, path = split_name(spec)
        folder = Path(path).expanduser()
        name = name or folder.absolute().name
        if not is_adapter(folder):
            raise UserError(tr("there is no adapter here"), folder)
        if name in adapters:
            raise UserError(tr("two adapters are called {name}", name=name), "--adapter")
        adapters[name] = folder
    return adapters


def _open_adapter(base: LoadedEngine, folder: Path) -> LoadedEngine:
    """The base's engine with the tokenizer and template in the adapter's folder, or the base's if it has none."""
    if not any((folder / name).is_file() for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE)):
        return base
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) != len(base.tokenizer):
        what = tr(
            "the adapter's tokenizer has {count} tokens, the base model's {base_count}",
            count=len(tokenizer),
            base_count=len(base.tokenizer),
        )
        raise UserError(what, folder)
    ChatTemplate.load(folder, tokenizer)
    return LoadedEngine(base.engine, tokenizer, ModelLocation(base.location.weights, folder, "adapter"))
