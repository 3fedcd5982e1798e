"""The command `hanlin tokens view`, as a person calls it: what it shows, on which page, and what it refuses."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

CHATS = [
    {"instruction": "你是谁？", "input": "", "output": "我是小翰。"},
    {"instruction": "请写<script>alert(1)</script>", "input": "", "output": "龘 & <b>好</b>"},
]


def view(home: Path, *words: str, language: str = "en", **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HANLIN_HOME": str(home), "HANLIN_LANG": language, **more}
    command = [sys.executable, "-m", "hanlin", "tokens", "view", *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8")


def shown(home: Path, *words: str) -> str:
    done = view(home, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def put(home: Path, name: str, rows: list) -> str:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (home / name).write_text(text, encoding="utf-8")
    return name


@pytest.fixture
def model(tiny_tokenizer: Path) -> str:
    return str(tiny_tokenizer)


def test_ids_stand_below_their_tokens_and_what_is_learned_is_marked(tmp_path: Path, model: str) -> None:
    said = shown(tmp_path, put(tmp_path, "a.jsonl", CHATS), "--model", model)
    assert "\x1b" not in said
    learned = re.findall(r"\[\[.*?\]\]", said.split("a.jsonl#1")[1], re.S)
    assert learned[0].endswith("<|eot_id|>]]") and "小" in said
    lines = said.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("<|begin_of_text|>"))
    row = json.loads(shown(tmp_path, "a.jsonl", "--model", model, "--json"))["records"][0]
    ids = [str(token["id"]) for token in row["tokens"]]
    below = lines[head + 1].split()
    assert below == ids[: len(below)]
    assert lines[head + 1].index(ids[1]) == lines[head].index("<|start_header_id|>")


def test_a_terminal_gets_colours_and_no_color_takes_them_away(tmp_path: Path, model: str) -> None:
    put(tmp_path, "a.jsonl", CHATS)

    def on_a_terminal(**more: str) -> str:
        master, slave = pty.openpty()
        environment = {**os.environ, "HANLIN_LANG": "en", "TERM": "xterm-256color", "COLUMNS": "100", **more}
        command = [sys.executable, "-m", "hanlin", "tokens", "view", "a.jsonl", "--model", model]
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=slave, stderr=slave) as child:
            os.close(slave)
            data = b""
            while True:
                try:
                    part = os.read(master, 65536)
                except OSError:
                    break
                if not part:
                    break
                data += part
        os.close(master)
        assert child.returncode == 0, data
        return data.decode("utf-8")

    assert "\x1b[1;4;32m" in on_a_terminal(NO_COLOR="") and "[[" not in on_a_terminal(NO_COLOR="")
    plain = on_a_terminal(NO_COLOR="1")
    assert "[[" in plain and "32m" not in plain


def test_preferences_show_both_answers(tmp_path: Path, model: str) -> None:
    rows = [{"prompt": "1+1=?", "chosen": "二", "rejected": "三"}]
    said = shown(tmp_path, put(tmp_path, "p.jsonl", rows), "--model", model)
    assert "p.jsonl#1 · chosen" in said and "p.jsonl#1 · rejected" in said


def test_plain_text_shows_as_pre_training_reads_it(tmp_path: Path, model: str) -> None:
    (tmp_path / "a.txt").write_text("春天的时候院子里开满了花。", encoding="utf-8")
    (row,) = json.loads(shown(tmp_path, "a.txt", "--model", model, "--json"))["records"]
    assert [row["tokens"][index]["text"] for index in (0, -1)] == ["<|begin_of_text|>", "<|end_of_text|>"]
    assert row["learned_count"] == row["count"] - 1


def test_an_artifact_shows_its_records_by_their_own_ids(tmp_path: Path, model: str) -> None:
    put(tmp_path, "raw.jsonl", CHATS)
    command = [sys.executable, "-m", "hanlin", "conversations", "--sources", "raw.jsonl", "--validation-fraction", "0"]
    environment = {**os.environ, "HANLIN_HOME": str(tmp_path)}
    subprocess.run([*command, "--out", "made"], cwd=tmp_path, env=environment, check=True, capture_output=True)
    lines = (tmp_path / "made/conversations.jsonl").read_text(encoding="utf-8").split("\n")
    ids = [json.loads(line)["id"] for line in lines if line]
    for path in ("made", "made/conversations.jsonl"):
        rows = json.loads(shown(tmp_path, path, "--model", model, "--json"))["records"]
        assert [row["record"] for row in rows] == ids


def test_the_page_is_whole_and_escapes_what_people_wrote(tmp_path: Path, model: str) -> None:
    put(tmp_path, "a.jsonl", CHATS)
    assert shown(tmp_path, "a.jsonl", "--model", model, "--html", "o.html").strip() == "o.html"
    page = (tmp_path / "o.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<b>好" not in page
    assert page.count("<script>") == 1  # our own
    assert not re.search(r"https?://|src=|href=", page)
    assert "a.jsonl#1" in page and "a.jsonl#2" in page and "⟨98=龘⟩" in page
    assert page.index("learned tokens") < page.index("a.jsonl#1")
    assert not list(tmp_path.glob("*.writing"))


def test_a_record_that_cannot_be_rendered_is_named_and_the_others_are_shown(tmp_path: Path, model: str) -> None:
    rows = [{"messages": [{"role": "user", "content": "我"}]}, {"messages": []}]
    good = {"messages": [{"role": "user", "content": "你"}, {"role": "assistant", "content": "我"}]}
    done = view(tmp_path, put(tmp_path, "a.jsonl", [good, *rows]), "--model", model)
    assert done.returncode == 0 and "a.jsonl#1" in done.stdout
    assert done.stderr.count("not shown: ") == 2 and "a.jsonl#2" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ([{"messages": [{"role": "user", "content": "我"}]}], [], "a.jsonl#1"),
        (CHATS, ["--template", "lama3"], "did you mean llama3"),
        (CHATS, ["--html", "none/o.html"], "none/o.html"),
        ([{"x": 1}], [], "unknown format"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(
    tmp_path: Path, model: str, rows: list, words: list[str], said: str
) -> None:
    done = view(tmp_path, put(tmp_path, "a.jsonl", rows), "--model", model, *words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


def test_a_missing_file_and_a_folder_without_tokenizer_are_refused(tmp_path: Path, model: str) -> None:
    assert "none.jsonl" in view(tmp_path, "none.jsonl", "--model", model).stderr
    done = view(tmp_path, put(tmp_path, "a.jsonl", CHATS), "--model", str(tmp_path), language="zh")
    assert done.returncode == 2 and "这里没有分词器" in done.stderr


def test_viewing_imports_no_torch(tmp_path: Path, model: str) -> None:
    put(tmp_path, "a.jsonl", CHATS)
    code = (
        "import sys; sys.argv = ['hanlin', 'tokens', 'view', 'a.jsonl', '--model', sys.argv[1], '--html', 'o.html']\n"
        "from hanlin.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, model], cwd=tmp_path, check=True, capture_output=True)
