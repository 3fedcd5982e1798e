"""The check of the chat contract: every program that reads a model's template is asked for the same turns.

Owns the comparison and its words. Does not own the turns (`cases`) or the programs (one module each).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate, Rendered
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.parity.backends.base import Consumer, Prompt, Unavailable
from hanlin.parity.backends.llama_cpp import LlamaCppConsumer
from hanlin.parity.backends.ollama import ModelfileConsumer
from hanlin.parity.backends.transformers import TransformersConsumer
from hanlin.parity.backends.vllm import VllmConsumer
from hanlin.parity.cases import Case, cases
from hanlin.parity.modelfile import write_modelfile
from hanlin.tokenizer.tokenizer import Tokenizer

_SHOWN_BEFORE = 6
_SHOWN_AFTER = 3

Open = Callable[[], Consumer]
Named = tuple[str, Open]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first id of a case that differs: `place` counts from 0; both sides are shown with the tokens around it."""

    case: str
    place: int
    expected: str
    found: str

    def __str__(self) -> str:
        return say(
            f"{self.case}, token {self.place}: expected {self.expected}, found {self.found}",
            f"{self.case} 第 {self.place} 个词元：应为 {self.expected}，实为 {self.found}",
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one program. `typed_tokens_read` counts the cases in which it takes a special token that a person
    typed for one that the template wrote, as every program does that encodes whole texts."""

    name: str
    cases: int = 0
    mismatches: int = 0
    first: Mismatch | None = None
    stops_missing: tuple[int, ...] = ()
    typed_tokens_read: int = 0
    skipped_because: str | None = None

    @property
    def good(self) -> bool:
        return not (self.mismatches or self.stops_missing)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a case must give: `ids` by Hanlin, `read` where typed special tokens are read as such."""

    case: Case
    ids: list[int]
    read: list[int]
    whole: Rendered
    whole_read: Rendered


def expected_of(template: ChatTemplate, conversations: Iterable[Case]) -> list[Expected]:
    """The cases that the template takes, with their ids. One that it refuses (tools, a system text) is left out."""
    found = []
    for case in conversations:
        messages, tools = case.prompt.messages, case.tools
        try:
            ids = template.render(messages, tools, prompt=True).ids
            whole = template.render(case.messages, tools)
            read = template.read_as_text(messages, tools, prompt=True).ids
            whole_read = template.read_as_text(case.messages, tools)
        except UserError:
            continue
        found.append(Expected(case, ids, read, whole, whole_read))
    return found


def check(
    template: ChatTemplate, consumers: Sequence[tuple[str, Open]], conversations: Iterable[Case]
) -> list[Verdict]:
    """Ask every program for every conversation; a program that cannot be asked says why. Raises the
    template's own refusal when it takes none of them."""
    asked = list(conversations)
    expected = expected_of(template, asked)
    if not expected:
        template.render(asked[0].messages, asked[0].tools, where=say("any conversation", "任何对话"))  # raises
    verdicts = []
    for name, open_consumer in consumers:
        try:
            with closing(open_consumer()) as consumer:
                verdicts.append(judge(template, consumer, expected))
        except Unavailable as reason:
            verdicts.append(Verdict(name, skipped_because=str(reason)))
    return verdicts


def judge(template: ChatTemplate, consumer: Consumer, expected: Sequence[Expected]) -> Verdict:
    """What an open program makes of the cases."""
    wrong: list[Mismatch] = []
    typed = 0
    answers = consumer.prompts([Prompt(one.case.prompt.messages, one.case.tools) for one in expected])
    for one, found in zip(expected, answers, strict=True):
        differs = _difference(template, one.case.id, one.ids, one.read, found)
        if differs is None and isinstance(consumer, TransformersConsumer):
            differs = _whole_difference(template, one, consumer.conversation(one.case.messages, one.case.tools))
        wrong += [differs] if differs else []
        typed += one.ids != one.read and found == one.read
    stops = consumer.stops()
    missing = () if stops is None else tuple(sorted(set(template.stop_ids) - stops))
    return Verdict(consumer.name, len(expected), len(wrong), next(iter(wrong), None), missing, typed)


def _whole_difference(
    template: ChatTemplate, one: Expected, answer: tuple[list[int], bytes | None] | str
) -> Mismatch | None:
    """Of a whole conversation, the ids and, where the program tells it, which of them are learned."""
    name = say(f"{one.case.id} (whole)", f"{one.case.id}（整段）")
    if isinstance(answer, str):
        return Mismatch(name, 0, say("ids", "词元"), answer)
    ids, learn = answer
    differs = _difference(template, name, one.whole.ids, one.whole_read.ids, ids)
    expected = one.whole if ids == one.whole.ids else one.whole_read
    if differs or learn is None or learn == expected.learn:
        return differs
    place = next(place for place, pair in enumerate(zip(learn, expected.learn, strict=True)) if pair[0] != pair[1])
    name = say(f"{one.case.id} (mask)", f"{one.case.id}（掩码）")
    words = (say("not learned", "不学"), say("learned", "学"))
    shown = _around(template, ids, place)
    return Mismatch(name, place, f"{shown} {words[expected.learn[place]]}", words[learn[place]])


def _difference(
    template: ChatTemplate, name: str, ids: list[int], read: list[int], found: list[int] | str
) -> Mismatch | None:
    if found in (ids, read):
        return None
    if isinstance(found, str):
        return Mismatch(name, 0, _around(template, read, 0), found)
    pairs = zip(read, found, strict=False)
    shorter = min(len(read), len(found))
    place = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), shorter)
    return Mismatch(name, place, _around(template, read, place), _around(template, found, place))


def _around(template: ChatTemplate, ids: Sequence[int], place: int) -> str:
    """The token at `place` with its id, between what stands before and after it."""
    tokenizer = template.tokenizer

    def text(part: Sequence[int]) -> str:
        return b"".join(tokenizer.token_bytes(number) for number in part).decode("utf-8", "backslashreplace")

    before = text(ids[max(0, place - _SHOWN_BEFORE) : place])
    after = text(ids[place + 1 : place + 1 + _SHOWN_AFTER])
    here = f"{text(ids[place : place + 1])!r} [{ids[place]}]" if place < len(ids) else say("the end", "结尾")
    return f"{before!r} → {here} ← {after!r}"


def consumers_of(
    folder: Path, find_gguf_files: Sequence[Path] = (), modelfiles: Sequence[Path] = (), vllm: str = ""
) -> list[Named]:
    """The programs that read these files: transformers the folder, llama.cpp a GGUF file, Ollama a Modelfile (with
    the folder's tokenizer), vLLM where it serves."""
    found: list[Named] = [(TransformersConsumer.name, partial(TransformersConsumer, folder))]
    found += [(f"llama.cpp {file.name}", partial(LlamaCppConsumer, file)) for file in find_gguf_files]
    tokenizer = Tokenizer.load(folder) if modelfiles else None
    found += [("modelfile", partial(ModelfileConsumer, file, tokenizer, bare=True)) for file in modelfiles if tokenizer]
    return found + ([(VllmConsumer.name, partial(VllmConsumer, vllm))] if vllm else [])


def prove(template: ChatTemplate, folder: Path, find_gguf_files: Sequence[Path] = ()) -> dict[str, Any]:
    """The check as an export runs it: returns its figures for the manifest.

    Raises UserError with the first difference when a program reads the exported files otherwise than Hanlin does: what
    was trained would not be what is served.
    """
    verdicts = check(template, consumers_of(folder, find_gguf_files), cases())
    for verdict in verdicts:
        if not verdict.good:
            raise broken(verdict, folder)
    return summary(verdicts)


def summary(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """For `--json` and the manifest: all mismatches, and a row for each program."""
    rows = [{**asdict(verdict), "stops_missing": list(verdict.stops_missing)} for verdict in verdicts]
    return {"mismatches": sum(verdict.mismatches for verdict in verdicts), "consumers": rows}


def broken(verdict: Verdict, where: Path) -> UserError:
    if verdict.stops_missing:
        missing = ", ".join(map(str, verdict.stops_missing))
        what = say(
            f"{verdict.name} would not stop at {missing}, which end an answer",
            f"{verdict.name} 不会在结束符 {missing} 处停止",
        )
    else:
        what = say(
            f"{verdict.name} reads {verdict.mismatches} of {verdict.cases} conversations otherwise; {verdict.first}",
            f"{verdict.name} 对 {verdict.cases} 段对话中的 {verdict.mismatches} 段读法不同；{verdict.first}",
        )
    hint = say(
        "the chat template uses what this program has no equal of; train and export with a packaged one (`template`)",
        "对话模板用到了该程序不支持的写法；请改用内置模板（template）训练并导出",
    )
    return UserError(what, where, hint)


def prove_modelfile(path: Path, gguf: Path, template: ChatTemplate, **settings: Any) -> Verdict:
    """Write the Modelfile of a GGUF file, which appears only when Go, where it is installed, renders the conversations
    as they were trained; the verdict says how many. `settings` are those of `write_modelfile`.

    Raises UserError like `write_modelfile`, and with the first difference.
    """
    path = path.absolute()
    aside = path.with_name(path.name + ".writing")
    model = os.path.relpath(gguf.absolute(), path.parent)
    try:
        write_modelfile(aside, model, template, **settings)
        consumer = partial(ModelfileConsumer, aside, template.tokenizer, bare=True)
        (verdict,) = check(template, [(ModelfileConsumer.name, consumer)], cases())
        if not verdict.good:
            raise broken(verdict, path)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return verdict
