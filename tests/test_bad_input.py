"""Bad input, as a person gives it: one sentence with place and hint, exit code 2, no traceback, nothing half-made."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def hanlin(home: Path, *words: str, language: str = "en") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HANLIN_HOME": str(home), "HANLIN_LANG": language}
    command = [sys.executable, "-m", "hanlin", *words]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8")


def refused(home: Path, *words: str) -> str:
    """Run a command that must be refused; return what it said."""
    done = hanlin(home, *words)
    said = done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said and len(re.findall(r"^error:", said, re.MULTILINE)) == 1, said
    whole = [p.name for p in (home / "artifacts").glob("[a-z]*-*") if not p.name.endswith(".partial")]
    assert whole == [], f"something was left that looks whole: {whole}"
    return said


def put(home: Path, name: str, data: str | bytes) -> str:
    path = home / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8"))
    return str(path)


def test_a_missing_file(tmp_path: Path) -> None:
    assert "none.jsonl" in refused(tmp_path, "conversations", "--sources", "none.jsonl")


def test_a_missing_path_gets_a_hint(tmp_path: Path) -> None:
    near = put(tmp_path, "chats.jsonl", "")
    for words in (["data", "report"], ["template", "check"], ["plan"], ["conversations", "--sources"]):
        assert f"did you mean {near}?" in refused(tmp_path, *words, str(tmp_path / "chat.jsonl"))
        assert f"the folder {tmp_path}/x does not exist either" in refused(tmp_path, *words, f"{tmp_path}/x/y.jsonl")
    assert "check the name" in refused(tmp_path, "data", "report", f"{tmp_path}/0")


def test_a_path_of_another_type_is_named_in_words(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    said = refused(tmp_path, "quantize", "m")
    assert "hanlin quantize, model" in said and "is not a model folder" in said and "has config.json" in said
    put(tmp_path, "m/adapter_config.json", "{}")
    assert "is an adapter folder, but a model folder is needed\n  hint: merge it" in refused(tmp_path, "quantize", "m")
    done = hanlin(tmp_path, "quantize", "m", language="zh")
    assert "是适配器文件夹，而此处需要模型文件夹\n  提示：请先用 `merge` 阶段合并" in done.stderr, done.stderr


def test_an_empty_file(tmp_path: Path) -> None:
    said = refused(tmp_path, "corpus", "--sources", put(tmp_path, "empty.txt", ""))
    assert "empty.txt" in said


def test_broken_json_names_the_line(tmp_path: Path) -> None:
    good = json.dumps({"instruction": "你是谁？", "output": "小翰。"}, ensure_ascii=False)
    said = refused(tmp_path, "conversations", "--sources", put(tmp_path, "a.jsonl", f"{good}\n{good}\n{{oops\n"))
    assert "a.jsonl:3" in said


def test_records_without_an_answer(tmp_path: Path) -> None:
    rows = "\n".join(json.dumps({"instruction": f"问{n}", "output": ""}, ensure_ascii=False) for n in range(3))
    said = refused(tmp_path, "conversations", "--sources", put(tmp_path, "a.jsonl", rows + "\n"))
    assert "a.jsonl:1" in said


def test_a_wrong_encoding_is_refused_and_named(tmp_path: Path) -> None:
    data = '{"text": "中文"}\n'.encode() + b'{"text": "\xff\xfe\x81"}\n'
    said = refused(tmp_path, "corpus", "--sources", put(tmp_path, "a.jsonl", data))
    assert "a.jsonl" in said


def test_an_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    source = put(tmp_path, "a.jsonl", '{"x": 1}\n')
    said = refused(tmp_path, "conversations", "--sources", f"{{path: {source}, format: sharegtp}}")
    assert "sharegtp" in said and "sharegpt" in said


def test_an_unrecognized_format_names_the_file(tmp_path: Path) -> None:
    said = refused(tmp_path, "conversations", "--sources", put(tmp_path, "a.jsonl", '{"foo": 1, "bar": 2}\n'))
    assert "a.jsonl" in said


def test_a_tokenizer_without_a_chat_template(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "chats").mkdir()
    turns = [{"role": "user", "text": "你是谁？"}, {"role": "assistant", "text": "小翰。"}]
    put(tmp_path, "chats/conversations.jsonl", json.dumps({"id": "1", "messages": turns}) + "\n")
    said = refused(tmp_path, "sft", "--model", str(folder), "--data", "chats", "--max-seq-length", "256")
    assert "chat template" in said and "hint:" in said


def test_a_truncated_safetensors_file(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    said = refused(tmp_path, "gguf", "--model", str(folder))
    assert "model.safetensors" in said and "bytes" in said


def test_a_pickle_checkpoint(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    said = refused(tmp_path, "gguf", "--model", str(folder))
    assert "pytorch_model.bin" in said and "pickled" in said


def test_a_recipe_that_is_not_yaml(tmp_path: Path) -> None:
    said = refused(tmp_path, "plan", put(tmp_path, "r.yaml", "stages: [\n"))
    assert "not YAML" in said and "r.yaml:" in said


def test_a_setting_out_of_range(tmp_path: Path) -> None:
    source = put(tmp_path, "a.txt", "一段文字")
    said = refused(tmp_path, "corpus", "--sources", source, "--validation-fraction", "3")
    assert "validation_fraction=3" in said


def test_a_value_that_is_no_yaml(tmp_path: Path) -> None:
    assert "--validation-fraction" in refused(tmp_path, "corpus", "--sources", "./x", "--validation-fraction", "{")


def test_an_unknown_option_gets_a_suggestion(tmp_path: Path) -> None:
    assert "did you mean --sources?" in refused(tmp_path, "corpus", "--source", "./x")


def test_a_full_disk(tmp_path: Path) -> None:
    """On a real file system of 64 KiB, where a user namespace can be had."""
    source = put(
        tmp_path, "a.txt", "\n\n".join(f"第{n}段：城东的图书馆里有很多书，欢迎来读。{n * n}" for n in range(4000))
    )
    small = tmp_path / "small"
    small.mkdir()
    shell = (
        f"mount -t tmpfs -o size=64k none {small} && "
        f"HANLIN_HOME={small} exec {sys.executable} -m hanlin corpus --sources {source}"
    )
    unshare = shutil.which("unshare")
    can = unshare and subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode == 0
    if not can:
        pytest.skip("no user namespace here: the same path is tested in test_pipeline with the error injected")
    done = subprocess.run([str(unshare), "-rm", "sh", "-c", shell], capture_output=True, text=True, cwd=tmp_path)
    if "mount" in done.stderr and "permitted" in done.stderr:
        pytest.skip("a tmpfs cannot be mounted here: the same path is tested in test_pipeline with the error injected")
    assert done.returncode == 2, done.stderr
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr


def test_the_sentence_is_there_in_chinese_too(tmp_path: Path) -> None:
    done = hanlin(tmp_path, "plan", "none.yaml", language="zh")
    assert done.returncode == 2 and "错误" in done.stderr and "文件不存在" in done.stderr


def test_a_machine_whose_first_machine_was_never_started(tmp_path: Path) -> None:
    recipe = put(
        tmp_path,
        "alone.yaml",
        "name: alone\nlaunch: { nodes: 2, node_rank: 1, rendezvous: '127.0.0.1:29555', timeout: 1 }\n"
        "stages: { world: { kind: demo_world } }\n",
    )
    said = refused(tmp_path, "run", recipe)
    assert "machine 0 has not worked on stage world for 1 s" in said and "launch.node_rank=0" in said


def test_places_where_nothing_can_be_written(tmp_path: Path) -> None:
    chats = put(tmp_path, "c.jsonl", '{"messages": [{"role": "user", "content": "问"}]}\n')
    command = ["conversations", "--sources", chats]
    assert "no folder can be made here" in refused(tmp_path, *command, "--out", f"{chats}/x")
    assert "this is a file" in refused(tmp_path, *command, "--home", chats)
    long = "x" * 300
    assert "cannot be read or written" in refused(tmp_path, *command, "--out", long)
    assert "cannot be read or written" in refused(tmp_path, "conversations", "--sources", long)


def test_a_stage_may_read_the_folder_that_it_is_made_in(tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "你好，今天好吗？"}, {"role": "assistant", "content": "很好，谢谢。"}]
    }
    put(tmp_path, "c.jsonl", json.dumps(row, ensure_ascii=False) + "\n")
    for _ in range(2):  # the second time its own artifact lies there
        done = hanlin(tmp_path, "conversations", "--sources", ".", "--validation-fraction", "0")
        assert done.returncode == 0, done.stderr
    assert len([*(tmp_path / "artifacts").glob("conversations-*")]) == 1


def test_a_misspelled_task_is_told_before_the_data_is_looked_at(tmp_path: Path) -> None:
    put(tmp_path, "data.jsonl", "{}")
    said = refused(tmp_path, "evaluate", "--model", "none", "--tasks", "cmmlu,fewclu,a.jsonl", "--data", "none")
    assert "there is no task 'fewclu' (did you mean fewclue?)" in said


@pytest.mark.parametrize("language", ["en", "zh"])
def test_braces_and_percent_signs_are_text(tmp_path: Path, language: str) -> None:
    for words, shown in ((["sft", "--epochs", "{x} %s"], "{x} %s"), (["plan", "a{b}%s.yaml"], "a{b}%s.yaml")):
        done = hanlin(tmp_path, *words, language=language)
        assert done.returncode == 2 and shown in done.stderr and "Traceback" not in done.stderr
