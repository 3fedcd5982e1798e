"""The parity check: every program that reads a model's chat template must give the same token ids.

The conversations are `cases`; the programs are `backends`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hanlin.chat.reasoning import BEGIN_TAG, REASONING_FIELDS, ReasoningForm, with_tags
from hanlin.chat.rendering.answer_spans import begins_with_line_end, has_empty_block
from hanlin.chat.rendering.tokenized import TokenizedExample
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.files import partial_path
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.parity.backends.base import Backend, BackendUnavailable, ChatPrompt
from hanlin.parity.backends.llama_cpp import LlamaCppBackend
from hanlin.parity.backends.ollama import OllamaBackend
from hanlin.parity.backends.transformers import TransformersBackend
from hanlin.parity.backends.vllm import VllmBackend
from hanlin.parity.cases import Case, make_cases
from hanlin.parity.modelfile import write_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer

_TOKENS_BEFORE = 6
_TOKENS_AFTER = 3

BackendFactory = Callable[[], Backend]
NamedBackend = tuple[str, BackendFactory]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first token of a case that differs; both sides are shown with the tokens around it."""

    case: str
    index: int
    expected: str
    actual: str

    def __str__(self) -> str:
        return tr(
            "{case}, token {index}: expected {expected}, found {actual}",
            case=self.case,
            index=self.index,
            expected=self.expected,
            actual=self.actual,
        )


@dataclass(frozen=True, slots=True)
class ParityResult:
    """The result for one program.

    `typed_tokens_parsed` counts the cases in which it takes a special token that a user typed for a real one, as every
    program does that encodes whole texts.
    """

    name: str
    cases: int = 0
    mismatches: int = 0
    first: Mismatch | None = None
    missing_stop_ids: tuple[int, ...] = ()
    typed_tokens_parsed: int = 0
    wider_masks: int = 0
    skip_reason: str | None = None

    @property
    def passed(self) -> bool:
        return not (self.mismatches or self.missing_stop_ids)


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected token ids of a case.

    Attributes:
        case: The conversation.
        prompt: Its prompt, thinking turned on if the answer has reasoning.
        sent: The turns as a client sends them: reasoning within the text if the template has no field for it.
        ids: Ids of the prompt by Hanlin.
        unshielded_ids: The same if special tokens that a user typed become their ids.
        full: Ids and loss mask of the full conversation: the example that its last answer is learned from.
        full_unshielded: The same if special tokens that a user typed become their ids.
        answers_alike: Whether all answers are learned from this one example.
    """

    case: Case
    prompt: ChatPrompt
    sent: tuple[Message, ...]
    ids: list[int]
    unshielded_ids: list[int]
    full: TokenizedExample
    full_unshielded: TokenizedExample
    answers_alike: bool


def compute_expected(template: ChatTemplate, conversations: Iterable[Case]) -> list[Expected]:
    """The cases that the template takes, with their ids. A case that it refuses (tools, a system text) is left out."""
    expected = []
    for case in conversations:
        messages, tools = case.prompt.messages, case.tools
        thinking = bool(case.messages[-1].reasoning.strip()) if template.thinking_switches else None
        try:
            ids = template.render(messages, tools, prompt=True, thinking=thinking).ids
            examples = template.render_examples(case.messages, tools)
            unshielded_ids = template.render_unshielded(messages, tools, prompt=True, thinking=thinking).ids
            several = len(examples) > 1
            full_unshielded = template.render_unshielded(case.messages, tools, thinking=thinking, last_answer=several)
        except UserError:
            continue
        sent = as_sent(case.messages, template.reasoning_form)
        prompt = ChatPrompt(sent[:-1], tools, thinking, template.reasoning_form.field or REASONING_FIELDS[0])
        expected.append(Expected(case, prompt, sent, ids, unshielded_ids, examples[-1], full_unshielded, not several))
    return expected


def as_sent(messages: Sequence[Message], form: ReasoningForm) -> tuple[Message, ...]:
    """Turns as a client sends them: reasoning within the text if the template has no field for it."""
    if not form.inline:
        return tuple(messages)
    thinks = (bool(turn.reasoning.strip()) for turn in messages)
    return tuple(
        replace(turn, text=with_tags(turn.reasoning, turn.text), reasoning="") if thought else turn
        for turn, thought in zip(messages, thinks, strict=True)
    )


def check(
    template: ChatTemplate, backends: Sequence[tuple[str, BackendFactory]], conversations: Iterable[Case]
) -> list[ParityResult]:
    """Run every program on every conversation; a program that cannot run here is skipped with the reason.

    Raises the template's own error if it takes none of the conversations.
    """
    cases = list(conversations)
    expected = compute_expected(template, cases)
    if not expected:
        template.render(cases[0].messages, cases[0].tools, where=tr("any conversation"))  # raises
    results = []
    for name, open_backend in backends:
        try:
            with closing(open_backend()) as backend:
                results.append(compare(template, backend, expected))
        except BackendUnavailable as reason:
            results.append(ParityResult(name, skip_reason=str(reason)))
    return results


def compare(template: ChatTemplate, backend: Backend, expected: Sequence[Expected]) -> ParityResult:
    """Compare the token ids of an open program with the expected ones.

    Args:
        template: The chat template that the expected ids were rendered with.
        backend: The program.
        expected: The cases with their expected ids.

    Returns:
        The number of mismatches and the first one, stop ids that the program lacks, and the number of cases in which it
        encodes special tokens that a user typed, or learns more than an answer.
    """
    mismatches: list[Mismatch] = []
    typed_tokens_parsed = wider_masks = 0
    rendered = backend.render_prompts([item.prompt for item in expected])
    for item, ids in zip(expected, rendered, strict=True):
        mismatch = _compare_ids(template, item.case.id, item.ids, item.unshielded_ids, ids)
        if mismatch is None and isinstance(backend, TransformersBackend):
            answer = backend.render_conversation(item.sent, item.prompt)
            mismatch, is_wider = _compare_conversation(template, item, answer)
            wider_masks += is_wider
        mismatches += [mismatch] if mismatch else []
        typed_tokens_parsed += item.ids != item.unshielded_ids and ids == item.unshielded_ids
    stops = backend.stop_ids()
    missing = () if stops is None else tuple(sorted(set(template.stop_ids) - stops))
    first = next(iter(mismatches), None)
    return ParityResult(backend.name, len(expected), len(mismatches), first, missing, typed_tokens_parsed, wider_masks)


def _compare_conversation(
    template: ChatTemplate, item: Expected, answer: tuple[list[int], bytes | None] | str
) -> tuple[Mismatch | None, bool]:
    """Compare the ids of a full conversation, and the loss mask if the program returns one.

    The second value is whether its mask is right, but wider.
    """
    name = tr("{id} (whole)", id=item.case.id)
    if isinstance(answer, str):
        return Mismatch(name, 0, tr("ids"), answer), False
    ids, loss_mask = answer
    if begins_with_line_end(_answer_text(template, item.full), 0):
        return None, False  # it is learned apart from the line end before it, as it is written; prompts were compared
    mismatch = _compare_ids(template, name, item.full.ids, item.full_unshielded.ids, ids)
    expected = item.full if ids == item.full.ids else item.full_unshielded
    if mismatch or loss_mask is None:
        return mismatch, False
    if not item.answers_alike:  # the answers before the last are learned from examples of their own
        start = expected.loss_mask.rindex(b"\0\1") + 1
        loss_mask = bytes(start) + loss_mask[start:]
        expected = TokenizedExample(expected.ids, bytes(start) + expected.loss_mask[start:])
    wrong, is_wider = _compare_masks(template, expected, loss_mask)
    if wrong is None:
        return None, is_wider
    name = tr("{id} (mask)", id=item.case.id)
    labels = (tr("not learned"), tr("learned"))
    shown = _show_context(template, ids, wrong)
    return Mismatch(name, wrong, f"{shown} {labels[expected.loss_mask[wrong]]}", labels[loss_mask[wrong]]), False


def _compare_masks(template: ChatTemplate, expected: TokenizedExample, actual: bytes) -> tuple[int | None, bool]:
    """The index of the first token that only one side learns, and whether the program learns what is no answer.

    Templates that mark whole turns make it learn three things that no model writes; they are no mismatch: what is
    behind the end token (generation has stopped there), an empty thinking block, and the head of an answer, which the
    prompt already holds.

        template's marks     ⟦<assistant> <think></think> ! <end> ↵⟧
        learned by Hanlin     <assistant> <think></think>⟦! <end>⟧↵
    """
    ids, mask = expected.ids, expected.loss_mask
    if missing := [index for index, pair in enumerate(zip(mask, actual, strict=True)) if pair == (1, 0)]:
        return missing[0], False
    wider = bytes(learned and not own for own, learned in zip(mask, actual, strict=True))
    for run in re.finditer(rb"\x01+", wider):
        start, end = run.span()
        special_ids = template.tokenizer.special_ids
        is_behind = start > 0 and mask[start - 1] and ids[start - 1] in special_ids
        text = template.tokenizer.decode(ids[start:end], skip_special=False)
        is_head = ids[start] in special_ids or has_empty_block(text) or text.strip() in ("", BEGIN_TAG)
        if not (is_behind or (end < len(mask) and mask[end] and is_head)):
            return start, False
    return None, any(wider)


def _answer_text(template: ChatTemplate, example: TokenizedExample) -> str:
    """The last answer that is learned, as text."""
    start = example.loss_mask.rfind(b"\0\1") + 1
    return template.tokenizer.decode(example.ids[start:])


def _compare_ids(
    template: ChatTemplate, name: str, ids: list[int], unshielded_ids: list[int], actual: list[int] | str
) -> Mismatch | None:
    if actual in (ids, unshielded_ids):
        return None
    if isinstance(actual, str):
        return Mismatch(name, 0, _show_context(template, unshielded_ids, 0), actual)
    pairs = zip(unshielded_ids, actual, strict=False)
    common_length = min(len(unshielded_ids), len(actual))
    index = next(
        (index for index, (expected_id, actual_id) in enumerate(pairs) if expected_id != actual_id), common_length
    )
    return Mismatch(name, index, _show_context(template, unshielded_ids, index), _show_context(template, actual, index))


def _show_context(template: ChatTemplate, ids: Sequence[int], index: int) -> str:
    """The token at `index` with its id, between the tokens around it."""
    tokenizer = template.tokenizer

    def text(part: Sequence[int]) -> str:
        return b"".join(tokenizer.token_bytes(token_id) for token_id in part).decode("utf-8", "backslashreplace")

    before = text(ids[max(0, index - _TOKENS_BEFORE) : index])
    after = text(ids[index + 1 : index + 1 + _TOKENS_AFTER])
    token = f"{text(ids[index : index + 1])!r} [{ids[index]}]" if index < len(ids) else tr("the end")
    return f"{before!r} → {token} ← {after!r}"


def backends_for(
    folder: Path, gguf_paths: Sequence[Path] = (), modelfiles: Sequence[Path] = (), vllm: str = ""
) -> list[NamedBackend]:
    """The programs that read these files.

    transformers reads the folder, llama.cpp a GGUF file, Ollama a Modelfile (with the folder's tokenizer), and vLLM the
    model that it serves at the address `vllm`. If `folder` is a GGUF file, there is nothing for transformers to read.
    """
    backends: list[NamedBackend] = []
    if folder.is_dir():
        backends.append((TransformersBackend.name, partial(TransformersBackend, folder)))
    backends += [(f"llama.cpp {file.name}", partial(LlamaCppBackend, file)) for file in gguf_paths]
    tokenizer = Tokenizer.load(folder) if modelfiles else None
    backends += [("modelfile", partial(OllamaBackend, file, tokenizer, bare=True)) for file in modelfiles if tokenizer]
    return backends + ([(VllmBackend.name, partial(VllmBackend, vllm))] if vllm else [])


def verify(template: ChatTemplate, folder: Path, gguf_paths: Sequence[Path] = ()) -> dict[str, Any]:
    """The check as an export runs it; returns its figures for the manifest.

    Raises UserError with the first difference if a program reads the exported files otherwise than Hanlin does: what
    was trained would not be what is served.
    """
    results = check(template, backends_for(folder, gguf_paths), make_cases())
    for result in results:
        if not result.passed:
            raise parity_error(result, folder)
    return summarize(results)


def summarize(results: Sequence[ParityResult]) -> dict[str, Any]:
    """For `--json` and the manifest: all mismatches, and a row for each program."""
    rows = [{**asdict(result), "missing_stop_ids": list(result.missing_stop_ids)} for result in results]
    return {"mismatches": sum(result.mismatches for result in results), "backends": rows}


def parity_error(result: ParityResult, where: Path) -> UserError:
    """The error that names what a backend renders or stops at otherwise; `where` is the file it is about."""
    if result.missing_stop_ids:
        missing = ", ".join(map(str, result.missing_stop_ids))
        what = tr("{name} would not stop at {missing}, which end an answer", name=result.name, missing=missing)
    else:
        what = tr(
            "{name} reads {mismatches} of {cases} conversations differently; {first}",
            name=result.name,
            mismatches=result.mismatches,
            cases=result.cases,
            first=result.first,
        )
    hint = tr(
        "the chat template uses a feature that this program lacks; train and export with a packaged one (`template`)"
    )
    return UserError(what, where, hint)


def verify_modelfile(path: Path, gguf: Path, template: ChatTemplate, **settings: Any) -> ParityResult:
    """Write the Modelfile of a GGUF file; it appears only if its rendering is equal to the training's.

    Go renders the conversations if it is installed; the result says how many. `settings` are those of
    `write_modelfile`. Raises UserError like `write_modelfile`, and with the first difference.
    """
    path = path.absolute()
    partial_file = partial_path(path)
    model = os.path.relpath(gguf.absolute(), path.parent)
    try:
        write_modelfile(partial_file, model, template, **settings)
        backend = partial(OllamaBackend, partial_file, template.tokenizer, bare=True)
        (result,) = check(template, [(OllamaBackend.name, backend)], make_cases())
        if not result.passed:
            raise parity_error(result, path)
        os.replace(partial_file, path)
    finally:
        partial_file.unlink(missing_ok=True)
    return result
