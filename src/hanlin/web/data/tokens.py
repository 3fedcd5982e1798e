"""A record's tokens as a model's template makes them: whose turn each is part of, and whether it carries loss."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.core.discover import RECORD_KINDS
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import tr
from hanlin.core.names import show_name
from hanlin.core.records import Conversation, Document, Message, Preference, UnpairedPreference
from hanlin.pipeline.artifacts import Store
from hanlin.web.links import read_links

if TYPE_CHECKING:
    from hanlin.chat.inspect import ExampleView
    from hanlin.chat.template import ChatTemplate
    from hanlin.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 4_000
"""Tokens of a record that are shown."""
MAX_TURNS = 60
"""Turns of a conversation whose tokens are told apart; of a longer one only what carries loss is shown."""
_OPENED = 4
_CLASSES: dict[str, Any] = {kind.kind: kind for kind in (Document, Conversation, Preference, UnpairedPreference)}


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token: its printable form, what is told of it, whose turn it is in (empty if that is not known)."""

    shown: str
    title: str
    role: str
    learned: bool
    special: bool
    ends_line: bool


@dataclass(frozen=True, slots=True)
class TokenPart:
    """A training example of a record; `part` is `chosen`, `rejected`, `good`, `bad` or empty."""

    part: str
    tokens: tuple[TokenRow, ...]
    num_tokens: int
    num_learned: int
    characters_per_token: float

    @property
    def hidden(self) -> int:
        return self.num_tokens - len(self.tokens)


@dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """A folder with a tokenizer that can be chosen: its path below the page's folder, and what it is called."""

    path: str
    title: str


def list_tokenizers(store: Store) -> list[TokenizerChoice]:
    """The folders of tokenizers and models in the page's folder: of runs by their stages, and those in `models/`."""
    home = store.home.resolve()
    found: dict[Path, str] = {}
    for artifact, ((run, stage), *_) in read_links(store).by_artifact().items():
        folder = (store.artifacts / artifact).resolve()
        if folder.parent == store.artifacts.resolve() and _has_tokenizer(folder):
            found[folder] = f"{run} / {stage}"
    found = dict(sorted(found.items(), key=lambda item: item[1]))
    models = home / "models"
    for folder in sorted(models.iterdir()) if models.is_dir() else []:
        if folder.is_dir() and not folder.is_symlink() and _has_tokenizer(folder):
            found.setdefault(folder, folder.name)
    return [
        TokenizerChoice(folder.relative_to(home).as_posix(), title)
        for folder, title in found.items()
        if folder.is_relative_to(home)
    ]


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.json.gz", "tokenizer.model"))


class TokenDesk:
    """Opens tokenizers with their templates, and keeps the last few."""

    def __init__(self) -> None:
        self._opened: OrderedDict[tuple[Path, str], tuple[Tokenizer, ChatTemplate | None]] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, folder: Path, template: str, needs_template: bool) -> tuple[Tokenizer, ChatTemplate | None]:
        """A tokenizer and the chat template to render with.

        Args:
            folder: The folder of a model or tokenizer.
            template: The name of a packaged template; empty for the folder's own.
            needs_template: False for documents, which have none.

        Raises:
            UserError: There is no tokenizer, or no such template, or they do not fit.
        """
        from hanlin.chat.template import ChatTemplate
        from hanlin.tokenizer.tokenizer import Tokenizer

        if template and template not in (names := packaged_templates()):
            what = tr("no chat template '{name}'", name=show_name(template)[1:-1])
            raise UserError(what, None, did_you_mean(template, names))
        name = (folder, template if needs_template else "-")
        with self._lock:
            if name in self._opened:
                self._opened.move_to_end(name)
                return self._opened[name]
        tokenizer = Tokenizer.load(folder)
        chosen: ChatTemplate | None = None
        if needs_template:
            chosen = (
                ChatTemplate.from_packaged(template, tokenizer) if template else ChatTemplate.load(folder, tokenizer)
            )
        with self._lock:
            self._opened[name] = (tokenizer, chosen)
            while len(self._opened) > _OPENED:
                self._opened.popitem(last=False)
        return tokenizer, chosen

    def parts(self, kind: str, row: Mapping[str, Any], folder: Path, template: str) -> list[TokenPart]:
        """The training examples of a record, token by token.

        Args:
            kind: The kind of the record.
            row: The record as its artifact has it.
            folder: The folder of a model or tokenizer.
            template: The name of a packaged template; empty for the folder's own.

        Raises:
            UserError: The row is no record of the kind, or the template refuses it; or as `open`.
        """
        from hanlin.chat.examples import training_turns
        from hanlin.chat.inspect import view_record

        record = read_record(kind, row)
        tokenizer, chosen = self.open(folder, template, kind != "documents")
        turns = {} if chosen is None else dict(training_turns(record))
        tools = getattr(record, "tools", ())
        parts = []
        for view in view_record(record, tokenizer, chosen):
            messages = turns.get(view.part, ())
            roles = [""] * view.num_tokens
            if chosen is not None and 0 < len(messages) <= MAX_TURNS:
                roles = _roles(view, messages, tools, chosen)
            parts.append(
                TokenPart(
                    view.part,
                    tuple(_rows(view, roles)),
                    view.num_tokens,
                    view.num_learned,
                    view.characters_per_token,
                )
            )
        return parts


def read_record(kind: str, row: Mapping[str, Any]) -> Any:
    """The record of a row. Raises UserError if it is none of the kind."""
    assert kind in RECORD_KINDS
    try:
        return _CLASSES[kind].from_json(row)
    except (KeyError, TypeError, AttributeError) as error:
        what = tr("not a record of `{kind}`: {error}", kind=kind, error=error)
        raise UserError(what, str(row.get("id", ""))) from error


def packaged_templates() -> list[str]:
    """The names of the chat templates that are packaged with Hanlin."""
    from hanlin.chat.packaged import packaged_names

    return list(packaged_names())


def _rows(view: ExampleView, roles: Sequence[str]) -> Iterator[TokenRow]:
    for token, role in zip(view.tokens[:MAX_TOKENS], roles, strict=False):
        title = f"id {token.id} · {token.text} · {token.data.hex(' ')}"
        yield TokenRow(token.shown, title, role, token.learned, token.special, token.ends_line)


def _roles(
    view: ExampleView, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], template: ChatTemplate
) -> list[str]:
    """The role of the turn that each token is part of.

    Of each turn: what the template writes for the turns up to it is as long as its last token is far. Where a template
    rewrites earlier turns, the part that both have in common counts.
    """
    ids = [token.id for token in view.tokens]
    roles = [""] * len(ids)
    begin = 0
    for count, message in enumerate(messages, start=1):
        try:
            rendered = template.render_unshielded(messages[:count], tools).ids
        except UserError:  # a template that refuses turns without their end
            continue
        end = len(ids) if count == len(messages) else _common_length(ids, rendered)
        if end > begin:
            roles[begin:end] = [message.role] * (end - begin)
            begin = end
    return roles


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
