"""Modelfiles: Ollama's grammar, and the ids that Ollama feeds for the Go form of every packaged chat template."""

# ruff: noqa: F811 (fixtures are imported by name)
from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanlin.chat.packaged import keep_setting, packaged_names, read_packaged_template
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Message, ToolCall
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.parity.backends import ollama
from hanlin.parity.backends.base import BackendUnavailable, ChatPrompt
from hanlin.parity.backends.ollama import OllamaBackend
from hanlin.parity.modelfile import find_packaged_name, go_template_names, read_modelfile, write_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer
from tokenizer_folders import llama2, llama3, tiny_sentencepiece  # noqa: F401

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed: only Go renders a Modelfile")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The built renderer goes into a folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def find_template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ChatTemplate]:
    """Any packaged template over a tiny byte-level tokenizer that has its special tokens."""
    made: dict[str, ChatTemplate] = {}

    def find(name: str) -> ChatTemplate:
        if name not in made:
            texts = ["你好，我叫小翰。", "Hello, my name is Xiaohan.", "Assistant: User: [INST] ok [/INST]"] * 3
            tokenizer = train_tokenizer(texts, 400, name, tmp_path_factory.mktemp("template"))
            made[name] = ChatTemplate.from_packaged(name, tokenizer)
        return made[name]

    return find


def backend_of(template: ChatTemplate, folder: Path, **more: Any) -> OllamaBackend:
    file = folder / "Modelfile"
    write_modelfile(file, "./model.gguf", template, context=4096, **more)
    return OllamaBackend(file, template.tokenizer)


def turns(*texts: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn, after a system text if there is one."""
    speakers = ("user", "assistant")
    said = [Message(speakers[index % 2], text) for index, text in enumerate(texts)]  # type: ignore[arg-type]
    return said if system is None else [Message("system", system), *said]


CONVERSATIONS = [
    turns("你好"),
    turns("你好", system="你是助手。"),
    turns("你叫什么名字？", "我叫小翰。", "What is your name?", "Xiaohan.", "再说一遍"),
    turns("一", "二", "三", system="Answer briefly.\n\nIn Chinese."),
    turns(""),
    turns("", "", "", system=""),
    turns("  \n前后有空白\t \u3000", "\u3000全角\u00a0", "\x1c\u2028x\u2003\x0b", system="\r\n system \u0085"),
    turns("family 👨\u200d👩\u200d👧\u200d👦 🇨🇳 👍🏽", "🙂", "🏴"),
    turns("𠮷野家 㐂 𪚥 𰻝"),
    turns("مرحبا \u200fשלום", "\u202eabc\u202c", "שלום"),
    turns('```python\nif a < b and b > c:\n\tprint(\'{{ .Content }}\', """x""")\n```', "`{{ end }}`"[1:-1], "'\"\\&"),
    turns("User:\nhi", "Assistant:\n", "[INST] x [/INST]", "<<SYS>>\n", "<", ".", '"quoted"'),
    turns("nul \x00 bell \x07 del \x7f", "\ufeffbom", "\ufffd"),
]


def scrambled(seed: int, count: int) -> list[list[Message]]:
    """Conversations of texts that no one would write; none types a special token."""
    chance = random.Random(seed)
    pieces = [*"你院a。!(é🙂𠮷:-<>▁_'\\", "翰林", "The", "12", "3.5", '"', "'s", "{{", "}}"]
    pieces += [" ", " word", "\n", "\r\n", "\t", "\u3000", "\u00a0", "\u2029", "\u200d", "\ue000"]

    def text() -> str:
        return "".join(chance.choices(pieces, k=chance.randrange(12)))

    return [
        turns(*(text() for _ in range(chance.choice([1, 3, 5]))), system=text() if chance.random() < 0.5 else None)
        for _ in range(count)
    ]


def assert_same_ids(template: ChatTemplate, folder: Path, prompts: Sequence[ChatPrompt]) -> None:
    for prompt, ids in zip(prompts, backend_of(template, folder).render_prompts(prompts), strict=True):
        ours = template.render(prompt.messages, prompt.tools, prompt=True).ids
        assert ids == ours, (prompt, ids if isinstance(ids, str) else template.tokenizer.decode(ids, False))


# ------------------------------------------------------------------------------- the same ids as in training


@needs_go
@pytest.mark.parametrize("name", go_template_names())
def test_ollama_feeds_the_ids_of_training(
    name: str, find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    assert_same_ids(
        find_template(name), tmp_path, [ChatPrompt(tuple(each)) for each in [*CONVERSATIONS, *scrambled(1, 100)]]
    )


@needs_go
@pytest.mark.parametrize("name", ["llama2", "alpaca2", "atom", "plain"])
def test_a_sentencepiece_tokenizer_sets_its_spaces_alike(name: str, tiny_sentencepiece: Path, tmp_path: Path) -> None:
    template = ChatTemplate.from_packaged(name, Tokenizer.load(tiny_sentencepiece))
    assert_same_ids(template, tmp_path, [ChatPrompt(tuple(each)) for each in [*CONVERSATIONS, *scrambled(2, 100)]])


@needs_go
@pytest.mark.parametrize("name", ["llama2", "alpaca2", "atom", "plain"])
def test_with_the_tokenizer_of_llama_2(name: str, llama2: Path, tmp_path: Path) -> None:
    template = ChatTemplate.from_packaged(name, Tokenizer.load(llama2))
    assert_same_ids(template, tmp_path, [ChatPrompt(tuple(each)) for each in [*CONVERSATIONS, *scrambled(3, 100)]])


@needs_go
@pytest.mark.parametrize("name", ["llama3", "llama3.1", "shareai_v1", "shareai_instruct", "plain", "atom"])
def test_with_the_tokenizer_of_llama_3(name: str, llama3: Path, tmp_path: Path) -> None:
    template = ChatTemplate.from_packaged(name, Tokenizer.load(llama3))
    assert_same_ids(template, tmp_path, [ChatPrompt(tuple(each)) for each in [*CONVERSATIONS, *scrambled(4, 100)]])


@needs_go
def test_a_begin_token_that_the_tokenizer_does_not_set_is_written(
    find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    set_by_tokenizer = find_template("llama3").tokenizer
    bare = Tokenizer(
        type(set_by_tokenizer.backend).from_str(set_by_tokenizer.backend.to_str()), set_by_tokenizer.config, tmp_path
    )
    bare.backend.post_processor = None
    assert set_by_tokenizer.adds_bos and not bare.adds_bos
    assert_same_ids(ChatTemplate.from_packaged("llama3", bare), tmp_path, [ChatPrompt(tuple(turns("你好")))])


# ----------------------------------------------------------------------------------------------- tools

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Weather of a <city> & "date"; 天气',
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "哪座城市？"},
                "days": {"type": ["integer", "null"]},
                "of": {"type": "array", "items": {"type": "string"}, "description": "which\nvalues"},
                "unit": {"type": "string", "enum": ["°C", "°F"], "description": "unit"},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {"name": "clock", "description": "现在几点", "parameters": {"type": "object", "properties": {}}}
RESULTS = ['晴，<25> & "好"', "", "\\ \x00\x1f\x7f\b\f\t\r\n\u2028", "字" * 300 + '"' + "𠮷🙂" * 200 + "\n" * 600]


def calling(result: str, **arguments: Any) -> list[Message]:
    call = Message("assistant", "", tool_calls=(ToolCall("weather", arguments),))
    return [Message("user", "天气？"), call, Message("tool", result, name="weather")]


WITH_TOOLS = ["llama3.1", "llama3.2", "hermes", "qwen3"]


@needs_go
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_tools_calls_and_results_are_written_as_in_training(
    name: str, find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    calls: list[dict[str, Any]] = [
        {},
        {"city": "北京"},
        {"a": 1, "b": 2.5, "c": True, "d": None, "e": [], "f": {}, "g": "<'\"&\\\n>"},
        {"list": [1, ["x", {"k": "v", "w": [None]}], {}], "nested": {"a": {"b": "京"}}},
    ]
    rows: list[tuple[list[Message], list[dict[str, Any]]]] = [(turns("hi"), [WEATHER])]
    rows += [(turns("a", "b", "c", system=" s "), [CLOCK, WEATHER])]
    rows += [(calling(result, city="x"), [WEATHER]) for result in RESULTS]
    rows += [(calling("ok", **arguments), [CLOCK]) for arguments in calls]
    rows += [([*calling("1"), Message("tool", "2"), Message("assistant", "好"), Message("user", "?")], [CLOCK])]
    rows += [(several_calls(text), [WEATHER, CLOCK]) for text in ("", "我查一下。", " \n", "\n 两步 \n\n")]
    rows += [(turns("hi"), [{"name": "bare"}])]
    prompts = [ChatPrompt(tuple(messages), tuple(tools)) for messages, tools in rows]
    assert_same_ids(find_template(name), tmp_path, prompts)


def several_calls(text: str, reasoning: str = "") -> list[Message]:
    """A question with two calls at once beside a text, and their results."""
    calls = (ToolCall("weather", {"city": "上海", "sure": False}, "a"), ToolCall("clock", {}, "b"))
    asked = [Message("user", "现在几点？天气如何？"), Message("assistant", text, calls, reasoning=reasoning)]
    results = [Message("tool", "晴", name="weather", tool_call_id="a"), Message("tool", "8:00", name="clock")]
    return [*asked, *results]


# ------------------------------------------------------------------------------------------- reasoning

THOUGHTS = ["先看天气。", "\n 想\n\n再想 \n", "\u3000"]


@needs_go
@pytest.mark.parametrize("past_reasoning", ["template", "keep"])
@pytest.mark.parametrize("name", [*WITH_TOOLS, "deepseek_r1"])
def test_reasoning_is_written_as_in_training(
    name: str, past_reasoning: str, find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    template = find_template(name).with_past_reasoning(past_reasoning)
    question, answer = turns("一", "二")
    answered = [question, replace(answer, reasoning="旧的想法")]
    rows = [[*answered, *turns("三", "四", "五")]]
    if name in WITH_TOOLS:
        rows += [[*answered, *several_calls(text, thought)] for text in ("", "\n我查一下。") for thought in THOUGHTS]
    tools = (WEATHER, CLOCK) if name in WITH_TOOLS else ()
    prompts = [ChatPrompt(tuple(messages), tools) for messages in rows]
    texts = [template.tokenizer.decode(template.render(one.messages, tools, prompt=True).ids, False) for one in prompts]
    assert all(("旧的想法" in text) == (past_reasoning == "keep") for text in texts)
    assert_same_ids(template, tmp_path, prompts)


@needs_go
@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1"])
def test_thinking_is_switched_as_in_training(
    name: str, find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    template, messages = find_template(name), tuple(turns("你好", "好", "再见"))
    switches = (None, True, False)
    ids = backend_of(template, tmp_path).render_prompts([ChatPrompt(messages, thinking=on) for on in switches])
    assert ids == [template.render(messages, prompt=True, thinking=on).ids for on in switches]
    assert ids[0] == ids[1] != ids[2]


def test_earlier_reasoning_that_a_go_form_cannot_keep_is_refused(
    find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    template = find_template("chatml").with_past_reasoning("keep")
    with pytest.raises(UserError, match="has no place for the reasoning of earlier answers"):
        write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    assert not (tmp_path / "Modelfile").exists()


def test_every_packaged_template_has_a_go_form() -> None:
    assert go_template_names() == tuple(packaged_names())


def reordered(tool: Mapping[str, Any], **properties: Any) -> dict[str, Any]:
    function = {**tool["function"], "parameters": {"type": "object", "properties": properties}}
    return {"type": "function", "function": function}


@needs_go
@pytest.mark.parametrize(
    ("messages", "tools"),
    [
        (calling("ok", unit="°C", city="北京"), [WEATHER]),
        (calling("ok", degrees=3.0), [WEATHER]),
        (turns("?"), [reordered(WEATHER, unit={"type": "string"}, city={"type": "string"})]),
        (turns("?"), [reordered(WEATHER, city={"type": "string", "default": "北京"})]),
        (turns("?"), [reordered(WEATHER, index={"type": "object", "properties": {"x": {"type": "number"}}})]),
        ([*turns("one"), *turns("two")], []),
    ],
    ids=["arguments unsorted", "3.0", "properties unsorted", "unknown key", "nested object", "user twice"],
)
def test_what_ollama_loses_shows_as_other_ids(
    messages: list[Message], tools: list[dict[str, Any]], find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    template = find_template("llama3.1")
    ids = backend_of(template, tmp_path).render_prompts([ChatPrompt(tuple(messages), tuple(tools))])
    assert ids != [template.render(messages, tools, prompt=True).ids]


# --------------------------------------------------------------------------------------- what is written


def test_every_stop_and_the_context_are_written(find_template: Callable[[str], ChatTemplate], tmp_path: Path) -> None:
    template = find_template("llama3")
    write_modelfile(
        tmp_path / "Modelfile", "./a b.gguf", template, context=8192, system=' 你好\n"x" ', license="MIT\f\n"
    )
    read = read_modelfile(tmp_path / "Modelfile")
    assert OllamaBackend(tmp_path / "Modelfile", template.tokenizer).stop_ids() == set(template.stop_ids)
    assert (read.model, read.context, read.system, read.licenses) == ("./a b.gguf", 8192, ' 你好\n"x" ', ("MIT",))


@pytest.mark.parametrize("name", go_template_names())
def test_a_default_system_text_stands_in_the_template_alone(
    name: str, find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    write_modelfile(tmp_path / "Modelfile", "model.gguf", find_template(name))
    assert read_modelfile(tmp_path / "Modelfile").system == ""


def test_a_packaged_template_is_known_by_its_source_with_or_without_what_hanlin_puts_before_it() -> None:
    begin = "{{- bos_token -}}\n"
    for name in packaged_names():
        for before in ("", begin, keep_setting(True), begin + keep_setting(True), keep_setting(False) + begin):
            assert find_packaged_name(before + read_packaged_template(name)) == name


def test_a_foreign_template_has_no_go_form(tiny_tokenizer: Path, tmp_path: Path) -> None:
    template = ChatTemplate(
        "{{- bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}",
        Tokenizer.load(tiny_tokenizer),
        "its template",
    )
    with pytest.raises(UserError, match="no Go template is known"):
        write_modelfile(tmp_path / "Modelfile", "model.gguf", template)
    assert not (tmp_path / "Modelfile").exists()


@pytest.mark.parametrize("system", ['say """ thrice', "a full-width\u3000space", "a\u200djoiner"])
def test_a_text_that_ollama_would_change_is_refused(
    system: str, find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="SYSTEM cannot hold this text"):
        write_modelfile(tmp_path / "Modelfile", "model.gguf", find_template("llama3"), system=system)
    assert not (tmp_path / "Modelfile").exists()


# ------------------------------------------------------------------------------------------------ the grammar


def parsed(tmp_path: Path, text: str | bytes) -> Any:
    file = tmp_path / "Modelfile"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_modelfile(file)


def test_the_grammar_of_a_modelfile(tmp_path: Path) -> None:
    text = (
        "\ufeff# a comment\r\n\n  from   ./model.gguf  \r\n"
        'TEMPLATE """{{ .System }}\n\n"{{ .Prompt }}" # no comment """\n'
        "system You are 翰林, \u3000a helper\u200d.\n"
        'Parameter stop "<|eot_id|>"\nPARAMETER stop <|end_of_text|>\nPARAMETER num_ctx 2048\nPARAMETER num_ctx 8192\n'
        'MESSAGE user "two\nlines"\nmessage assistant yes: really\n'
        'LICENSE """\nMIT\n"""\nLICENSE Apache\nADAPTER ./lora.gguf\nREQUIRES 0.14.0'
    )
    read = parsed(tmp_path, text)
    assert read.model == "./model.gguf"
    assert read.template == '{{ .System }}\n\n"{{ .Prompt }}" # no comment '
    assert read.system == "You are 翰林, a helper."
    assert read.stops == ("<|eot_id|>", "<|end_of_text|>") and read.context == 8192
    assert read.messages == (("user", "two\nlines"), ("assistant", "yes: really"))
    assert read.licenses == ("\nMIT\n", "Apache") and read.adapters == ("./lora.gguf",)
    assert read.others == {"requires": "0.14.0"}


def test_the_sampling_defaults_of_a_model_become_parameters(
    find_template: Callable[[str], ChatTemplate], tmp_path: Path
) -> None:
    file = tmp_path / "Modelfile"
    write_modelfile(file, "./m.gguf", find_template("chatml"), sampling={"temperature": 0, "repetition_penalty": 1.1})
    found = read_modelfile(file).parameters
    assert (found["temperature"], found["repeat_penalty"]) == (["0"], ["1.1"])
    assert "top_p" not in found


def test_a_modelfile_may_be_utf_16(tmp_path: Path) -> None:
    assert parsed(tmp_path, "FROM 模型.gguf\n".encode("utf-16")).model == "模型.gguf"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("FROM a\nTEMPLAT x\n", 2, "no instruction 'TEMPLAT'.*template"),
        ("FROM a\n\n{\n", 3, "no instruction '{'"),
        ("FROM\n", 1, "after FROM a space"),
        ("FROM \n", 1, "FROM names no model"),
        ('FROM a\r\nTEMPLATE """{{ .Prompt }}\n', 2, "quotation mark is never closed"),
        ('FROM a\nTEMPLATE """x""" y\n', 2, "quotation mark is never closed"),
        ('FROM a\nSYSTEM "x\n', 2, "quotation mark is never closed"),
        ("FROM a\nPARAMETER  stop x\n", 2, "PARAMETER names no parameter"),
        ("FROM a\nPARAMETER stop\n", 2, "after parameter stop a space"),
        ("FROM a\nPARAMETER num_ctx 4k\n", 2, "num_ctx is not a number"),
        ("FROM a\nMESSAGE tool x\n", 2, "no role 'tool'"),
        ("SYSTEM x\n", None, "no FROM"),
        ("", None, "no FROM"),
        (b"FROM \xff\xfa\n", None, "cannot be read as text"),
    ],
)
def test_what_is_no_modelfile_is_said_with_its_line(
    text: str | bytes, line: int | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says) as caught:
        parsed(tmp_path, text)
    assert caught.value.where == str(tmp_path / "Modelfile") + ("" if line is None else f":{line}")


# ----------------------------------------------------------------------------------- how Ollama renders others


def rendered(tmp_path: Path, tiny_tokenizer: Path, modelfile: str, *messages: Message) -> str:
    file = tmp_path / "Modelfile"
    file.write_text("FROM a\n" + modelfile, encoding="utf-8")
    return OllamaBackend(file, Tokenizer.load(tiny_tokenizer)).texts([ChatPrompt(messages)])[0]


CHAT = turns("U1", "A1", "U2", system="S")
LEGACY = "{{ if .System }}[{{ .System }}]{{ end }}<{{ .Prompt }}>"


@needs_go
@pytest.mark.parametrize(
    ("modelfile", "messages", "text"),
    [
        (f"TEMPLATE {LEGACY}{{{{ .Response }}}};", CHAT, "[S]<U1>A1;<U2>"),
        (f"TEMPLATE {LEGACY}", CHAT, "[S]<U1>A1<U2>"),
        ("TEMPLATE {{ .Prompt }}", turns("U1", "", "U2"), "U2"),
        (
            "TEMPLATE {{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}",
            [*turns("a"), *turns("b")],
            "user:a\n\nb;",
        ),
        ("TEMPLATE {{ .System }}{{ range .Messages }}{{ end }}\nSYSTEM D", turns("x"), "D"),
        ("TEMPLATE {{ .System }}{{ range .Messages }}{{ end }}\nSYSTEM D", CHAT, "S"),
        (
            "MESSAGE user a\nMESSAGE assistant b\nSYSTEM D\n"
            "TEMPLATE {{ range .Messages }}{{ .Role }}:{{ .Content }};{{ end }}",
            turns("x"),
            "system:D;user:a;assistant:b;user:x;",
        ),
        ("TEMPLATE {{ range .Messages }}{{ json .Content }}{{ end }}", turns("<é>"), '"\\u003cé\\u003e"'),
    ],
    ids=["exchanges", "no response", "an empty answer", "joined", "default", "given", "messages first", "json"],
)
def test_ollama_renders(
    modelfile: str, messages: list[Message], text: str, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    assert rendered(tmp_path, tiny_tokenizer, modelfile, *messages) == text


@needs_go
def test_a_written_begin_token_comes_twice(tmp_path: Path, tiny_tokenizer: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text("FROM a\nTEMPLATE <|begin_of_text|>{{ range .Messages }}{{ .Content }}{{ end }}", encoding="utf-8")
    tokenizer = Tokenizer.load(tiny_tokenizer)
    ids = OllamaBackend(file, tokenizer).render_prompts([ChatPrompt(tuple(turns("a")))])[0]
    assert ids == [tokenizer.bos_id, tokenizer.bos_id, *tokenizer.encode("a")]


@needs_go
@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ .Messages", "Go refuses its TEMPLATE: .*unclosed action"),
        ("{{ strip .Prompt }}", "Go refuses its TEMPLATE: .*strip"),
        ('{{ define "x" }}{{ end }}{{ template "x" }}', "is given no value"),
    ],
)
def test_what_go_refuses_is_said(template: str, says: str, tmp_path: Path, tiny_tokenizer: Path) -> None:
    with pytest.raises(UserError, match=says):
        rendered(tmp_path, tiny_tokenizer, f"TEMPLATE {template}", *turns("a"))


@needs_go
def test_a_template_that_refuses_one_prompt_leaves_the_others(tmp_path: Path, tiny_tokenizer: Path) -> None:
    file = tmp_path / "Modelfile"
    file.write_text("FROM a\nTEMPLATE {{ range .Messages }}{{ slice .Content 0 2 }}{{ end }}", encoding="utf-8")
    tokenizer = Tokenizer.load(tiny_tokenizer)
    short, long = OllamaBackend(file, tokenizer).render_prompts(
        [ChatPrompt(tuple(turns("a"))), ChatPrompt(tuple(turns("ab")))]
    )
    assert isinstance(short, str) and "out of range" in short
    assert long == [tokenizer.bos_id, *tokenizer.encode("ab")]


@pytest.mark.parametrize(("modelfile", "says"), [("", "no TEMPLATE"), ("TEMPLATE x\nRENDERER qwen3", "RENDERER lets")])
def test_a_template_that_decides_nothing_is_refused(
    modelfile: str, says: str, tmp_path: Path, tiny_tokenizer: Path
) -> None:
    with pytest.raises(UserError, match=says):
        rendered(tmp_path, tiny_tokenizer, modelfile, *turns("a"))


def test_without_go_the_consumer_is_unavailable(
    tmp_path: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ollama.shutil, "which", lambda name: None)
    with pytest.raises(BackendUnavailable, match="Go is not installed"):
        rendered(tmp_path, tiny_tokenizer, "TEMPLATE {{ .Prompt }}", *turns("a"))
