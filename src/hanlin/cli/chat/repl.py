"""The chat in the terminal: answers appear as they are generated, commands begin with a slash, sessions are saved."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hanlin.chat.reasoning import assistant_message
from hanlin.cli.chat.backends import ChatBackend, OnText, ReplyStats, open_backend
from hanlin.cli.output import echo_data
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import expand_home, parse_json, partial_path
from hanlin.core.i18n import tr
from hanlin.core.names import check_name
from hanlin.core.records import Message
from hanlin.core.signals import own_interrupts

ReadLine = Callable[[str], str]
LAST_SESSION = "last"
_END_COMMANDS = ("/quit", "/bye", "/exit")
"""`/bye` and `/exit` are what users of Ollama and of shells type."""


class ChatSession:
    """A conversation with a backend: the messages so far, saved in a file after every turn if there is one.

    Args:
        backend: What answers.
        system: System text; empty: none.
        file: The session's file.
    """

    def __init__(self, backend: ChatBackend, system: str = "", file: Path | None = None) -> None:
        self._backend, self._file = backend, file
        self._system: tuple[Message, ...] = (Message("system", system),) if system else ()
        self.messages: tuple[Message, ...] = self._system
        self.dropped_turns = 0
        self.stats: ReplyStats | None = None
        self.interrupted = False
        """Whether Ctrl-C ended the last answer."""
        self._attempt = 0

    @property
    def system(self) -> str:
        return self._system[0].text if self._system else ""

    def set_system(self, text: str) -> None:
        """Replace the system text, or take it away if `text` is empty; the other turns stay."""
        rest = self.messages[len(self._system) :]
        self._system = (Message("system", text),) if text else ()
        self.messages = (*self._system, *rest)
        self._save_session()

    def reset(self) -> None:
        """Forget every turn but the system text."""
        self.messages = self._system
        self.dropped_turns = 0
        self.stats = None
        self._save_session()

    def send(self, text: str, on_text: OnText) -> str:
        """Send a message and return the answer, as far as it came if it is interrupted.

        Args:
            text: The message.
            on_text: Called with each piece of the answer.

        Raises:
            UserError: The message does not fit the context, or the server does not answer; the conversation is
                unchanged.
        """
        self._attempt = 0
        return self._answer((*self.messages, Message("user", text)), on_text)

    def undo(self) -> str | None:
        """Take back the last question with its answer; return the question, or None if there is none."""
        index = self._last_question()
        if index is None:
            return None
        question = self.messages[index].text
        self.messages = self.messages[:index]
        self.stats = None
        self._save_session()
        return question

    def retry(self, on_text: OnText) -> str | None:
        """Answer the last question again in place of the old answer; None if there is no question."""
        index = self._last_question()
        if index is None:
            return None
        self._attempt += 1
        return self._answer(self.messages[: index + 1], on_text)

    def _last_question(self) -> int | None:
        """The index of the last message of the user."""
        return max((index for index, message in enumerate(self.messages) if message.role == "user"), default=None)

    def describe_tokens(self) -> str:
        """How many tokens the conversation has, in a sentence."""
        return self._backend.describe_tokens(self.messages)

    def set_thinking(self, on: bool) -> None:
        """Turn the thinking of the next answers on or off. Raises UserError if the model has no switch for it."""
        self._backend.set_thinking(on)

    def save(self, path: Path) -> None:
        """Write the conversation to a new file, a line of JSON Lines that `hanlin conversations` reads.

        Raises:
            UserError: There is such a file, or no such folder.
        """
        row = {"id": path.stem, "messages": [message.to_json() for message in self.messages]}
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except FileExistsError as error:
            raise UserError(tr("already exists"), path, code="exists") from error
        except OSError as error:
            raise UserError(tr("cannot be written: {strerror}", strerror=error.strerror), path) from error

    def resume(self) -> int:
        """Load the session's file if there is one; return the number of turns.

        Raises:
            UserError: The file holds something else.
        """
        assert self._file is not None
        if not self._file.exists():
            return 0
        try:
            row = parse_json(self._file.read_text(encoding="utf-8"))
            messages = tuple(Message.from_json(turn) for turn in row["messages"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(tr("not a saved conversation"), self._file) from error
        system = tuple(message for message in messages[:1] if message.role == "system")
        if not self._system:
            self._system = system
        self.messages = (*self._system, *messages[len(system) :])
        return len(messages) - len(system)

    def _answer(self, messages: tuple[Message, ...], on_text: OnText) -> str:
        reply = self._backend.answer(messages, on_text, self._attempt)
        self.messages = (*reply.messages, assistant_message(reply.text))
        self.dropped_turns += reply.dropped
        self.stats, self.interrupted = reply.stats, reply.interrupted
        self._save_session()
        return reply.text

    def _save_session(self) -> None:
        """Write the session's file at once or not at all; only its owner may read it.

        Raises:
            UserError: The file cannot be written.
        """
        if self._file is None:
            return
        row = {"messages": [message.to_json() for message in self.messages]}
        partial = partial_path(self._file, shared=True)  # two chats may be the last one
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                json.dump(row, file, ensure_ascii=False)
            os.replace(partial, self._file)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise _not_saved(self._file, error) from error


def state_folder() -> Path:
    """Where sessions and typed lines are saved: the state folder of the XDG base directory specification."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # the specification has a relative one passed over: it would be another folder in each working folder
    return (Path(base) if os.path.isabs(base) else expand_home(Path("~/.local/state"))) / "hanlin"


def session_file(name: str) -> Path:
    """A session's file: `name` itself if it looks like a path, else the file of that name in the state folder."""
    path = expand_home(Path(name))
    if path.suffix == ".json" or len(path.parts) > 1:
        return path
    return state_folder() / "chats" / f"{check_name(name, tr('the name of a conversation'), '--session')}.json"


def _not_saved(file: Path, error: OSError) -> UserError:
    hint = tr("name another folder in XDG_STATE_HOME, or a file with --session")
    return UserError(tr("the conversation cannot be saved: {reason}", reason=error.strerror), file, hint)


def find_save_problem(file: Path) -> UserError | None:
    """Why a session's file cannot be written; None if it can. Its folder is made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(file.parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        return _not_saved(file, error)
    return None


def _typed_lines() -> Path | None:
    """The file of what was typed before; None if there is no folder for it."""
    try:
        return state_folder() / "typed"
    except UserError:
        return None


def _open_session(name: str) -> tuple[Path | None, UserError | None]:
    """The file of a session, or why there can be none."""
    try:
        file = session_file(name)
    except UserError as error:
        if name != LAST_SESSION:  # the name is wrong
            raise
        return None, error
    return file, find_save_problem(file)


def run_chat(
    model: str | Path,
    *,
    engine: str = "auto",
    system: str | None = None,
    once: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    truncate: bool = False,
    session: str = "",
    resume: bool = False,
    name: str = "",
    api_key: str = "",
    read_line: ReadLine | None = None,
    write: OnText | None = None,
    **options: Any,
) -> None:
    """Chat with a model until `/quit` or the end of input.

    Args:
        model: A model folder, an adapter, GGUF files, or the address of a server.
        engine: The engine of a local model, or `auto`.
        system: System text.
        once: Answer this message and return.
        sampling: Fields of `SamplingParams`; the others are those of the model's generation settings.
        truncate: A message that is too long loses its end.
        session: Name or file of a saved conversation to continue; without one, the conversation is saved as the last.
        resume: Continue the last conversation.
        name: Which of a server's models.
        api_key: The server's key.
        read_line: Shows a prompt and returns a line; by default the line editor.
        write: Writes text; by default to standard output.
        options: Options of the engine.

    Raises:
        UserError: There is no model, the server does not answer, or the message of `once` does not fit.
    """
    write = write or _write
    backend = open_backend(
        str(model),
        engine=engine,
        sampling={"max_new_tokens": 512, **(sampling or {})},
        truncate=truncate,
        name=name,
        api_key=api_key,
        **options,
    )
    try:
        if once is not None:
            single = ChatSession(backend, system or "")
            single.send(once, write)
            write("\n")
            if single.interrupted:
                raise KeyboardInterrupt
            return
        file, problem = _open_session(session or LAST_SESSION)
        if problem is not None:
            if session or resume:
                raise problem
            write(f"{problem}\n")  # the chat goes on without being saved
            file = None
        conversation = ChatSession(backend, system or "", file)
        turns = conversation.resume() if session or resume else 0
        model_name = backend.name
        write(tr("{model_name}: /help lists the commands, /quit ends\n", model_name=model_name))
        if turns:
            write(tr("(continuing after {turns} turns)\n", turns=turns))
        typed = read_line is not None or sys.stdin.isatty()
        if read_line is None:
            from hanlin.cli.chat.editor import make_editor

            read_line = make_editor(
                _typed_lines(),
                [*_commands(), *_END_COMMANDS[1:]],
                lambda: describe_stats(conversation.stats),
            )
        # where somebody types, Ctrl-C ends an answer; a pipe has nobody who goes on after it
        with own_interrupts() if typed else nullcontext():
            _loop(conversation, read_line, write, typed)
    finally:
        backend.close()


# --- commands ---------------------------------------------------------------------------------------------------------


def _commands() -> dict[str, str]:
    """The slash commands and what they do."""
    return {
        "/help": tr("list the commands"),
        "/system": tr("show the system text; with a text, set it (`-` for none)"),
        "/undo": tr("take back the last question and its answer"),
        "/retry": tr("answer the last question again"),
        "/save": tr("FILE: write the conversation as a line of JSON"),
        "/tokens": tr("show how long the conversation is"),
        "/think": tr("on | off: whether the next answers think"),
        "/reset": tr("forget the conversation"),
        "/quit": tr("end (also /bye and /exit)"),
    }


def describe_stats(stats: ReplyStats | None) -> str:
    """The figures of the last answer for the bar below the line; empty before the first."""
    if stats is None:
        return ""
    parts = [tr("{count} tokens", count=stats.total_tokens)]
    if stats.tokens_per_second is not None:
        parts.append(tr("{speed:.1f} tokens/s", speed=stats.tokens_per_second))
    if stats.context_left is not None:
        parts.append(tr("{left} left", left=stats.context_left))
    return " · ".join([*parts, "/help"])


def _loop(conversation: ChatSession, read_line: ReadLine, write: OnText, typed: bool) -> None:
    while True:
        try:
            text = read_line("> ").strip()
        except (EOFError, KeyboardInterrupt) as error:
            write("\n")
            if isinstance(error, KeyboardInterrupt) and not typed:
                raise
            return
        except UserError as error:
            write(f"{error}\n")
            continue
        if not text:
            continue
        dropped_before = conversation.dropped_turns
        try:
            if text.startswith("//"):
                text = text[1:]  # a message that begins with a slash
            elif text.startswith("/"):
                if not _run_command(conversation, text, write):
                    return
                continue
            conversation.send(text, write)
        except UserError as error:
            write(f"{error}\n")
            continue
        write("\n")
        if conversation.interrupted and not typed:
            raise KeyboardInterrupt
        _report_dropped(conversation, dropped_before, write)


def _run_command(conversation: ChatSession, text: str, write: OnText) -> bool:
    """Run a slash command; False if it ends the chat.

    Raises:
        UserError: The command is unknown or fails.
    """
    name, _, argument = text.partition(" ")
    argument = argument.strip()
    if name in _END_COMMANDS:
        return False
    if name == "/help":
        write("".join(f"  {command:<9}{summary}\n" for command, summary in _commands().items()))
        write(tr("  //text sends a message that begins with a slash\n"))
    elif name == "/reset":
        conversation.reset()
        write(tr("forgotten\n"))
    elif name == "/system":
        if argument:
            conversation.set_system("" if argument == "-" else argument)
        write((conversation.system or tr("(no system text)")) + "\n")
    elif name == "/undo":
        question = conversation.undo()
        if question is None:
            write(tr("nothing to undo\n"))
        else:
            write(tr("undone: {question}\n", question=question))
    elif name == "/retry":
        dropped_before = conversation.dropped_turns
        if conversation.retry(write) is None:
            write(tr("there is no question yet"))
        write("\n")
        _report_dropped(conversation, dropped_before, write)
    elif name == "/tokens":
        write(conversation.describe_tokens() + "\n")
    elif name == "/think":
        if argument not in ("on", "off"):
            raise UserError(tr("write /think on or /think off"))
        conversation.set_thinking(argument == "on")
        write(tr("thinking is on\n") if argument == "on" else tr("thinking is off\n"))
    elif name == "/save":
        if not argument:
            raise UserError(tr("name a file: /save chat.jsonl"))
        conversation.save(expand_home(Path(argument)))
        write(tr("saved in {argument}\n", argument=argument))
    else:
        what = tr("there is no command {name}", name=name)
        raise UserError(what, None, did_you_mean(name, [*_commands(), *_END_COMMANDS]))
    return True


def _report_dropped(conversation: ChatSession, before: int, write: OnText) -> None:
    count = conversation.dropped_turns - before
    if count:
        write(tr("({count} oldest turns no longer fit and were dropped)\n", count=count))


def _write(text: str) -> None:
    """Write to standard output, of which a terminal gets what it would not obey, and a pipe all as it is."""
    echo_data(text, nl=False)
