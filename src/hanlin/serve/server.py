"""One HTTP server of several models, which speaks OpenAI's, Ollama's and the plain API.

Owns the port, start and end, and what all routes share: hosts, keys, errors, metrics. Does not own any API.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.serve.admission import Limits
from hanlin.serve.app import app
from hanlin.serve.auth import KeyLimits, guard_for
from hanlin.serve.loaded_model import Engines, Seat, named_adapters, reopen
from hanlin.serve.registry import Models

_LOG = logging.getLogger(__name__)


def _announce(line: str) -> None:
    print(line, flush=True)


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
    ready: Callable[[str], None] = _announce,
    **options: Any,
) -> None:
    """Open models and serve them until interrupted. `ready` is told once where; port 0 takes a free one.

    Each of `models` is a model folder, an adapter folder, or GGUF files (`folder:Q8_0` chooses one); clients know it by
    the name of its folder or file, or by NAME of `NAME=PATH`. `adapters` (likewise folders or `NAME=FOLDER`) are models
    of their own over a single one. `options` go to the engines. SIGTERM and Ctrl-C let what is in progress end first;
    SIGHUP opens anew what changed on disk. Raises UserError for a path without a model, two models of one name, a port
    that is taken, and an address that the network can reach without a key.
    """
    guard = guard_for(host, api_keys, key_limits)
    kept = limits or Limits()
    if adapters and len(models) > 1:
        raise UserError(say("adapters are served over one model", "适配器只能与单个模型一起提供"), "--adapter")
    seats = [Seat(str(given), named_adapters(adapters), Engines(engine, options), kept) for given in models]
    with ExitStack() as stack:
        # first: a port that is taken should not cost the loading of a model
        listener = stack.enter_context(_listening(host, port))
        for seat in seats:
            stack.callback(seat.close)
            seat.open()
        shelf = Models([served for seat in seats for served in seat.served])
        config = uvicorn.Config(
            app(shelf, guard, kept),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=max(1, round(kept.drain)),
        )
        server = uvicorn.Server(config)
        shown = f"[{host}]" if ":" in host else host
        at = f"http://{shown}:{listener.getsockname()[1]}/v1"
        names = ", ".join(shelf.all)
        verb = "is" if len(shelf.all) == 1 else "are"
        told = say(f"{names} {verb} served at {at} (Ctrl-C ends)", f"{names} 已在 {at} 提供服务（Ctrl-C 结束）")

        async def run() -> None:
            with _reopening(seats, shelf):
                ready(told)
                await server.serve(sockets=[listener])

        with _terminating_quietly(), asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(run())


@contextmanager
def _reopening(seats: Sequence[Seat], models: Models) -> Iterator[None]:
    """SIGHUP opens anew what changed on disk, one time after another."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGHUP"):
        yield
        return
    turn = asyncio.Lock()
    running: set[asyncio.Task[None]] = set()

    async def reopen_in_turn() -> None:
        async with turn:
            await reopen(seats, models, _announce)

    def asked() -> None:
        task = asyncio.ensure_future(reopen_in_turn())
        running.add(task)
        task.add_done_callback(running.discard)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, asked)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@contextmanager
def _terminating_quietly() -> Iterator[None]:
    """Uvicorn sends itself the signal that ended it once more, when all is done: SIGTERM is no failure then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        what = say(f"cannot listen here: {error.strerror}", f"无法监听：{error.strerror}")
        raise UserError(what, f"{host}:{port}", say("choose another port", "请换一个端口")) from error
