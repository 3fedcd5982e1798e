"""The server process: binds a port or Unix socket, loads the models, runs uvicorn, reloads on SIGHUP, stops on SIGTERM
or Ctrl-C.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import uvicorn
from fastapi import FastAPI

from hanlin.core.errors import UserError, suggest_path
from hanlin.core.i18n import join_list, tr
from hanlin.core.process import kill_descendants
from hanlin.core.text import printable
from hanlin.inference.protocol import Engine
from hanlin.serve.admission import Limits
from hanlin.serve.app import create_app
from hanlin.serve.auth import AccessPolicy, KeyLimits, make_access_policy
from hanlin.serve.loaded_model import EngineConfig, LoadedModel, ModelLoader, parse_adapters, reload_changed
from hanlin.serve.middleware import parse_base_path
from hanlin.serve.registry import ModelRegistry, check_names
from hanlin.serve.transport.connection import make_protocol

_LOG = logging.getLogger(__name__)
_MIN_DRAIN_SECONDS = 0.5
_SECONDS_TO_END = 2.0
"""At the end of the drain time: for engines and threads to end."""
_MAX_LOADED_LATER = 8
"""For so many models there are threads enough at once."""
_MAX_SOCKET_PATH = 103
"""What `sun_path` holds on every system: 108 bytes on Linux, 104 on macOS, with the zero at its end."""


def _print_line(line: str) -> None:
    print(printable(line), flush=True)


def serve(
    models: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    engine: str = "auto",
    adapters: Sequence[str] = (),
    api_keys: Sequence[str] = (),
    key_limits: Mapping[str, KeyLimits] | None = None,
    limits: Limits | None = None,
    allowed_hosts: Sequence[str] = (),
    allowed_origins: Sequence[str] = (),
    base_path: str = "",
    unix_socket: Path | None = None,
    on_ready: Callable[[str], None] = _print_line,
    extend: Callable[[Extension], Sequence[str]] | None = None,
    in_background: bool = False,
    **options: Any,
) -> None:
    """Load models and serve them over HTTP until interrupted.

    SIGTERM and Ctrl-C let the requests in progress end first; SIGHUP loads again what changed on disk.

    Args:
        models: Model folders, adapter folders, or GGUF files (`folder:Q8_0` chooses one), each with an optional
            `NAME=`. Without it clients use the name of the folder or file.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        engine: A name of `inference.registry`, or `auto`.
        adapters: `FOLDER` or `NAME=FOLDER`: adapters served as models of their own over the only model.
        api_keys: Keys of which clients must send one.
        key_limits: Further keys with limits of their own.
        limits: Slots, queue, deadlines and sizes.
        allowed_hosts: Names to answer to beside the machine's own, such as `models.lan` or `*.local`.
        allowed_origins: Origins whose web pages may read answers.
        base_path: Path in front of every route behind a reverse proxy, such as `/hanlin`.
        unix_socket: Listen on a Unix socket of this path instead of `host` and `port`; only its owner may use it.
        on_ready: Called with a line that says where the models are served, and with one for each that is loaded later.
        extend: Adds to the application before it serves, such as the page, and returns lines to say when it does.
        in_background: Serve at once, and load the models meanwhile; there may be none, and more may be loaded later.
        **options: Passed to the engines.

    Raises:
        UserError: a path without a model, two models of one name, a port or socket that is taken, an address that the
            network can reach without a key, or a host, an origin or a base path that is none.
    """
    policy = make_access_policy(
        "localhost" if unix_socket else host,
        api_keys,
        key_limits,
        allowed_hosts=allowed_hosts,
        allowed_origins=allowed_origins,
    )
    base_path = parse_base_path(base_path)
    limits = limits or Limits()
    if adapters and not models:
        raise UserError(
            tr("adapters need the model that they were trained over"), "--adapter", tr("name it by --model")
        )
    if adapters and len(models) > 1:
        raise UserError(tr("adapters can be served over a single model only"), "--adapter")
    engine_config = EngineConfig(engine, options)
    loaded = [LoadedModel(str(spec), parse_adapters(adapters), engine_config, limits) for spec in models]

    def note_length(model: LoadedModel) -> None:
        note_context_length(model.served[0].name, model.served[0].engine, options.get("context_length"))

    later, loaded = (loaded, []) if in_background else ([], loaded)
    with ExitStack() as stack:
        # before the models: a port that is taken should not cost the time to load them
        listener = stack.enter_context(bind_unix_socket(unix_socket) if unix_socket else _bind(host, port))
        check_names([name for model in (*loaded, *later) for name in model.find_names()])
        for model in loaded:
            stack.callback(model.close)
            model.load()
            note_length(model)
        registry = ModelRegistry([served for model in loaded for served in model.served])
        loader = ModelLoader(registry, engine_config, limits, note_length, on_ready)
        stack.callback(loader.close)
        app = create_app(registry, policy, limits, base_path, _MAX_LOADED_LATER if in_background else 0)
        shown_host = f"[{host}]" if ":" in host else host
        address = f"unix:{unix_socket}:" if unix_socket else f"http://{shown_host}:{listener.getsockname()[1]}"
        url = f"{address}{quote(base_path)}"
        lines = list(extend(Extension(app, registry, policy, base_path, url, loader)) if extend is not None else ())
        if loaded:
            names = join_list(registry.by_name)
            lines.insert(0, tr("serving {names} at {url} (stop with Ctrl-C)", names=names, url=f"{url}/v1"))
        config = make_config(app, limits)
        endings = [app.state.end_processes, loader.close, *(model.close for model in loaded)]
        server = DrainingServer(config, limits.drain_seconds, endings)
        gc.collect()
        gc.freeze()  # what is loaded by now: a large body would have all of it scanned for garbage, with the lock held

        async def run() -> None:
            with _reload_on_sighup(loaded, loader, registry):
                for line in lines:
                    on_ready(line)
                for spec in models if in_background else ():
                    loader.load(str(spec), parse_adapters(adapters))
                await server.serve(sockets=[listener])
                # before the loop ends: it waits for threads, and those for the engine
                await asyncio.to_thread(server.end_engines)

        with (
            _ignore_repeated_sigterm(),
            server.end_in_time(),
            asyncio.Runner(loop_factory=config.get_loop_factory()) as runner,
        ):
            runner.run(run())


@dataclass(frozen=True, slots=True)
class Extension:
    """What may be added to before the server serves: the page gets it.

    Attributes:
        app: The application of all APIs.
        models: The models by name.
        policy: Who may use the server.
        base_path: Path in front of every route.
        url: Where the server will be reached, with the base path.
        loader: Loads further models while the server runs.
    """

    app: FastAPI
    models: ModelRegistry
    policy: AccessPolicy
    base_path: str
    url: str
    loader: ModelLoader


def make_config(app: Any, limits: Limits) -> uvicorn.Config:
    """What uvicorn is to do with an application: HTTP within limits, no web sockets, no log."""
    return uvicorn.Config(
        app,
        http=make_protocol(limits),
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(_MIN_DRAIN_SECONDS, limits.drain_seconds - _SECONDS_TO_END),  # type: ignore[arg-type]
    )


class DrainingServer(uvicorn.Server):
    """Ends within a time from the signal that stops it, whatever runs.

    Requests in progress go on until shortly before that time; then the engines are ended, which ends whatever waits
    for them. What is still left at that time (native code that cannot be interrupted, a blocked event loop) ends with
    the process, at once.

    Args:
        config: See `uvicorn.Server`.
        drain_seconds: The time from the signal to the end.
        endings: Each ends an engine and its process.
    """

    def __init__(self, config: uvicorn.Config, drain_seconds: float, endings: Sequence[Callable[[], None]]) -> None:
        super().__init__(config)
        self._drain_seconds, self._endings = drain_seconds, endings
        self._timers: list[threading.Timer] = []
        self._ended = threading.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self._timers:
            for seconds, act in (
                (max(_MIN_DRAIN_SECONDS, self._drain_seconds - _SECONDS_TO_END / 2), self.end_engines),
                (self._drain_seconds, _exit_at_once),
            ):
                timer = threading.Timer(seconds, act)
                timer.daemon = True
                timer.start()
                self._timers.append(timer)
        super().handle_exit(sig, frame)

    def end_engines(self) -> None:
        """Close every engine, one beside the other; harmless when repeated."""
        threads = [threading.Thread(target=end, daemon=True) for end in self._endings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    @contextmanager
    def end_in_time(self) -> Iterator[None]:
        """Let the time hold until the block has ended."""
        try:
            yield
        finally:
            for timer in self._timers:
                timer.cancel()


def _exit_at_once() -> None:
    _LOG.warning("what was left is ended: the time for it has passed")
    kill_descendants()
    os._exit(0)


def note_context_length(name: str, engine: Engine, wanted: int | None) -> None:
    """Say so if a model cannot hold as many tokens as were asked for."""
    if wanted is not None and engine.context_length < wanted:
        _print_line(
            tr(
                "{name}: the context length stays {context_length} tokens, the model's; {wanted} were asked for",
                name=name,
                context_length=engine.context_length,
                wanted=wanted,
            )
        )


@contextmanager
def _reload_on_sighup(loaded: Sequence[LoadedModel], loader: ModelLoader, models: ModelRegistry) -> Iterator[None]:
    """On SIGHUP load again what changed on disk, one reload after the other."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGHUP"):
        yield
        return
    lock = asyncio.Lock()
    tasks: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        async with lock:
            await reload_changed([*loaded, *loader.loaded], models, _print_line)

    def on_sighup() -> None:
        task = asyncio.ensure_future(reload())
        tasks.add(task)  # a task that nothing refers to may be collected
        task.add_done_callback(tasks.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, on_sighup)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@contextmanager
def _ignore_repeated_sigterm() -> Iterator[None]:
    """Uvicorn raises the signal that stopped it once more when all is done; a SIGTERM is no failure then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _bind(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = error.strerror
        what = tr("cannot listen here: {reason}", reason=reason)
        raise UserError(what, f"{host}:{port}", tr("choose another port")) from error


@contextmanager
def bind_unix_socket(path: Path) -> Iterator[socket.socket]:
    """Bind a listening socket at `path`, and remove it at the end.

    A socket that nobody listens on any more is replaced; any other file stays untouched. Whoever may open the socket
    uses the model, so that its mode is 0600; a proxy of another user needs `chgrp` and `chmod` afterwards.

    Raises:
        UserError: the path is too long, taken by another server or another file, or cannot be created.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise UserError(tr("this system has no Unix sockets"), path)
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH:
        limit = _MAX_SOCKET_PATH
        raise UserError(tr("the path of a socket may have at most {limit} bytes", limit=limit), path)
    if not path.parent.is_dir():
        raise UserError(tr("there is no such folder"), path.parent, suggest_path(path.parent), "not_found")
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX) as listener:
        previous = os.umask(0o177)  # from the first moment on: a mode that is set later would leave a gap
        try:
            listener.bind(str(path))
        except OSError as error:
            reason = error.strerror
            raise UserError(tr("cannot listen here: {reason}", reason=reason), path) from error
        finally:
            os.umask(previous)
        listener.listen(socket.SOMAXCONN)
        own = path.stat()
        try:
            yield listener
        finally:
            with suppress(OSError):
                current = path.stat()
                if (current.st_dev, current.st_ino) == (own.st_dev, own.st_ino):  # not another server's by now
                    path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UserError(tr("this is a file, not a socket"), path, tr("choose another path"))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UserError(tr("cannot listen here: {reason}", reason=reason), path) from error
    raise UserError(tr("another server listens here"), path, tr("choose another path"))
