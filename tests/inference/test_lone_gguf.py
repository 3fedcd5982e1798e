"""A GGUF file with nothing beside it is opened with the tokenizer and the chat template that it holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hanlin.chat.packaged import without_keep_setting
from hanlin.chat.template import ChatTemplate
from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.inference.loading import find_model, load_engine, load_template
from hanlin.parity.modelfile import read_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer
from tiny_gguf import Exported, tiny_gguf

CHAT = [
    Message("system", "短答。"),
    Message("user", "你好 <|eot_id|>"),
    Message("assistant", "您好！"),
    Message("user", "?"),
]


@pytest.fixture(scope="module")
def exported(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path_factory.mktemp("exported") / "model")


@pytest.fixture
def lone(exported: Exported, tmp_path: Path) -> Path:
    return Path(shutil.copy(exported.file, tmp_path / "lone-F16.gguf"))


def test_a_lone_file_chats_as_its_folder_does(exported: Exported, lone: Path) -> None:
    opened = load_engine(lone)
    template = opened.load_template()
    beside = ChatTemplate.load(exported.folder)
    try:
        assert without_keep_setting(template.source) == beside.source
        assert set(beside.stop_ids) <= set(template.stop_ids) <= {*beside.stop_ids, *opened.tokenizer.special_ids}
        prompt = template.render(CHAT, prompt=True).ids
        assert prompt == beside.render(CHAT, prompt=True).ids
        assert opened.tokenizer.decode(prompt) == beside.tokenizer.decode(prompt)
    finally:
        opened.engine.close()


def test_a_folder_of_lone_files_is_opened_too(lone: Path) -> None:
    location = find_model(lone.parent)
    assert location.folder == location.weights == lone
    assert load_template(location).origin == lone


def test_what_is_beside_a_file_comes_first(exported: Exported) -> None:
    location = find_model(exported.file)
    assert location.folder == exported.file.parent
    assert load_template(location).origin == exported.file.parent / "chat_template.jinja"


def test_a_template_that_is_not_beside_the_file_is_that_of_the_file(exported: Exported, lone: Path) -> None:
    Tokenizer.load(exported.folder).save(lone.parent)
    (lone.parent / "chat_template.jinja").unlink()
    assert find_model(lone).folder == lone.parent
    assert load_template(find_model(lone)).origin == lone


def test_template_check_reads_a_lone_file(lone: Path) -> None:
    result = CliRunner().invoke(app, ["template", "check", str(lone), "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["backends"]
    assert row["name"] == f"llama.cpp {lone.name}" and row["cases"] > 0 and row["mismatches"] == 0


def test_a_modelfile_is_written_for_a_lone_file(lone: Path) -> None:
    result = CliRunner().invoke(app, ["template", "modelfile", str(lone)])
    assert result.exit_code == 0, result.output
    assert read_modelfile(lone.parent / "Modelfile").model == lone.name


def test_a_file_without_tokenizer_and_template_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match="tokenizer in this GGUF file"):
        load_engine(tmp_path / "m.gguf")
