"""The chain of commands that the README shows: each stage by hand, every result a folder that the next one takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hanlin.models.folder.adapter import resolve_base
from hanlin.pipeline.manifest import digest_files, read_manifest


def hanlin(home: Path, *words: str) -> None:
    command = [sys.executable, "-m", "hanlin", *words]
    environment = {**os.environ, "HANLIN_HOME": str(home), "HANLIN_LANG": "en"}
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_an_adapter_made_by_hand_finds_its_base_and_merges(tmp_path: Path, tiny_model: Path) -> None:
    chats = [{"instruction": f"第{n}问：你是谁？", "input": "", "output": "我是小翰。"} for n in range(4)]
    (tmp_path / "chats.json").write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
    hanlin(tmp_path, "conversations", "--sources", "chats.json", "--out", "deep/er/my-chats")
    batching = ["--max-seq-length", "128", "--batch-tokens", "128", "--steps", "2", "--lora.rank", "2"]
    arguments = ["--model", str(tiny_model), "--data", "deep/er/my-chats"]
    hanlin(tmp_path, "sft", *arguments, *batching, "--out", "deep/er/my-adapter")
    adapter = tmp_path / "deep/er/my-adapter"
    assert resolve_base(adapter).samefile(tiny_model)
    manifest = read_manifest(adapter)
    assert manifest is not None and manifest.digest == digest_files(list(manifest.files))
    hanlin(tmp_path, "merge", "--adapter", "deep/er/my-adapter", "--out", "my-merged")
    assert (tmp_path / "my-merged" / "model.safetensors").is_file()
