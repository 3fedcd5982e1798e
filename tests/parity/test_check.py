"""The check of the chat contract: what it compares, what it finds, and that an export which breaks it is stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import pytest
from tiny_gguf import FOLDERS, Exported, tiny_gguf

from hanlin.chat.packaged import packaged
from hanlin.chat.template import ChatTemplate
from hanlin.chat.turn_order import check_order
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.parity import check as contract
from hanlin.parity.backends.base import Prompt, Unavailable
from hanlin.parity.backends.llama_cpp import LlamaCppConsumer
from hanlin.parity.backends.transformers import TransformersConsumer
from hanlin.parity.cases import PER_KIND, Case, cases
from hanlin.parity.check import check, consumers_of, prove, summary
from hanlin.parity.modelfile import read_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer


@dataclass
class Answering:
    """A program that gives the template's own ids, changed by `change`."""

    template: ChatTemplate
    change: Callable[[list[int]], list[int] | str] = field(default=lambda ids: ids)
    name: str = "program"
    ends: frozenset[int] | None = None

    def prompts(self, batch: Sequence[Prompt]) -> list[list[int] | str]:
        return [self.change(self.template.render(one.messages, one.tools, prompt=True).ids) for one in batch]

    def stops(self) -> frozenset[int] | None:
        return self.ends

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)


def test_there_are_at_least_300_conversations_without_tools_of_every_kind() -> None:
    found = cases()
    kinds = {case.id.rpartition("-")[0] for case in found}
    assert len([case for case in found if not case.tools]) >= 300
    assert len({case.id for case in found}) == len(found) == PER_KIND * len(kinds)
    for case in found:
        check_order(case.messages, prompt=False)
    assert cases() == found


@pytest.mark.parametrize("name", packaged())
def test_every_packaged_template_is_read_alike_by_transformers_and_llama_cpp(name: str, tmp_path: Path) -> None:
    texts = [message.text for case in cases()[::5] for message in case.messages]
    tokenizer = train_tokenizer(texts, vocab_size=700, template=name, out=tmp_path / "tokenizer")
    assert_read_alike(tiny_gguf(ChatTemplate.named(name, tokenizer), tmp_path / "model"))


@pytest.mark.parametrize(("tokenizer", "name"), FOLDERS)
def test_real_tokenizers_are_read_alike_by_transformers_and_llama_cpp(
    tokenizer: str, name: str, exported: Callable[[str, str], Exported]
) -> None:
    assert_read_alike(exported(tokenizer, name))


def assert_read_alike(exported: Exported) -> None:
    """What the export itself found."""
    transformers, llama_cpp = exported.consumers
    assert (transformers["name"], llama_cpp["name"]) == ("transformers", "llama.cpp model-F16.gguf")
    for row in exported.consumers:
        assert (row["mismatches"], row["first"], row["stops_missing"]) == (0, None, [])
        assert row["cases"] >= 300 and row["skipped_because"] is None
        assert row["typed_tokens_read"] > 0


def test_llama3s_own_template_is_exported_in_a_form_that_llama_cpp_reads_alike(
    real_tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    """Its `trim` takes off more white space in Python than in llama.cpp: an ideographic space, for one."""
    own = ChatTemplate.load(real_tokenizers["llama3"])
    assert "| trim" in own.source
    file = tiny_gguf(own, tmp_path).file
    with LlamaCppOf(file) as theirs:
        asked = Prompt((Message("user", "\u3000你好\n"),))
        assert theirs.prompts([asked]) == [ChatTemplate.load(file.parent).render(asked.messages, prompt=True).ids]
        assert theirs.prompts([asked]) != [own.render(asked.messages, prompt=True).ids]


class LlamaCppOf(LlamaCppConsumer):
    def __enter__(self) -> LlamaCppOf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_program_that_differs_in_one_id_is_found_and_shown_in_context(template: ChatTemplate) -> None:
    wrong = Answering(template, lambda ids: [*ids[:5], ids[5] + 1, *ids[6:]])
    (verdict,) = check(template, [("program", lambda: wrong)], cases()[:3])
    assert (verdict.cases, verdict.mismatches) == (3, 3)
    assert verdict.first is not None
    assert (verdict.first.case, verdict.first.place) == ("chinese-1", 5)
    ids = template.render(cases()[0].prompt.messages, prompt=True).ids
    assert f"[{ids[5]}]" in verdict.first.expected
    assert f"[{ids[5] + 1}]" in verdict.first.found


@pytest.mark.parametrize("change", [lambda ids: ids[:-1], lambda ids: [*ids, 0], lambda ids: [], lambda ids: "no"])
def test_ids_that_lack_that_are_too_many_and_refusals_are_mismatches(
    change: Callable[[list[int]], list[int] | str], template: ChatTemplate
) -> None:
    (verdict,) = check(template, [("program", lambda: Answering(template, change))], cases()[:4])
    assert verdict.mismatches == 4
    assert verdict.first is not None


def test_a_program_that_would_not_stop_is_found(template: ChatTemplate) -> None:
    deaf = Answering(template, ends=frozenset(template.stop_ids[1:]))
    (verdict,) = check(template, [("program", lambda: deaf)], cases()[:2])
    assert verdict.stops_missing == template.stop_ids[:1]
    assert not verdict.good


def test_a_program_that_is_not_there_is_said_to_be_unchecked(template: ChatTemplate) -> None:
    def absent() -> Answering:
        raise Unavailable("not installed")

    (verdict,) = check(template, [("program", absent)], cases()[:2])
    assert (verdict.cases, verdict.skipped_because) == (0, "not installed")
    assert summary([verdict])["consumers"][0]["skipped_because"] == "not installed"


def test_a_wrong_mask_is_found(tiny_model: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TransformersConsumer.conversation

    def wrong(self: TransformersConsumer, messages: object, tools: object) -> object:
        ids, learn = honest(self, messages, tools)  # type: ignore[arg-type]
        return ids, [not one for one in learn or ()]

    monkeypatch.setattr(TransformersConsumer, "conversation", wrong)
    (verdict,) = check(ChatTemplate.load(tiny_model), consumers_of(tiny_model), cases()[:2])
    assert verdict.mismatches == 2
    assert "learned" in str(verdict.first)


def test_a_gguf_file_with_another_template_is_found_and_its_export_is_stopped(
    tmp_path: Path, tiny_tokenizer: Path
) -> None:
    """One newline less, as hand-made conversions have it."""
    folder, file, _ = tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path)
    other = file.with_name("other.gguf")
    rewrite_template(file, other, lambda text: text.replace("\\n\\n", "\\n"))
    with pytest.raises(UserError, match=r"other.gguf reads 300 of 300 conversations otherwise; chinese-1, token \d+"):
        prove(ChatTemplate.load(folder), folder, [file, other])


def rewrite_template(source: Path, target: Path, change: Callable[[str], str]) -> None:
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field_ in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field_.contents()
        if name == "tokenizer.chat_template":
            value = change(value)
        kind = field_.types[0]
        writer.add_key_value(name, value, kind, field_.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_an_export_runs_the_check_and_keeps_its_figures(tiny_model: Path, tmp_path: Path) -> None:
    from hanlin.config.settings.export import Gguf
    from hanlin.core.context import Inputs, StageContext
    from hanlin.export.gguf.export import run

    metrics = run(Gguf(model="./m", types=("F32", "Q8_0")), Inputs({"model": (tiny_model,)}), tmp_path, StageContext())
    assert metrics["contract"]["mismatches"] == 0
    names = [row["name"] for row in metrics["contract"]["consumers"]]
    assert names == ["transformers", "llama.cpp model-F32.gguf", "llama.cpp model-Q8_0.gguf"]


def test_a_template_that_takes_no_conversation_is_refused(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    never = ChatTemplate("{{ raise_exception('never') }}", tokenizer, "never.jinja")
    with pytest.raises(UserError, match=r"any conversation.*refuses these turns: never"):
        check(never, [], cases()[:3])


def test_a_conversation_that_the_template_does_not_take_is_left_out(template: ChatTemplate) -> None:
    with_tools = [case for case in cases() if case.tools][:2]
    assert contract.expected_of(template, with_tools) == []
    assert len(contract.expected_of(template, [*with_tools, Case("x", cases()[0].messages)])) == 1


def hanlin(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanlin", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


def test_the_command_prints_a_row_for_each_program_and_ends_with_1_on_a_mismatch(
    tmp_path: Path, tiny_tokenizer: Path
) -> None:
    _, file, _ = tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path)
    done = hanlin("template", "check", str(file.parent), "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["consumers"]
    assert [(row["name"], row["mismatches"], row["skipped_because"]) for row in rows] == [
        ("transformers", 0, None),
        ("llama.cpp model-F16.gguf", 0, None),
    ]
    rewrite_template(file, file.with_name("other.gguf"), lambda text: text.replace("\\n\\n", "\\n"))
    done = hanlin("template", "check", str(file.parent))
    assert done.returncode == 1
    assert "✗  llama.cpp other.gguf: 300 cases, 300 mismatches" in done.stdout


def test_the_command_writes_a_modelfile_for_a_gguf_file(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """Where Go is installed it is checked as well, and said so; without Go it is said to be unchecked."""
    _, file, _ = tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path)
    done = hanlin("template", "modelfile", str(file), "--system", "你是小翰。")
    assert done.returncode == 0, done.stderr
    assert "300 cases, 0 mismatches" in done.stdout or "unchecked: Go is not installed" in done.stdout
    written = read_modelfile(file.parent / "Modelfile")
    assert (written.model, written.system) == ("model-F16.gguf", "你是小翰。")
    assert written.parameters["num_ctx"] == ["256"]
    assert sorted(written.stops) == ["<|end_of_text|>", "<|eot_id|>"]
    assert [path.name for path in file.parent.iterdir() if "Modelfile" in path.name] == ["Modelfile"]
    row = json.loads(hanlin("template", "check", str(file.parent), "--json").stdout)["consumers"][-1]
    assert row["name"] == "modelfile" and row["mismatches"] == 0


def test_a_modelfile_that_differs_is_not_written(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate.load(tiny_tokenizer)

    class Other(Answering):
        def __init__(self, file: Path, tokenizer: Tokenizer, bare: bool) -> None:
            super().__init__(template, lambda ids: ids[1:])

    monkeypatch.setattr(contract, "ModelfileConsumer", Other)
    with pytest.raises(UserError, match="300 of 300 conversations otherwise"):
        contract.prove_modelfile(tmp_path / "Modelfile", tmp_path / "m.gguf", template)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["nowhere", "empty"])
def test_a_folder_without_a_template_is_one_sentence_and_a_hint(place: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = hanlin("template", "check", str(tmp_path / place))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") <= 2
