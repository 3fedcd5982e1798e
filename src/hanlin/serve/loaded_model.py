"""What a server was told to serve, as it was named: opened at the start, and opened anew when what lies there changed.

Owns the engines' opening and closing. Does not own requests (`models`) or the port (`server`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.loading import LoadedEngine, ModelLocation, load_engine, parse_model_spec
from hanlin.models.folder.layout import is_adapter
from hanlin.serve.admission import Limits
from hanlin.serve.registry import Models, Served
from hanlin.tokenizer.file_names import SENTENCEPIECE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

_SECONDS_BETWEEN_LOOKS = 0.05
_Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class Engines:
    """Which engine opens models, with the options of its own."""

    name: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)


class Seat:
    """One model as it was named on the command line, with its adapters: they share an engine and a door."""

    def __init__(self, given: str, adapters: Mapping[str, Path], engines: Engines, limits: Limits) -> None:
        self._name, self._path = name_and_path(given)
        self._adapters, self._engines, self._limits = adapters, engines, limits
        self._stamp: _Stamp = ()
        self.served: list[Served] = []

    def open(self) -> None:
        """Raises UserError as `load_engine` does; what was open before stays."""
        path, choice = parse_model_spec(self._path)
        stamp = self._look(path)
        options = {"batch": self._limits.parallel, "apart": True, **self._engines.options}
        if self._adapters:
            options["adapters"] = self._adapters
        opened = load_engine(path, choice, self._engines.name, **options)
        try:
            base = Served(self._name or opened.location.name, opened, self._limits)
            with_adapters = [
                Served(name, _of_adapter(opened, folder), self._limits, adapter=name, door=base.door)
                for name, folder in self._adapters.items()
            ]
        except BaseException:
            opened.engine.close()
            raise
        self.served, self._stamp = [base, *with_adapters], stamp

    @property
    def changed(self) -> bool:
        """Whether other files lie there than those that were opened."""
        return self._look(parse_model_spec(self._path)[0]) != self._stamp

    def _look(self, path: Path) -> _Stamp:
        seen = []
        for place in (path, *self._adapters.values()):
            files = sorted(place.resolve().iterdir()) if place.is_dir() else [place.resolve()]
            for file in files:
                if file.is_file():
                    status = file.stat()
                    seen.append((str(file), status.st_size, status.st_mtime_ns))
        return tuple(seen)

    def close(self) -> None:
        for served in self.served[:1]:
            served.engine.close()


async def reopen(seats: Sequence[Seat], models: Models, tell: Callable[[str], None]) -> None:
    """Open anew what changed and put it in place of what was there, which ends what it has begun and is closed then.

    Requests are booked on the event loop, as the exchange is: each is answered by the one or by the other. A model
    that does not open leaves the old one where it is.
    """
    for seat in seats:
        before = seat.served
        try:
            if not seat.changed:
                continue
            await asyncio.to_thread(seat.open)
        except (UserError, OSError) as error:
            name = before[0].name
            tell(say(f"{name} stays as it was: {error}", f"{name} 保持原样：{error}"))
            continue
        models.replace(before, seat.served)
        tell(say(f"{seat.served[0].name} was opened anew", f"已重新加载 {seat.served[0].name}"))
        while before[0].door.answering or before[0].door.waiting:
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        await asyncio.to_thread(before[0].engine.close)


def name_and_path(given: str) -> tuple[str, str]:
    """`NAME=PATH` in its parts; a path that exists as it stands has no name."""
    match = re.fullmatch(r"([\w.:-]+)=(.+)", given)
    if match is None or Path(given).expanduser().exists():
        return "", given
    return match[1], match[2]


def named_adapters(given: Sequence[str]) -> dict[str, Path]:
    """`NAME=FOLDER`s, or folders that give their own names. Raises UserError for what is none, or a name twice."""
    found: dict[str, Path] = {}
    for text in given:
        name, path = name_and_path(text)
        folder = Path(path).expanduser()
        name = name or folder.absolute().name
        if not is_adapter(folder):
            raise UserError(say("there is no adapter here", "这里没有适配器"), folder)
        if name in found:
            raise UserError(say(f"two adapters are called {name}", f"有两个适配器同名：{name}"), "--adapter")
        found[name] = folder
    return found


def _of_adapter(opened: LoadedEngine, folder: Path) -> LoadedEngine:
    """The base's engine with the tokenizer and template that lie beside the adapter, or else the base's."""
    if not any((folder / name).is_file() for name in (TOKENIZER_FILE, SENTENCEPIECE_FILE)):
        return opened
    tokenizer = Tokenizer.load(folder)
    if len(tokenizer) != len(opened.tokenizer):
        what = say(
            f"its tokenizer has {len(tokenizer)} entries, the base's {len(opened.tokenizer)}",
            f"其分词器有 {len(tokenizer)} 项，底座的有 {len(opened.tokenizer)} 项",
        )
        raise UserError(what, folder)
    ChatTemplate.load(folder, tokenizer)
    return LoadedEngine(opened.engine, tokenizer, ModelLocation(opened.location.weights, folder, "adapter"))
