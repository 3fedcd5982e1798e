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
from typer.testing import CliRunner

from hanlin.chat.packaged import packaged_names
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.chat.turn_order import check_order
from hanlin.cli.commands.template import _print_verdicts
from hanlin.cli.main import app
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.parity import cases
from hanlin.parity import check as contract
from hanlin.parity.backends.base import BackendUnavailable, ChatPrompt
from hanlin.parity.backends.llama_cpp import LlamaCppBackend
from hanlin.parity.backends.transformers import TransformersBackend
from hanlin.parity.cases import PER_KIND, Case, make_cases
from hanlin.parity.check import backends_for, check, summarize, verify
from hanlin.parity.modelfile import read_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer
from rewritten_gguf import rewrite_gguf
from tiny_gguf import FOLDERS, Exported, tiny_gguf


@dataclass
class Answering:
    """A program that gives the template's own ids, changed by `change`."""

    template: ChatTemplate
    change: Callable[[list[int]], list[int] | str] = field(default=lambda ids: ids)
    name: str = "program"
    ends: frozenset[int] | None = None

    def render_prompts(self, batch: Sequence[ChatPrompt]) -> list[list[int] | str]:
        return [self.change(self.template.render(one.messages, one.tools, prompt=True).ids) for one in batch]

    def stop_ids(self) -> frozenset[int] | None:
        return self.ends

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def template(tiny_tokenizer: Path) -> ChatTemplate:
    return ChatTemplate.load(tiny_tokenizer)


def test_there_are_at_least_300_conversations_without_tools_of_every_kind() -> None:
    found = make_cases()
    kinds = {case.id.rpartition("-")[0] for case in found}
    assert len([case for case in found if not case.tools]) >= 300
    assert len({case.id for case in found}) == len(found) == PER_KIND * len(kinds)
    for case in found:
        check_order(case.messages, prompt=False)
    assert make_cases() == found


USUAL = ("chatml", "llama3.1", "deepseek_r1", "alpaca2")


@pytest.mark.parametrize(
    "name", [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in packaged_names()]
)
def test_every_packaged_template_is_read_alike_by_transformers_and_llama_cpp(
    name: str, exported: Callable[[str, str], Exported]
) -> None:
    assert_read_alike(exported("tiny", name))


@pytest.mark.parametrize(("tokenizer", "name"), [pair for pair in FOLDERS if pair.values[0] != "tiny"])
def test_real_tokenizers_are_read_alike_by_transformers_and_llama_cpp(
    tokenizer: str, name: str, exported: Callable[[str, str], Exported]
) -> None:
    assert_read_alike(exported(tokenizer, name))


def assert_read_alike(exported: Exported) -> None:
    """What the export itself found."""
    transformers, llama_cpp = exported.backends
    assert (transformers["name"], llama_cpp["name"]) == ("transformers", "llama.cpp model-F16.gguf")
    for row in exported.backends:
        assert (row["mismatches"], row["first"], row["missing_stop_ids"]) == (0, None, [])
        assert row["cases"] >= 300 and row["skip_reason"] is None
        assert row["typed_tokens_parsed"] > 0


def test_llama3s_own_template_is_exported_in_a_form_that_llama_cpp_reads_alike(
    real_tokenizers: dict[str, Path], tmp_path: Path
) -> None:
    """Its `trim` takes off more white space in Python than in llama.cpp: an ideographic space, for one."""
    source = ChatTemplate.load(real_tokenizers["llama3"]).source
    assert "| trim" in source
    small = train_tokenizer(["你好"], vocab_size=400, template="llama3", out=tmp_path / "tokenizer")
    own = ChatTemplate(source, small, "llama3")
    file = tiny_gguf(own, tmp_path / "model").file
    with LlamaCppOf(file) as theirs:
        asked = ChatPrompt((Message("user", "\u3000你好\n"),))
        assert theirs.render_prompts([asked]) == [
            ChatTemplate.load(file.parent).render(asked.messages, prompt=True).ids
        ]
        assert theirs.render_prompts([asked]) != [own.render(asked.messages, prompt=True).ids]


WHOLE_TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + m.content + '<|im_end|>\n' }}{% endgeneration %}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""A template that marks whole turns as generated, as some training templates do."""


def test_a_mask_that_covers_heads_empty_blocks_and_line_ends_too_is_wider_and_no_mismatch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = train_tokenizer(["你好，世界"], vocab_size=400, template="chatml", out=tmp_path)
    (tmp_path / "chat_template.jinja").write_text(WHOLE_TURNS, encoding="utf-8")
    template = ChatTemplate.load(tmp_path, tokenizer)
    plain = [case for case in make_cases() if case.id.startswith("chinese")]
    (result,) = check(template, backends_for(tmp_path), plain)
    assert result.passed and result.wider_masks == result.cases == len(plain)
    _print_verdicts([result])
    assert "in 25 cases its loss mask also holds what is behind the end token" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("actual", "wrong"), [(b"\0\0\1\1\0", None), (b"\0\0\1\1\1", None), (b"\0\0\0\1\0", 2), (b"\1\0\1\1\0", 0)]
)
def test_a_mask_that_lacks_a_token_or_covers_a_question_is_a_mismatch(
    actual: bytes, wrong: int | None, template: ChatTemplate
) -> None:
    """The ids are a question, the head of an answer, the answer, its end and a line end."""
    tokenizer = template.tokenizer
    end = tokenizer.token_id("<|eot_id|>")
    assert end is not None
    ids = [*tokenizer.encode("a"), end, *tokenizer.encode("b"), end, *tokenizer.encode("\n")]
    expected = TokenizedExample(ids, b"\0\0\1\1\0")
    assert contract._compare_masks(template, expected, actual)[0] == wrong


class LlamaCppOf(LlamaCppBackend):
    def __enter__(self) -> LlamaCppOf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_a_program_that_differs_in_one_id_is_found_and_shown_in_context(template: ChatTemplate) -> None:
    mismatches = Answering(template, lambda ids: [*ids[:5], ids[5] + 1, *ids[6:]])
    (result,) = check(template, [("program", lambda: mismatches)], make_cases()[:3])
    assert (result.cases, result.mismatches) == (3, 3)
    assert result.first is not None
    assert (result.first.case, result.first.index) == ("chinese-1", 5)
    ids = template.render(make_cases()[0].prompt.messages, prompt=True).ids
    assert f"[{ids[5]}]" in result.first.expected
    assert f"[{ids[5] + 1}]" in result.first.actual


@pytest.mark.parametrize("change", [lambda ids: ids[:-1], lambda ids: [*ids, 0], lambda ids: [], lambda ids: "no"])
def test_ids_that_lack_that_are_too_many_and_refusals_are_mismatches(
    change: Callable[[list[int]], list[int] | str], template: ChatTemplate
) -> None:
    (result,) = check(template, [("program", lambda: Answering(template, change))], make_cases()[:4])
    assert result.mismatches == 4
    assert result.first is not None


def test_a_program_that_would_not_stop_is_found(template: ChatTemplate) -> None:
    deaf = Answering(template, ends=frozenset(template.stop_ids[1:]))
    (result,) = check(template, [("program", lambda: deaf)], make_cases()[:2])
    assert result.missing_stop_ids == template.stop_ids[:1]
    assert not result.passed


def test_a_program_that_is_not_there_is_said_to_be_unchecked(template: ChatTemplate) -> None:
    def absent() -> Answering:
        raise BackendUnavailable("not installed")

    (result,) = check(template, [("program", absent)], make_cases()[:2])
    assert (result.cases, result.skip_reason) == (0, "not installed")
    assert summarize([result])["backends"][0]["skip_reason"] == "not installed"


def test_a_wrong_mask_is_found(tiny_model: Path, template: ChatTemplate, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TransformersBackend.render_conversation

    def mismatches(
        self: TransformersBackend, messages: Sequence[Message], prompt: ChatPrompt
    ) -> tuple[list[int], list[bool]]:
        rendered = honest(self, messages, prompt)
        assert not isinstance(rendered, str)
        ids, learn = rendered
        return ids, [not one for one in learn or ()]

    monkeypatch.setattr(TransformersBackend, "render_conversation", mismatches)
    (result,) = check(ChatTemplate.load(tiny_model), backends_for(tiny_model), make_cases()[:2])
    assert result.mismatches == 2
    assert "learned" in str(result.first)


@pytest.fixture
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two conversations of each of the 13 kinds that a template without reasoning takes."""
    monkeypatch.setattr(cases, "PER_KIND", 2)


def rewrite_template(source: Path, target: Path) -> None:
    """A copy of a GGUF file whose template has one newline less, as hand-made conversions have it."""
    template = str(gguf.GGUFReader(source).fields["tokenizer.chat_template"].contents())
    rewrite_gguf(source, target, {"tokenizer.chat_template": template.replace("\\n\\n", "\\n")})


@pytest.mark.usefixtures("few_cases")
def test_a_gguf_file_with_another_template_is_found_and_its_export_is_stopped(
    tmp_path: Path, tiny_tokenizer: Path
) -> None:
    folder, file, _ = tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path)
    other = file.with_name("other.gguf")
    rewrite_template(file, other)
    with pytest.raises(UserError, match=r"other.gguf reads 26 of 26 conversations differently; chinese-1, token \d+"):
        verify(ChatTemplate.load(folder), folder, [file, other])


@pytest.mark.usefixtures("few_cases")
def test_an_export_runs_the_check_and_keeps_its_figures(tiny_model: Path, tmp_path: Path) -> None:
    from hanlin.config.settings.export import Gguf
    from hanlin.core.context import Inputs, StageContext
    from hanlin.export.gguf.export import run

    metrics = run(Gguf(model="./m", types=("F32", "Q8_0")), Inputs({"model": (tiny_model,)}), tmp_path, StageContext())
    assert metrics["parity"]["mismatches"] == 0
    names = [row["name"] for row in metrics["parity"]["backends"]]
    assert names == ["transformers", "llama.cpp model-F32.gguf", "llama.cpp model-Q8_0.gguf"]


def test_a_template_that_takes_no_conversation_is_refused(tiny_tokenizer: Path) -> None:
    tokenizer = Tokenizer.load(tiny_tokenizer)
    never = ChatTemplate("{% if messages %}{{ raise_exception('never') }}{% endif %}", tokenizer, "never.jinja")
    with pytest.raises(UserError, match=r"any conversation.*refuses these turns: never"):
        check(never, [], make_cases()[:3])


def test_a_conversation_that_the_template_does_not_take_is_left_out(template: ChatTemplate) -> None:
    with_tools = [case for case in make_cases() if case.tools][:2]
    assert contract.compute_expected(template, with_tools) == []
    assert len(contract.compute_expected(template, [*with_tools, Case("x", make_cases()[0].messages)])) == 1


def hanlin(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hanlin", *words]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.mark.usefixtures("few_cases")
def test_the_command_prints_a_row_for_each_program_and_ends_with_1_on_a_mismatch(
    tmp_path: Path, tiny_tokenizer: Path
) -> None:
    _, file, _ = tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path)
    done = CliRunner().invoke(app, ["template", "check", str(file.parent), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["backends"]
    assert [(row["name"], row["mismatches"], row["skip_reason"]) for row in rows] == [
        ("transformers", 0, None),
        ("llama.cpp model-F16.gguf", 0, None),
    ]
    rewrite_template(file, file.with_name("other.gguf"))
    done = CliRunner().invoke(app, ["template", "check", str(file.parent)])
    assert done.exit_code == 1
    assert "✗  llama.cpp other.gguf: 26 cases, 26 mismatches" in done.stdout


@pytest.mark.usefixtures("few_cases")
def test_the_command_writes_a_modelfile_for_a_gguf_file(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """Where Go is installed it is checked as well, and said so; without Go it is said to be unchecked."""
    _, file, _ = tiny_gguf(ChatTemplate.load(tiny_tokenizer), tmp_path)
    done = CliRunner().invoke(app, ["template", "modelfile", str(file), "--out", str(tmp_path / "nowhere/Modelfile")])
    assert isinstance(done.exception, UserError) and "no such folder" in done.exception.what
    done = CliRunner().invoke(app, ["template", "modelfile", str(file), "--system", "你是小翰。"])
    assert done.exit_code == 0, done.output
    assert "26 cases, 0 mismatches" in done.stdout or "unchecked: Go is not installed" in done.stdout
    written = read_modelfile(file.parent / "Modelfile")
    assert (written.model, written.system) == ("model-F16.gguf", "你是小翰。")
    assert written.parameters["num_ctx"] == ["256"]
    assert sorted(written.stops) == ["<|end_of_text|>", "<|eot_id|>"]
    assert [path.name for path in file.parent.iterdir() if "Modelfile" in path.name] == ["Modelfile"]
    checked = CliRunner().invoke(app, ["template", "check", str(file.parent), "--json"])
    row = json.loads(checked.stdout)["backends"][-1]
    assert row["name"] == "modelfile" and row["mismatches"] == 0


def test_a_modelfile_that_differs_is_not_written(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = ChatTemplate.load(tiny_tokenizer)

    class Other(Answering):
        def __init__(self, file: Path, tokenizer: Tokenizer, bare: bool) -> None:
            super().__init__(template, lambda ids: ids[1:])

    monkeypatch.setattr(contract, "OllamaBackend", Other)
    with pytest.raises(UserError, match="325 of 325 conversations differently"):
        contract.verify_modelfile(tmp_path / "Modelfile", tmp_path / "m.gguf", template)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("index", ["nowhere", "empty"])
def test_a_folder_without_a_template_is_one_sentence_and_a_hint(index: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = hanlin("template", "check", str(tmp_path / index))
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") <= 2
