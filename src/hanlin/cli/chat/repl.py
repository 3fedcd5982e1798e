"""A chat in the terminal: answers appear as they are generated, commands begin with a slash, sessions survive.

Does not own who answers (`speakers`) or how a line is typed (`line_editor`).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hanlin.cli.chat.backends import Show, Speaker, speaker_of
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.i18n import say
from hanlin.core.records import Message

Ask = Callable[[str], str]
LAST = "last"


class Chat:
    """A conversation with a speaker: what was said so far, kept in `file` after every turn where one is given."""

    def __init__(self, speaker: Speaker, system: str = "", file: Path | None = None) -> None:
        self._speaker, self._file = speaker, file
        self._opening: tuple[Message, ...] = (Message("system", system),) if system else ()
        self.messages: tuple[Message, ...] = self._opening
        self.forgotten = 0
        self._attempt = 0

    @property
    def system(self) -> str:
        return self._opening[0].text if self._opening else ""

    def set_system(self, text: str) -> None:
        """Give the conversation this system text, or none; what was said stays."""
        rest = self.messages[len(self._opening) :]
        self._opening = (Message("system", text),) if text else ()
        self.messages = (*self._opening, *rest)
        self._keep()

    def reset(self) -> None:
        self.messages = self._opening
        self.forgotten = 0
        self._keep()

    def say(self, text: str, show: Show) -> str:
        """Send a message and `show` the answer piece by piece; return it whole. One that is interrupted stays as it is.

        Raises UserError, the conversation unchanged, when the message does not fit the context or nobody answers.
        """
        self._attempt = 0
        return self._answered((*self.messages, Message("user", text)), show)

    def undo(self) -> str | None:
        """Take back the last question with its answer; return the question, or None where there was none."""
        places = [place for place, message in enumerate(self.messages) if message.role == "user"]
        if not places:
            return None
        question = self.messages[places[-1]].text
        self.messages = self.messages[: places[-1]]
        self._keep()
        return question

    def retry(self, show: Show) -> str | None:
        """Ask the last question again; the old answer is forgotten. None where there was no question."""
        places = [place for place, message in enumerate(self.messages) if message.role == "user"]
        if not places:
            return None
        self._attempt += 1
        return self._answered(self.messages[: places[-1] + 1], show)

    def tokens(self) -> str:
        return self._speaker.tokens(self.messages)

    def save(self, path: Path) -> None:
        """Write the conversation to a new file, a line of JSON Lines that `hanlin conversations` reads. Raises
        UserError where there is such a file, or no such folder."""
        row = {"id": path.stem, "messages": [message.to_json() for message in self.messages]}
        try:
            with path.open("x", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        except FileExistsError as error:
            raise UserError(say("already exists", "已存在"), path) from error
        except OSError as error:
            raise UserError(say(f"cannot be written: {error.strerror}", f"无法写入：{error.strerror}"), path) from error

    def resume(self) -> int:
        """Go on with what the session's file holds, if there is one; return the number of turns. Raises UserError when
        it holds something else."""
        assert self._file is not None
        if not self._file.exists():
            return 0
        try:
            row = json.loads(self._file.read_text(encoding="utf-8"))
            messages = tuple(Message.from_json(turn) for turn in row["messages"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(say("this is not a kept conversation", "这不是保存的对话"), self._file) from error
        opening = tuple(message for message in messages[:1] if message.role == "system")
        if not self._opening:
            self._opening = opening
        self.messages = (*self._opening, *messages[len(opening) :])
        return len(messages) - len(opening)

    def _answered(self, messages: tuple[Message, ...], show: Show) -> str:
        answered = self._speaker.answer(messages, show, self._attempt)
        self.messages = (*answered.messages, Message("assistant", answered.text))
        self.forgotten += answered.dropped
        self._keep()
        return answered.text

    def _keep(self) -> None:
        """Write the session's file at once or not at all, for its owner alone to read."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        row = {"messages": [message.to_json() for message in self.messages]}
        aside = self._file.with_name(self._file.name + ".writing")
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            json.dump(row, file, ensure_ascii=False)
        os.replace(aside, self._file)


def state_folder() -> Path:
    """Where sessions and typed lines are kept: the XDG base directory specification's state folder."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "hanlin"


def session_file(name: str) -> Path:
    """A session's file: a path where `name` looks like one, else of that name in the state folder."""
    path = Path(name).expanduser()
    if path.suffix == ".json" or len(path.parts) > 1:
        return path
    return state_folder() / "chats" / f"{name}.json"


def chat(
    model: str | Path,
    *,
    engine: str = "auto",
    system: str | None = None,
    once: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    cut: bool = False,
    session: str = "",
    resume: bool = False,
    name: str = "",
    api_key: str = "",
    ask: Ask | None = None,
    show: Show | None = None,
    **options: Any,
) -> None:
    """Talk with a model, or with the model `name` of a server, until `/quit` or the end of input; with `once` only that
    message is answered.

    `sampling` are fields of `SamplingParams`; what they leave open follows the model's generation settings. With `cut`,
    a message that is too long loses its end. A `session` goes on where it was left; without one the conversation is kept
    as the last one, with which `resume` goes on. `options` go to the engine. Raises UserError for what holds no model
    and for a server that does not answer, and with `once` for a message that does not fit.
    """
    out = show or _print_piece
    asked = {"max_new_tokens": 512, **(sampling or {})}
    speaker = speaker_of(str(model), engine=engine, sampling=asked, cut=cut, name=name, api_key=api_key, **options)
    try:
        if once is not None:
            Chat(speaker, system or "").say(once, out)
            out("\n")
            return
        conversation = Chat(speaker, system or "", session_file(session or LAST))
        turns = conversation.resume() if session or resume else 0
        out(say(f"{speaker.name}: /help names the commands, /quit ends\n",
                f"{speaker.name}：/help 列出命令，/quit 结束\n"))  # fmt: skip
        if turns:
            out(say(f"(going on after {turns} turns)\n", f"（接着之前的 {turns} 轮）\n"))
        if ask is None:
            from hanlin.cli.chat.editor import reader

            ask = reader(state_folder() / "typed", list(_COMMANDS))
        _converse(conversation, ask, out)
    finally:
        speaker.close()


# --- commands -----------------------------------------------------------------------------------------------------

_COMMANDS = {
    "/help": ("what can be typed", "可用的命令"),
    "/system": ("show the system text; with a text, set it (`-` for none)", "查看系统提示；后跟文字则设置（- 为清空）"),
    "/undo": ("take back the last question and its answer", "撤回上一问与回答"),
    "/retry": ("answer the last question again", "重新回答上一问"),
    "/save": ("FILE: write the conversation as a line of JSON", "文件名：把对话写成一行 JSON"),
    "/tokens": ("how long the conversation is", "对话有多长"),
    "/reset": ("forget the conversation", "忘掉对话"),
    "/quit": ("end", "结束"),
}


def _converse(conversation: Chat, ask: Ask, show: Show) -> None:
    while True:
        try:
            text = ask("> ").strip()
        except (EOFError, KeyboardInterrupt):
            show("\n")
            return
        if not text:
            continue
        before = conversation.forgotten
        try:
            if text.startswith("//"):
                text = text[1:]  # a message that begins with a slash
            elif text.startswith("/"):
                if not _obey(conversation, text, show):
                    return
                continue
            conversation.say(text, show)
        except UserError as error:
            show(f"{error}\n")
            continue
        show("\n")
        _tell_forgotten(conversation, before, show)


def _obey(conversation: Chat, text: str, show: Show) -> bool:
    """Do what a command says; False when it ends the chat. Raises UserError for one that is unknown or fails."""
    command, _, rest = text.partition(" ")
    rest = rest.strip()
    if command == "/quit":
        return False
    if command == "/help":
        show("".join(f"  {name:<9}{say(*words)}\n" for name, words in _COMMANDS.items()))
        show(say("  //text sends a message that begins with a slash\n", "  //文字 发送以斜杠开头的消息\n"))
    elif command == "/reset":
        conversation.reset()
        show(say("forgotten\n", "已忘掉\n"))
    elif command == "/system":
        if rest:
            conversation.set_system("" if rest == "-" else rest)
        show((conversation.system or say("(no system text)", "（没有系统提示）")) + "\n")
    elif command == "/undo":
        question = conversation.undo()
        show(
            say("nothing to undo\n", "没有可撤回的\n")
            if question is None
            else say("undone: ", "已撤回：") + f"{question}\n"
        )
    elif command == "/retry":
        before = conversation.forgotten
        if conversation.retry(show) is None:
            show(say("nothing was asked yet", "还没有提问"))
        show("\n")
        _tell_forgotten(conversation, before, show)
    elif command == "/tokens":
        show(conversation.tokens() + "\n")
    elif command == "/save":
        if not rest:
            raise UserError(say("name a file: /save chat.jsonl", "请给出文件名：/save chat.jsonl"))
        conversation.save(Path(rest).expanduser())
        show(say(f"saved in {rest}\n", f"已保存到 {rest}\n"))
    else:
        what = say(f"there is no command {command}", f"没有命令 {command}")
        raise UserError(what, None, did_you_mean(command, _COMMANDS))
    return True


def _tell_forgotten(conversation: Chat, before: int, show: Show) -> None:
    count = conversation.forgotten - before
    if count:
        show(say(f"({count} oldest turns no longer fit and were forgotten)\n",
                 f"（最早的 {count} 轮已放不下，不再记得）\n"))  # fmt: skip


def _print_piece(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
