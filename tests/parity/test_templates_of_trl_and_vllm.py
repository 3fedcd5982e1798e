"""The chat templates that TRL trains with and vLLM serves with: Hanlin reads their files as transformers does.

They are judges from outside, and none of them is part of this repository. TRL's are found where TRL is installed, or in
the folder HANLIN_TRL_TEMPLATES; vLLM's in HANLIN_VLLM_TEMPLATES, the `examples` of its source distribution.
HANLIN_CONVERSATIONS and HANLIN_SEED draw as many for each template as `test_generated` does.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from test_generated import COUNT, QUIET, SEED

from conversations import conversations
from hanlin.chat.rendering.refusal import TemplateRefusal
from hanlin.chat.rendering.sandbox import REFERENCE_DATE
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.records import Message
from hanlin.parity.backends.base import ChatPrompt
from hanlin.parity.backends.transformers import TransformersBackend
from hanlin.parity.cases import Case
from hanlin.parity.check import as_sent, compare, compute_expected
from hanlin.tokenizer.tokenizer import Tokenizer

WORD = re.compile(
    r'<\|(?:[\w./+-]+|")\|>|<｜[\w▁]+｜>|<\|\w+>|<\w+\|>|<(?:start|end)_of_(?:turn|image)>|\[/?[A-Z_]{3,}\]'
)
"""Special tokens as templates spell them."""
DATE = re.compile(r"strftime_now\(['\"]([^'\"]+)['\"]\)")


def _folder_of_trl() -> Path | None:
    if named := os.environ.get("HANLIN_TRL_TEMPLATES"):
        return Path(named)
    spec = find_spec("trl")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "chat_templates"


def _templates(folder: Path | None, pattern: str, missing: str) -> list[Any]:
    files = sorted(folder.glob(pattern)) if folder else []
    skipped = pytest.param(None, id="none", marks=pytest.mark.skip(missing))
    return [pytest.param(file, id=file.stem) for file in files] or [skipped]


TRL = _folder_of_trl()
VLLM = Path(os.environ["HANLIN_VLLM_TEMPLATES"]) if "HANLIN_VLLM_TEMPLATES" in os.environ else None
NO_TRL = "TRL is not installed; name its folder chat_templates in HANLIN_TRL_TEMPLATES"
NO_VLLM = "name the folder of vLLM's examples in HANLIN_VLLM_TEMPLATES"
TRAINED_BY_TRL = _templates(TRL, "*_training.jinja", NO_TRL)
SERVED_BY_VLLM = _templates(VLLM, "*.jinja", NO_VLLM)


@pytest.fixture
def folder_for(shared_data: Path, tmp_path: Path) -> Callable[[Path], Path]:
    """A folder of Llama 3's tokenizer with a template's special tokens in the place of reserved ones, and the template
    as its authors wrote it, today's date apart: the one of training is written out.
    """

    def make(file: Path) -> Path:
        folder = shared_data / "tokenizer" / "llama3"
        source = DATE.sub(lambda found: f"'{REFERENCE_DATE.strftime(found[1])}'", file.read_text(encoding="utf-8"))
        texts = {
            "tokenizer.json": gzip.decompress((folder / "tokenizer.json.gz").read_bytes()).decode("utf-8"),
            "tokenizer_config.json": (folder / "instruct" / "tokenizer_config.json").read_text(encoding="utf-8"),
        }
        known = texts["tokenizer.json"]
        words = [word for word in dict.fromkeys(WORD.findall(source)) if f'"{word}"' not in known]
        for name, text in texts.items():
            for index, word in enumerate(words):
                spelled = json.dumps(word, ensure_ascii=False)[1:-1]
                text = text.replace(f"<|reserved_special_token_{index}|>", spelled)
            data = json.loads(text)
            data.pop("chat_template", None)
            if name == "tokenizer.json" and "bos_token" not in source and "<|begin_of_text|>" not in source:
                data["post_processor"] = None  # the tokenizer of a model whose template writes none adds none
            (tmp_path / name).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
        return tmp_path

    return make


def drawn(check: Callable[[Case], None], tools: bool = True, thinks: bool = True) -> None:
    """Run a check on COUNT conversations, some with tools and some with reasoning."""

    @seed(SEED)
    @settings(max_examples=COUNT, deadline=None, database=None, suppress_health_check=QUIET)
    @given(
        st.tuples(st.booleans(), st.booleans()).flatmap(
            lambda kind: conversations(tools=tools and kind[0], thinks=thinks and kind[1])
        )
    )
    def draw(case: Case) -> None:
        check(case)

    draw()


@pytest.mark.parametrize("file", TRAINED_BY_TRL + SERVED_BY_VLLM)
def test_prompts_answers_masks_and_refusals_equal_those_of_transformers(
    file: Path, folder_for: Callable[[Path], Path]
) -> None:
    """The prompts of all drawn conversations, and the text and the mask of those that can be learned."""
    folder = folder_for(file)
    template, theirs = ChatTemplate.load(folder), TransformersBackend(folder)
    counts: Counter[str] = Counter()

    def check(case: Case) -> None:
        counts["conversations"] += 1
        counts["with reasoning"] += any(message.reasoning for message in case.messages)
        counts["with calls"] += any(message.tool_calls for message in case.messages)
        check_prompt(template, theirs, case, counts)
        expected = compute_expected(template, [case])
        if not expected:
            counts[refused_reason(template, case)] += 1
            return
        result = compare(template, theirs, expected)
        assert not result.mismatches, result.first
        counts["learned"] += 1
        counts["with a wider mask there"] += result.wider_masks

    drawn(check)
    print(f"{file.name}: {dict(counts)}, seed {SEED}")
    assert counts["prompts"] or "prompts refused by both" in counts


def check_prompt(template: ChatTemplate, theirs: TransformersBackend, case: Case, counts: Counter[str]) -> None:
    """A prompt has the ids that transformers gives; where one refuses it, the other does."""
    form = template.reasoning_form
    thinking = True if template.thinking_switches else None
    sent = as_sent(case.prompt.messages, form)
    prompt = ChatPrompt(sent, case.tools, thinking, form.field or "reasoning_content")
    (actual,) = theirs.render_prompts([prompt])
    try:
        ids = template.render_unshielded(case.prompt.messages, case.tools, prompt=True, thinking=thinking).ids
    except TemplateRefusal as refusal:
        assert refusal.reason == "template_refuses" and isinstance(actual, str), f"{refusal}, theirs: {actual!r:.300}"
        counts["prompts refused by both"] += 1
    else:
        assert actual == ids
        counts["prompts"] += 1


def refused_reason(template: ChatTemplate, case: Case) -> str:
    """Why a conversation is not learned; each reason is named to the user."""
    try:
        template.render_examples(case.messages, case.tools)
        template.render(case.prompt.messages, case.tools, prompt=True)
    except TemplateRefusal as refusal:
        return f"not learned: {refusal.reason}"
    except UserError as error:
        assert "ends with text" in str(error), error
        return "not learned: no end token"
    raise AssertionError("learned, but not compared")


PACKAGED = (
    ("llama3", "llama3_training", False),
    ("gemma2", "gemma_training", False),
    ("qwen3", "qwen3_training", True),
    ("deepseek_r1", "deepseek_r1_distill_training", True),
)


@pytest.mark.skipif(TRL is None, reason=NO_TRL)
@pytest.mark.parametrize(("name", "file", "thinks"), PACKAGED)
def test_a_packaged_template_learns_what_trls_training_template_of_that_model_learns(
    name: str, file: str, thinks: bool, folder_for: Callable[[Path], Path]
) -> None:
    """With the reasoning of earlier answers kept, as TRL's do. Where theirs write no empty block for an answer without
    a thought, or always one, Hanlin writes what the prompt holds: so every answer thinks here. Their `trim` takes off
    more white space than llama.cpp's, so that texts have none around them here.
    """
    assert TRL is not None
    path = TRL / f"{file}.jinja"
    folder = folder_for(path)
    template = ChatTemplate.from_packaged(name, Tokenizer.load(folder)).with_past_reasoning("keep")
    theirs, form = TransformersBackend(folder), ChatTemplate.load(folder).reasoning_form
    counts: Counter[str] = Counter()

    def check(drawn_case: Case) -> None:
        messages = tuple(tidy(message, thinks) for message in drawn_case.messages)
        if name == "gemma2" and messages[0].role == "system":
            messages = messages[1:]  # theirs refuses it, since Gemma 2 knows none
        (expected,) = compute_expected(template, [replace(drawn_case, messages=messages)])
        assert expected.answers_alike
        sent = as_sent(messages, form)
        prompt = ChatPrompt(sent[:-1], drawn_case.tools, expected.prompt.thinking, form.field or "reasoning_content")
        result = compare(template, theirs, [replace(expected, sent=sent, prompt=prompt)])
        assert not result.mismatches, result.first
        counts.update(equal=1, wider=result.wider_masks)

    drawn(check, tools=name == "qwen3", thinks=thinks)
    print(f"{name} and {path.name}: {dict(counts)}, seed {SEED}")


def tidy(message: Message, thinks: bool) -> Message:
    """A turn without white space around its texts; with `thinks`, an answer has a thought."""
    reasoning = message.reasoning.strip() or "想。" if thinks and message.role == "assistant" else ""
    return replace(message, text=message.text.strip(), reasoning=reasoning)
