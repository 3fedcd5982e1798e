"""A package holds what its program takes, and appears only when every program reads it as it was trained."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from hanlin.chat.template import ChatTemplate
from hanlin.config.settings.export import Package
from hanlin.core.context import Inputs, LineageNode, StageContext
from hanlin.core.errors import UserError
from hanlin.export.package import _command, _write_start, run
from hanlin.models.folder.checks import check_model_folder
from hanlin.parity.modelfile import read_modelfile
from hanlin.tokenizer.generation_config import write_sampling_params
from rewritten_gguf import rewrite_gguf

Make = Callable[..., Path]
Export = Callable[..., tuple[Path, dict[str, Any]]]
Pack = Callable[..., tuple[Path, dict[str, Any]]]

DATA = LineageNode(
    "conversations-1", "conversations", "c" * 64, kind="conversations", settings={"seed_text": "x"},
    metrics={"rows_kept": 1200}, parents=(
        LineageNode("chats.jsonl", "file", "f" * 64, "CC-BY-4.0"), LineageNode("hf:someone/chats@1", "hub", "", "mit")),
)  # fmt: skip
BASE = LineageNode("hf:meta-llama/Llama-3.1-8B@0e9e39f", "hub", "", "llama3.1")
TRAINED = LineageNode(
    "sft-1", "model", "a" * 64, kind="sft", settings={"epochs": 2, "lora": {"rank": 64}, "data": ["/home/me/x"]},
    parents=(DATA, BASE),
)  # fmt: skip
RECEIPT = {
    "bytes": 9e6, "bits_per_weight": 8.5, "kl": 0.001, "zh": {
        "perplexity": 3.2, "source_perplexity": 3.1, "kl": 0.001, "same_top_token": 0.99},
}  # fmt: skip
EXPORTED = LineageNode("gguf-1", "gguf", "b" * 64, kind="gguf", metrics={"Q8_0": RECEIPT}, parents=(TRAINED,))
ASKED = LineageNode(
    "evaluate-1",
    "evaluation",
    "e" * 64,
    kind="evaluate",
    metrics={"exact_match": 0.953, "greedy": {"stops": {"share": 0.987}}},
)


@pytest.fixture(scope="module")
def files(make_model: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hanlin.config.settings.export import Gguf
    from hanlin.export.gguf.export import run as write

    folder = tmp_path_factory.mktemp("files")
    settings = Gguf(model="./m", types=("F16", "Q8_0"), compare=False)
    write(settings, Inputs({"model": (make_model(),)}), folder, StageContext())
    return folder


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    def work(model: Path, target: str, root: LineageNode | None = None, **settings: Any) -> tuple[Path, dict[str, Any]]:
        out = tmp_path / target
        out.mkdir()
        lineage = {"model": (root,), "evaluations": (ASKED,)} if root else {}
        chosen = Package(model="./m", target=target, **settings)
        return out, run(chosen, Inputs({"model": (model,)}, lineage), out, StageContext())

    return work


def names_in(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and ".work" not in path.parts
    }


def test_ollamas_folder_says_context_stops_system_and_licence(files: Path, pack: Pack) -> None:
    out, metrics = pack(files, "ollama", file="Q8_0", name="xiaohan", system="你是小翰。", license="apache-2.0")
    assert {"Modelfile", "model-Q8_0.gguf", "README.md"} <= names_in(out)
    said = read_modelfile(out / "Modelfile")
    assert (said.context, said.system, said.licenses) == (256, "你是小翰。", ("apache-2.0",))
    template = ChatTemplate.load(files)
    assert set(said.stops) == {template.tokenizer.backend.id_to_token(number) for number in template.stop_ids}
    assert said.template is not None and "range" in said.template  # of many turns
    assert (out / said.model).is_file()
    assert metrics["parity"]["mismatches"] == 0
    assert "ollama create xiaohan -f Modelfile" in (out / "README.md").read_text(encoding="utf-8")


def test_ollamas_folder_has_the_sampling_defaults_of_the_model(
    plain_model: Path, pack: Pack, export: Export, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(plain_model, model)
    write_sampling_params(model, {"repetition_penalty": 1.1})
    out, _ = export(model, "Q8_0", compare=False)
    folder, _ = pack(out, "ollama")
    assert read_modelfile(folder / "Modelfile").parameters["repeat_penalty"] == ["1.1"]


def test_lm_studios_folder_is_publisher_model_file(files: Path, pack: Pack) -> None:
    out, _ = pack(files, "lmstudio", name="xiaohan", publisher="hanlin-lab")
    found = {name for name in names_in(out) if name.endswith(".gguf")}
    assert found == {"hanlin-lab/xiaohan/xiaohan-F16.gguf", "hanlin-lab/xiaohan/xiaohan-Q8_0.gguf"}


def test_no_file_of_a_package_replaces_another(files: Path, pack: Pack, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(files, source)
    (q8,) = source.glob("*Q8_0.gguf")
    shutil.copy(q8, source / "other-Q8_0.gguf")
    with pytest.raises(UserError, match=r"would both be xiaohan-Q8_0\.gguf"):
        pack(source, "lmstudio", name="xiaohan", publisher="hanlin-lab")


def test_a_model_in_several_files_is_packaged_whole_and_not_for_ollama(files: Path, pack: Pack, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(files, source, ignore=shutil.ignore_patterns("*.gguf"))
    rewrite_gguf(files / "model-Q8_0.gguf", source / "model-Q8_0.gguf", split_max_tensors=9)
    parts = sorted(path.name.removeprefix("model-Q8_0") for path in source.glob("*.gguf"))
    assert len(parts) > 1
    out, metrics = pack(source, "lmstudio", name="xiaohan", publisher="hanlin-lab")
    assert {f"hanlin-lab/xiaohan/xiaohan-Q8_0{part}" for part in parts} <= names_in(out)
    assert metrics["parity"]["mismatches"] == 0
    out, _ = pack(source, "llama_cpp")
    assert {f"model-Q8_0{part}" for part in parts} <= names_in(out)
    assert f"model-Q8_0{parts[0]}" in (out / "start.sh").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="in several GGUF files"):
        pack(source, "ollama")
    (source / f"model-Q8_0{parts[-1]}").unlink()
    (tmp_path / "lmstudio").rename(tmp_path / "earlier")
    with pytest.raises(UserError, match="1 files of the model are missing"):
        pack(source, "lmstudio", name="xiaohan", publisher="hanlin-lab")


@pytest.mark.parametrize("target", ["llama_cpp", "vllm"])
def test_start_scripts_start_the_server_on_what_lies_beside_them(
    target: str, files: Path, plain_model: Path, pack: Pack, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(files if target == "llama_cpp" else plain_model, source)
    for name in ("NOTICE.txt", "quality_report.svg"):
        (source / name).write_text("x", encoding="utf-8")
    out, _ = pack(source, target, name="xiaohan")
    assert {"NOTICE.txt", "quality_report.svg", "start.sh", "README.md"} <= names_in(out)
    server = tmp_path / "server with spaces"
    server.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n', encoding="utf-8")
    server.chmod(0o755)
    moved = out.rename(tmp_path / "moved here")
    program = {"LLAMA_SERVER": str(server), "VLLM": str(server)}
    done = subprocess.run(
        [str(moved / "start.sh"), "--port", "9"], cwd="/", env={**os.environ, **program}, capture_output=True, text=True
    )
    words = done.stdout.splitlines()
    (place,) = [Path(word) for word in words if word.startswith(str(moved))]
    assert place.exists()
    assert "xiaohan" in words and "256" in words and words[-2:] == ["--port", "9"]
    if target == "vllm":
        assert check_model_folder(place).vocabulary_rows > 0
        assert (place / "generation_config.json").is_file()


def test_the_hubs_folder_has_a_card_made_from_the_lineage(files: Path, pack: Pack) -> None:
    out, _ = pack(files, "huggingface", EXPORTED, name="xiaohan", license="llama3.1")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlanguage:\n- zh\n- en\nlicense: llama3.1\nbase_model: meta-llama/Llama-3.1-8B\n")
    for said in (
        "chats.jsonl",
        "CC-BY-4.0",
        "someone/chats",
        "f" * 16,
        "1,200 records",
        "sft",
        "epochs 2",
        "lora.rank 64",
        "0.953",
        "| evaluate | greedy stops share | 0.987 |",
        "Q8_0",
    ):
        assert said in card, said
    assert "/home/me" not in card
    assert "制作过程" in card and "How it was made" in card


def test_a_model_folder_for_the_hub_is_whole(plain_model: Path, pack: Pack) -> None:
    out, metrics = pack(plain_model, "huggingface")
    assert check_model_folder(out).tensors.keys() == check_model_folder(plain_model).tensors.keys()
    assert ChatTemplate.load(out).stop_ids == ChatTemplate.load(plain_model).stop_ids
    assert metrics["parity"]["backends"][0]["cases"] >= 3 * 13
    assert "No record of it" in (out / "README.md").read_text(encoding="utf-8")


def test_a_package_that_a_program_would_read_otherwise_is_refused(files: Path, pack: Pack, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in files.iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    template = (broken / "chat_template.jinja").read_text(encoding="utf-8")
    (broken / "chat_template.jinja").write_text(template.replace("\\n\\n", "\\n"), encoding="utf-8")
    with pytest.raises(UserError, match="reads"):
        pack(broken, "lmstudio", file="Q8_0")


def test_programs_take_their_own_form_of_model_only(files: Path, plain_model: Path, pack: Pack) -> None:
    with pytest.raises(UserError, match="takes GGUF files"):
        pack(plain_model, "ollama")
    with pytest.raises(UserError, match="takes a model folder"):
        pack(files, "vllm")
    with pytest.raises(UserError, match="no GGUF file matches 'Q2_K'"):
        pack(files, "llama_cpp", file="Q2_K")
    with pytest.raises(ValidationError, match="pattern"):
        Package(model="./m", target="ollama", name="../up")


@pytest.mark.parametrize("name", ["a$(touch x)-Q8_0.gguf", "`touch x`.gguf", "a'b\"c;touch x.gguf", "a\ntouch x.gguf"])
def test_a_start_script_runs_nothing_of_a_file_name(tmp_path: Path, name: str) -> None:
    settings = Package(model="./m", target="llama_cpp")
    source: Any = SimpleNamespace(context=2048)
    _write_start(tmp_path / "start.sh", _command(settings, source, [tmp_path / name]))
    server = tmp_path / "server"
    server.write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n', encoding="utf-8")
    server.chmod(0o755)
    environment = {**os.environ, "LLAMA_SERVER": str(server)}
    done = subprocess.run([tmp_path / "start.sh"], cwd=tmp_path, env=environment, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:2] == ["--model", str(tmp_path / name)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server", "start.sh"]
