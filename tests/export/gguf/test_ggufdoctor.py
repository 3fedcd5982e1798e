"""The linter `ggufdoctor` finds no error and no warning in the GGUF files of packaged templates.

It renders ten conversations with Jinja as transformers does and with llama.cpp's own Jinja engine (as WebAssembly, with
the variables that `llama-server` sets by itself), and compares the results; and it looks for special tokens that the
vocabulary lacks, an end of text that the template never writes, and templates that Ollama would replace by its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2
import pytest

from hanlin.chat.packaged import packaged_names
from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Gguf
from hanlin.export.gguf.source import load_source
from hanlin.export.gguf.writer import write_header
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.tokenizer.gguf_metadata import read_gguf_template
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_llama import tiny_llama

NOTES = {
    "S003": "the template has no form for tools, and says so",
    "S006": "the file and the template both set the begin token: llama.cpp takes one away, as do the Modelfiles here",
    "S007": "an answer follows a question without a header",
}
"""What it may note, below a warning, and why that is right. Two engines that render differently are not among it."""

USUAL = ("llama2", "llama3.1", "qwen3", "deepseek_r1")
"""One template of each form; a file takes 0.8 s."""


def write_header_of(name: str, folder: Path) -> Path:
    """The metadata of a GGUF file with a packaged template, and a tokenizer that has its special tokens."""
    train_tokenizer(["翰林院在城东。"], vocab_size=300, template=name, out=folder / "tokenizer")
    template = ChatTemplate.from_packaged(name, Tokenizer.load(folder / "tokenizer"))
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
    }
    stops = list(template.stop_ids)
    tiny_llama(folder / "model", template.tokenizer, seed=0, eos_token_id=stops, num_key_value_heads=1, **shape)
    template.save(folder / "model")
    settings = Gguf(model="./m", types=("F16",), compare=False)
    write_header(folder / "model.gguf", load_source(folder / "model"), "F16", settings)
    return folder / "model.gguf"


@pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in packaged_names()]
)
def test_files_of_every_packaged_template_are_clean(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = pytest.importorskip("ggufdoctor.cli", reason="ggufdoctor is not installed (pip install -e '.[dev]')")
    file = write_header_of(name, tmp_path)
    monkeypatch.chdir(tmp_path)  # it reads a file of findings to ignore from the working folder
    status = doctor.main([str(file), "--json", str(tmp_path / "report.json"), "--fail-on", "warn"])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert status == 0, report["findings"]
    assert {row["severity"] for row in report["findings"]} <= {"info"}
    assert {row["id"] for row in report["findings"]} <= set(NOTES), report["findings"]
    assert report["coverage"]["families_run"] == ["S", "X", "O"] and not report["coverage"]["checks_not_evaluated"]


def test_the_template_in_a_file_keeps_earlier_reasoning_as_in_training_whatever_a_server_sets(tmp_path: Path) -> None:
    file = write_header_of("deepseek_r1", tmp_path)
    source = read_gguf_template(file)
    assert source.startswith("{%- set preserve_thinking = false -%}\n")
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source).render
    written = render(messages=chat, bos_token="", preserve_thinking=True, add_generation_prompt=True)
    assert written == render(messages=chat, bos_token="", add_generation_prompt=True) and "</think>" not in written
