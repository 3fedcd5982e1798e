"""The chat in the terminal: pieces as they come, several turns, forgetting, and one-shot answers."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hanlin.chat.packaged import read_packaged_template
from hanlin.chat.template import ChatTemplate
from hanlin.cli.chat import repl
from hanlin.cli.chat.backends import LocalModel, RemoteServer
from hanlin.cli.chat.repl import ChatSession, describe_stats, run_chat
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.data.formats.chats import ParsedChat, read_messages
from hanlin.inference.loading import LoadedEngine, load_engine
from live_server import LiveServer, run_server
from scripted_model import ScriptedModel
from taught_model import LESSONS, RARE

GREEDY = {"max_new_tokens": 40}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where sessions are saved."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "hanlin" / "chats"


def silent(piece: str) -> None:
    pass


class Typist:
    """Types lines and remembers what was shown; the end of the lines is the end of input."""

    def __init__(self, *lines: str) -> None:
        self._lines: Iterator[str] = iter(lines)
        self.written: list[str] = []

    def read_line(self, prompt: str) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None

    def write(self, piece: str) -> None:
        self.written.append(piece)

    @property
    def text(self) -> str:
        return "".join(self.written)


def talk(model: Path | str, *lines: str, **options: Any) -> Typist:
    typist = Typist(*lines)
    run_chat(model, read_line=typist.read_line, write=typist.write, **options)
    return typist


def test_one_message_gets_one_answer_and_nothing_else(taught_model: Path) -> None:
    assert talk(taught_model, once=LESSONS[0][0]).text == "我叫小翰。\n"


def test_characters_appear_one_by_one_and_whole(taught_model: Path) -> None:
    assert talk(taught_model, once=LESSONS[2][0]).written == [*RARE, "\n"]


def test_quit_ends_and_what_follows_is_not_sent(taught_model: Path) -> None:
    assert "我叫小翰" not in talk(taught_model, "/quit", LESSONS[0][0]).text


def test_reset_makes_the_next_question_the_first(taught_model: Path) -> None:
    answers = talk(taught_model, LESSONS[0][0], "/reset", LESSONS[1][0]).text.splitlines()
    assert answers[1:4] == ["我叫小翰。", "forgotten", "七"]


def test_the_answers_so_far_are_part_of_the_next_prompt(opened: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(opened, GREEDY), "你是小翰。")
    conversation.send(LESSONS[0][0], silent)
    conversation.send(LESSONS[1][0], silent)
    assert [message.role for message in conversation.messages] == ["system", *["user", "assistant"] * 2]


def test_a_long_conversation_forgets_its_oldest_turns_but_never_the_system_text(untaught: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(untaught, {"max_new_tokens": 30}), "你是小翰。")
    for number in range(12):
        conversation.send(f"问题{number}", silent)
    assert conversation.dropped_turns > 0
    assert conversation.messages[0].text == "你是小翰。"
    assert conversation.messages[-2].text == "问题11"
    assert conversation.messages[1].role == "user"


def test_an_interrupted_answer_stays_as_far_as_it_came(untaught: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(untaught, GREEDY))
    shown: list[str] = []

    def show(piece: str) -> None:
        shown.append(piece)
        if len(shown) == 3:
            raise KeyboardInterrupt

    assert conversation.send("?", show) == "".join(shown)
    assert conversation.messages[-1].text == "".join(shown)


def test_a_message_that_does_not_fit_is_reported_and_the_chat_goes_on(taught_model: Path) -> None:
    shown = talk(taught_model, "长" * 300, LESSONS[0][0]).text
    assert "tokens long" in shown and "我叫小翰。" in shown


def test_one_message_that_does_not_fit_is_an_error(taught_model: Path) -> None:
    with pytest.raises(UserError, match="tokens long"):
        talk(taught_model, once="长" * 300)


def test_one_of_several_gguf_files_is_named_after_a_colon(taught_gguf: Path) -> None:
    assert talk(f"{taught_gguf}:Q8_0", once=LESSONS[0][0]).text == "我叫小翰。\n"


def test_undo_takes_back_the_last_question_with_its_answer(taught_model: Path) -> None:
    lines = talk(taught_model, LESSONS[0][0], "/undo", LESSONS[1][0], "/undo", "/undo").text.splitlines()
    assert lines[1:] == [
        "我叫小翰。",
        f"undone: {LESSONS[0][0]}",
        "七",
        f"undone: {LESSONS[1][0]}",
        "nothing to undo",
        "",
    ]


def test_retry_asks_the_last_question_again_and_forgets_the_old_answer(opened: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(opened, {"temperature": 5.0, "seed": 1, "max_new_tokens": 12}))
    first = conversation.send(LESSONS[0][0], silent)
    again = conversation.retry(silent)
    assert again != first
    assert [message.text for message in conversation.messages] == [LESSONS[0][0], again]
    assert ChatSession(LocalModel(opened, GREEDY)).retry(silent) is None


def test_a_system_text_can_be_set_shown_and_taken_away_during_the_talk(opened: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(opened, GREEDY))
    conversation.send(LESSONS[0][0], silent)
    conversation.set_system("你是小翰。")
    assert [message.role for message in conversation.messages] == ["system", "user", "assistant"]
    conversation.set_system("")
    assert [message.role for message in conversation.messages] == ["user", "assistant"]


def test_system_without_a_text_shows_it(taught_model: Path) -> None:
    lines = talk(taught_model, "/system", "/system 你是小翰。", "/system -").text.splitlines()
    assert lines[1:4] == ["(no system text)", "你是小翰。", "(no system text)"]


def test_tokens_shows_the_length_of_the_prompt(opened: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(opened, GREEDY))
    conversation.send(LESSONS[0][0], silent)
    length = len(opened.load_template().render(conversation.messages).ids)
    assert conversation.describe_tokens().startswith(f"{length} tokens so far")


def test_a_saved_conversation_is_a_row_that_the_data_stages_read(taught_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    shown = talk(taught_model, LESSONS[0][0], f"/save {file}", f"/save {file}").text
    assert f"saved in {file}" in shown and "already exists" in shown
    (chat_read,) = read_messages(json.loads(file.read_text(encoding="utf-8")))
    assert isinstance(chat_read, ParsedChat)
    assert [message.text for message in chat_read.messages] == list(LESSONS[0])


def test_a_command_that_is_unknown_is_reported_and_two_slashes_begin_a_message(taught_model: Path) -> None:
    shown = talk(taught_model, "/sytem", "//quit", "/tokens").text
    assert "there is no command /sytem (hint: did you mean /system?)" in shown
    assert "tokens so far" in shown


def test_a_session_goes_on_where_it_was_left(taught_model: Path, state: Path) -> None:
    talk(taught_model, LESSONS[0][0], session="work", system="你是小翰。")
    again = talk(taught_model, "/undo", session="work").text
    assert "continuing after 2 turns" in again and f"undone: {LESSONS[0][0]}" in again
    saved = json.loads((state / "work.json").read_text(encoding="utf-8"))
    assert [turn["role"] for turn in saved["messages"]] == ["system"]


def test_the_last_conversation_is_saved_for_its_owner_alone_and_resumed_when_asked(
    taught_model: Path, state: Path
) -> None:
    talk(taught_model, LESSONS[0][0])
    assert (state / "last.json").stat().st_mode & 0o077 == 0
    assert "continuing after 2 turns" in talk(taught_model, resume=True).text
    assert "continuing" not in talk(taught_model).text


def test_a_session_that_is_something_else_is_refused(taught_model: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(UserError, match="not a saved conversation"):
        talk(taught_model, session=str(tmp_path / "x.json"))


def test_a_server_is_talked_to_as_a_model_is(server: LiveServer) -> None:
    lines = talk(server.address, LESSONS[0][0], "/tokens", "/reset", LESSONS[1][0]).text.splitlines()
    assert lines[0].startswith("tiny: ")
    assert lines[1] == "我叫小翰。" and lines[2].endswith("tokens with the last answer")
    assert lines[3:5] == ["forgotten", "七"]
    assert talk(f"{server.address}/v1", once=LESSONS[2][0]).text == f"{RARE}\n"


def test_a_server_without_the_model_and_an_address_without_a_server_are_one_sentence(server: LiveServer) -> None:
    with pytest.raises(UserError, match="no model 'other'"):
        talk(server.address, name="other")
    with pytest.raises(UserError, match="cannot be reached"):
        talk("http://127.0.0.1:9", once="x")
    with pytest.raises(UserError, match="404"):
        talk(f"{server.address}/elsewhere", once="x")


def test_what_the_server_refuses_is_reported_and_the_talk_goes_on(server: LiveServer) -> None:
    shown = talk(server.address, "长" * 300, LESSONS[0][0]).text
    assert "tokens long" in shown and "我叫小翰。" in shown


def test_a_connection_that_breaks_off_in_an_answer_is_one_sentence() -> None:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"data": [{"id": "m"}]}')

        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write('data: {"choices": [{"delta": {"content": "七\u2028八"}}]}\n\n'.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        backend = RemoteServer(f"http://127.0.0.1:{http.server_port}", "", {})
        shown: list[str] = []
        with pytest.raises(UserError, match="broke off"):
            backend.answer([Message("user", "三加四")], shown.append)
        assert shown == ["七\u2028八"]
        backend.close()
        http.shutdown()


@pytest.mark.parametrize("command", ["/quit", "/bye", "/exit"])
def test_the_chat_ends_with_what_users_type(taught_model: Path, command: str) -> None:
    assert "我叫小翰" not in talk(taught_model, command, LESSONS[0][0]).text


def test_a_model_without_a_switch_for_thinking_says_so(taught_model: Path) -> None:
    shown = talk(taught_model, "/think on", "/think", LESSONS[0][0]).text
    assert "no switch for thinking" in shown and "/think on or /think off" in shown and "我叫小翰" in shown


@pytest.mark.parametrize("is_remote", [False, True])
def test_thinking_is_turned_off_and_on_in_a_template_with_a_switch(
    taught_model: Path, monkeypatch: pytest.MonkeyPatch, is_remote: bool
) -> None:
    opened = load_engine(taught_model)
    template = ChatTemplate(read_packaged_template("qwen3"), opened.tokenizer, "qwen3")
    monkeypatch.setattr(LoadedEngine, "load_template", lambda _: template)
    script = ScriptedModel(opened, "<think>\n想\n</think>\n\n好")
    lines = ("?", "/think off", "?", "/think on", "?")
    if is_remote:
        with run_server(opened) as server:
            shown = talk(server.address, *lines).text
        opened.engine.close()
    else:
        monkeypatch.setattr(repl, "open_backend", lambda *_, **__: LocalModel(opened, GREEDY))
        shown = talk(taught_model, *lines).text
    assert "thinking is off" in shown and "thinking is on" in shown and shown.count("<think>\n想\n</think>\n\n好") == 3
    tails = [script.tokenizer.decode(request.prompt_ids)[-24:] for request in script.requests]
    assert [tail.endswith("<think>\n\n</think>\n\n") for tail in tails] == [False, True, False]


def test_the_figures_of_an_answer_are_its_tokens_speed_and_what_is_left(opened: LoadedEngine) -> None:
    conversation = ChatSession(LocalModel(opened, GREEDY))
    assert describe_stats(conversation.stats) == ""
    conversation.send(LESSONS[0][0], silent)
    stats = conversation.stats
    assert stats is not None and stats.context_left is not None
    assert stats.total_tokens + stats.context_left == opened.engine.context_length
    shown = describe_stats(stats)
    assert f"{stats.total_tokens} tokens" in shown and f"{stats.context_left} left" in shown
    conversation.reset()
    assert conversation.stats is None


def test_a_server_tells_the_tokens_of_its_answer(server: LiveServer) -> None:
    backend = RemoteServer(server.address, "", GREEDY)
    conversation = ChatSession(backend)
    conversation.send(LESSONS[0][0], silent)
    backend.close()
    assert conversation.stats is not None and conversation.stats.total_tokens > 0


def test_a_state_folder_that_cannot_be_written_is_one_sentence_and_the_chat_goes_on(
    taught_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/none")):
        monkeypatch.setenv("XDG_STATE_HOME", str(folder))
        lines = talk(taught_model, LESSONS[0][0]).text.splitlines()
        assert "cannot be saved" in lines[0] and "我叫小翰。" in lines
        with pytest.raises(UserError, match="cannot be saved"):
            talk(taught_model, LESSONS[0][0], session="work")


def test_a_line_in_a_pipe_that_cannot_be_read_is_reported_and_the_talk_goes_on(
    taught_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "café\n".encode("latin-1") + f"{LESSONS[0][0]}\n".encode("gbk")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    typist = Typist()
    run_chat(taught_model, write=typist.write)
    assert "neither UTF-8 nor GBK" in typist.text and "我叫小翰。" in typist.text


def test_an_answer_without_a_limit_takes_what_the_context_leaves_here_and_of_a_server(untaught: LoadedEngine) -> None:
    question = [Message("user", "?")]
    here = LocalModel(untaught, {"temperature": 0.0, "max_new_tokens": None}).answer(question, silent)
    with run_server(untaught) as server:
        remote = RemoteServer(server.address, "", {"temperature": 0.0, "max_new_tokens": None})
        there = remote.answer(question, silent)
        remote.close()
    assert here.text == there.text
    assert here.stats is not None and here.stats.context_left == 0
