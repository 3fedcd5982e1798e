r"""Split the text of an answer into reasoning, content and tool calls while it is generated, alike for every API.

    feed("<think>\n该查天气")                          -> [reasoning "该查天气"]
    feed("\n</think>\n\n我查一下。")                  -> [content "我查一下。"]
    feed('{"name": "weather", "parameters": {"day"')  -> [call 0 "weather", arguments 0 '{"day"']
    feed(": 3}}")                                     -> [arguments 0 ": 3}", call_end 0]

An API makes a splitter for each answer of a job with `make_splitter`, feeds it every `TextDelta.text`, calls `flush`
at the `AnswerEnd`, and turns the parts into its own form; `split_answer` does this for a whole answer. Nothing that a
model wrote is lost: what is no complete call of an offered tool is content, and a call that is cut keeps its text in
`cut_text`. Only text that may still become a call, a tag, or the white space around them is held back.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from hanlin.chat.reasoning import BEGIN_TAG, END_TAG
from hanlin.serve.api.tool_calls import (
    END_CALL,
    BracketScanner,
    CallHead,
    CallMatcher,
    read_call_object,
    read_pythonic_arguments,
)
from hanlin.serve.registry import GenerationJob, opens_thought

_MAX_HELD_SPACE = 64
_CANDIDATE = re.compile(r"[{\[<]")
_SEPARATORS = re.compile(r"^[\s;,]+")
_FENCE = "```"


class AnswerPart(NamedTuple):
    """A piece of an answer.

    Attributes:
        kind: `reasoning` and `content` carry text. `call` begins a tool call, `arguments` carries its next arguments
            (JSON), `call_end` says that it is complete.
        text: The text; the name of the tool in a `call`.
        call_index: Number of the call within its answer, from 0.
        call_id: A new id of the call, in a `call`.
    """

    kind: Literal["reasoning", "content", "call", "arguments", "call_end"]
    text: str = ""
    call_index: int = 0
    call_id: str = ""


@dataclass(slots=True)
class WrittenCall:
    """A tool call that a model wrote; `arguments` is JSON, cut off unless `is_complete`."""

    name: str
    call_id: str
    arguments: str = ""
    is_complete: bool = False


@dataclass(slots=True)
class SplitAnswer:
    """A whole answer in its parts. `cut_text` is the last call as the model wrote it, if it is cut off."""

    reasoning: str = ""
    content: str = ""
    calls: list[WrittenCall] = field(default_factory=list)
    cut_text: str = ""

    def add(self, part: AnswerPart) -> None:
        if part.kind == "reasoning":
            self.reasoning += part.text
        elif part.kind == "content":
            self.content += part.text
        elif part.kind == "call":
            self.calls.append(WrittenCall(part.text, part.call_id))
        elif part.kind == "arguments":
            self.calls[part.call_index].arguments += part.text
        else:
            self.calls[part.call_index].is_complete = True


class AnswerSplitter:
    """Splits one answer; see the module.

    Args:
        names: Names of the tools that the model was offered; without any, nothing is a call.
        is_pythonic: Whether the template writes calls as Python does (`ServedModel.call_form`).
        is_thinking: Whether the prompt opened the thinking block, so that the answer begins within it.
        max_calls: After so many calls the rest of the answer is left out (`parallel_tool_calls: false`).
        reads_reasoning: Whether a thinking block at the start is reasoning; else it is content.
        continues_thought: Whether the answer goes on in the middle of a thought, so that a leading space belongs to it.

    Attributes:
        cut_text: After `flush`: the call that was begun and not completed, as the model wrote it; else empty.
        completed_calls: How many calls were written to their end.
    """

    def __init__(
        self,
        names: Collection[str] = (),
        is_pythonic: bool = False,
        is_thinking: bool = False,
        max_calls: int | None = None,
        reads_reasoning: bool = True,
        continues_thought: bool = False,
    ) -> None:
        self._matcher = CallMatcher(names, is_pythonic) if names else None
        self._max_calls = max_calls
        self._read: Callable[[], bool] = self._read_start if reads_reasoning else self._read_content
        if is_thinking:
            self._read = self._read_opened_thought
        self._buffer = ""
        self._parts: list[AnswerPart] = []
        self._has_reasoning, self._has_content, self._is_cut = continues_thought, False, False
        if continues_thought:
            self._read = self._read_thought
        self._brace_depth, self._backticks, self._is_fenced = 0, 0, False
        self._head = CallHead("object", "", 0)
        self._scanner = BracketScanner()
        self._raw: list[str] = []
        self._list_kind = ""
        self._calls = 0
        self.completed_calls = 0
        self.cut_text = ""

    def feed(self, text: str) -> list[AnswerPart]:
        """The parts that the next text of the answer makes."""
        if self._matcher is None and self._read == self._read_content:
            return [AnswerPart("content", text)] if text else []
        self._buffer += text
        while self._buffer and self._read():
            pass
        parts, self._parts = self._parts, []
        return parts

    def flush(self) -> list[AnswerPart]:
        """The parts that were held back, at the end of the answer."""
        held, self._buffer = self._buffer, ""
        if self._read in (self._read_thought, self._read_opened_thought):
            self._add("reasoning", held.rstrip() if self._has_reasoning else held.strip())
        elif self._read == self._read_arguments:
            self.cut_text = "".join(self._raw)
        elif self._read in (self._read_object, self._read_pythonic):
            self._is_cut = True
            self._add("content", "".join(self._raw) + held)
        elif self._read == self._read_after_call:
            rest = _strip_separators(held)
            self._is_cut = bool(rest) and not self._closing.startswith(rest)
            self._add("content", rest if self._is_cut else "")
        elif self._read not in (self._read_tail, self._read_rest):
            self._add("content", held)
        parts, self._parts = self._parts, []
        return parts

    def finish_reason(self, reason: str) -> str:
        """After `flush`, why the answer ended: `tool_calls` if it holds calls that are all complete, else `reason`."""
        is_complete = self.completed_calls == self._calls and not self._is_cut
        return "tool_calls" if self.completed_calls and is_complete else reason

    # ------------------------------------------------------ readers: each takes from the buffer, False: waits for more

    def _read_start(self) -> bool:
        text = self._buffer.lstrip()
        if text.startswith(BEGIN_TAG):
            self._buffer, self._read = text[len(BEGIN_TAG) :], self._read_thought
            return True
        if BEGIN_TAG.startswith(text) and len(self._buffer) <= _MAX_HELD_SPACE:
            return False
        self._read = self._read_content
        return True

    def _read_opened_thought(self) -> bool:
        """The prompt has the tag already; some models write it once more."""
        text = self._buffer.lstrip()
        if BEGIN_TAG.startswith(text) and text != BEGIN_TAG:
            return False
        self._buffer, self._read = text.removeprefix(BEGIN_TAG), self._read_thought
        return True

    def _read_thought(self) -> bool:
        if not self._has_reasoning:
            self._buffer = self._buffer.lstrip()
        thought, tag, rest = self._buffer.partition(END_TAG)
        if tag:
            self._add("reasoning", thought.rstrip())
            self._buffer, self._read = rest, self._read_after_thought
            return True
        end = len(thought) - _overlap(thought, END_TAG)
        end = len(thought[:end].rstrip())
        self._has_reasoning = self._has_reasoning or end > 0
        self._add("reasoning", thought[:end])
        self._buffer = thought[end:]
        if len(self._buffer) > _MAX_HELD_SPACE:
            self._add("reasoning", self._buffer)
            self._buffer = ""
        return False

    def _read_after_thought(self) -> bool:
        self._buffer = self._buffer.lstrip()
        if self._buffer:
            self._read = self._read_content
        return bool(self._buffer)

    def _read_content(self) -> bool:
        if self._matcher is None:
            self._add("content", self._buffer)
            self._buffer = ""
            return False
        candidate = _CANDIDATE.search(self._buffer)
        start = candidate.start() if candidate else len(self._buffer)
        text_end = len(self._buffer[:start].rstrip())
        self._release(text_end)
        start -= text_end
        if candidate is None:
            self._release(len(self._buffer) if start > _MAX_HELD_SPACE else 0)
            return False
        rest = self._buffer[start:]
        may_begin = not self._is_fenced and (rest[0] == "<" or not self._brace_depth)
        head = self._matcher.match(rest) if may_begin else False
        if isinstance(head, CallHead):
            self._begin_call(head, rest)
            return True
        if not head:
            self._release(start + 1)
        return not head

    def _read_arguments(self) -> bool:
        end = self._scanner.find_end(self._buffer)
        piece = self._buffer if end < 0 else self._buffer[:end]
        self._buffer = self._buffer[len(piece) :]
        self._raw.append(piece)
        self._add("arguments", piece, self._calls - 1)
        if end >= 0:
            self._end_call(self._read_tail)
        return end >= 0

    def _read_tail(self) -> bool:
        """Behind the arguments: the end of the call's object, and keys before it."""
        text = self._buffer.lstrip()
        if text[:1] == "," and re.match(r',\s*(?:"|$)', text):
            end = BracketScanner(1).find_end(text)
            if end < 0:
                return False
            self._buffer = text[end:]
        elif not text:
            return False
        else:
            self._buffer = text.removeprefix("}")
        self._read = self._read_after_call
        return True

    def _read_object(self) -> bool:
        """The whole object of a call whose name does not come first."""
        end = self._take_raw()
        if end:
            raw = "".join(self._raw)
            call = read_call_object(raw[self._head.end :], self._matcher.names if self._matcher else ())
            self._add_whole_call(call, raw)
        return end

    def _read_pythonic(self) -> bool:
        end = self._take_raw()
        if end:
            raw = "".join(self._raw)
            arguments = read_pythonic_arguments(raw[self._head.end : -1])
            self._add_whole_call(None if arguments is None else (self._head.name, arguments), raw)
        return end

    def _read_after_call(self) -> bool:
        """Behind a call: separators, closing brackets, and the next call if there is one."""
        text, closing = _strip_separators(self._buffer), self._closing
        if closing and text.startswith(closing):
            self._buffer = text[len(closing) :]
            self._head, self._list_kind = self._head._replace(is_tagged=False), ""
            return True
        if closing.startswith(text):  # also if there is no text
            return False
        in_list = self._list_kind == "pythonic"
        head = self._matcher.match(text, in_list) if self._matcher and (in_list or text[0] in "{[<") else False
        if isinstance(head, CallHead):
            self._begin_call(head, text)
            return True
        if not head:
            self._buffer = self._buffer if self._has_content else self._buffer.lstrip()
            self._list_kind, self._read = "", self._read_content
        return not head

    @property
    def _closing(self) -> str:
        """What closes the last call, or the list that it is in."""
        return END_CALL if self._head.is_tagged else "]" if self._list_kind else ""

    def _read_rest(self) -> bool:
        self._buffer = ""
        return False

    # ----------------------------------------------------------------------------------------------------- steps

    def _begin_call(self, head: CallHead, text: str) -> None:
        self._head = head
        if head.is_listed:
            self._list_kind = "pythonic" if head.kind == "pythonic" else "json"
        self._raw = [text[: head.end]]
        self._buffer = text[head.end :]
        if head.kind == "arguments":
            self._scanner, self._read = BracketScanner(), self._read_arguments
            self._add_call(head.name)
        elif head.kind == "object":
            self._scanner, self._read = BracketScanner(), self._read_object
        else:
            self._scanner, self._read = BracketScanner(1, "\"'"), self._read_pythonic

    def _take_raw(self) -> bool:
        """Move the call's text from the buffer to `_raw`; True if its end is there."""
        end = self._scanner.find_end(self._buffer)
        piece = self._buffer if end < 0 else self._buffer[:end]
        self._buffer = self._buffer[len(piece) :]
        self._raw.append(piece)
        return end >= 0

    def _add_whole_call(self, call: tuple[str, str] | None, raw: str) -> None:
        if call is None:
            self._list_kind, self._read = "", self._read_content
            self._add("content", raw)
            return
        self._add_call(call[0])
        self._add("arguments", call[1], self._calls - 1)
        self._end_call(self._read_after_call)

    def _add_call(self, name: str) -> None:
        self._parts.append(AnswerPart("call", name, self._calls, f"call_{uuid.uuid4().hex[:24]}"))
        self._calls += 1

    def _end_call(self, then: Callable[[], bool]) -> None:
        self._parts.append(AnswerPart("call_end", "", self._calls - 1))
        self.completed_calls += 1
        self._raw = []
        is_last = self._calls == self._max_calls
        self._read = self._read_rest if is_last else then

    def _release(self, end: int) -> None:
        """Make the buffer up to `end` content."""
        text, self._buffer = self._buffer[:end], self._buffer[end:]
        for char in text if ("{" in text or "}" in text or "`" in text or self._backticks) else "":
            self._backticks = self._backticks + 1 if char == "`" else 0
            if self._backticks == len(_FENCE):
                self._is_fenced = not self._is_fenced
            if char in "{}":
                self._brace_depth = max(0, self._brace_depth + (1 if char == "{" else -1))
        self._add("content", text)

    def _add(self, kind: Literal["reasoning", "content", "arguments"], text: str, index: int = 0) -> None:
        if text:
            self._has_content = self._has_content or kind == "content"
            self._parts.append(AnswerPart(kind, text, index))


def _strip_separators(text: str) -> str:
    """A text without the separators at its start."""
    return _SEPARATORS.sub("", text, count=1)


def _overlap(text: str, tag: str) -> int:
    """Length of the longest proper prefix of `tag` that `text` ends with."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)


def make_splitter(
    job: GenerationJob, index: int, tool_names: Collection[str] = (), max_calls: int | None = None
) -> AnswerSplitter:
    """The splitter of one answer of a job.

    Args:
        job: Its prompts say whether the thinking block is open, its model in which form calls are written.
        index: Number of the answer within the job.
        tool_names: Names of the tools that the model was offered.
        max_calls: How many calls are read; None: all.
    """
    request = job.requests[index]
    # a constraint that begins with the answer leaves no place for a thought, though the prompt opened one
    may_think = request.constraint is None or getattr(request.constraint, "begins_with_thought", False)
    is_thinking = may_think and opens_thought(job.model.tokenizer, request.prompt_ids)
    is_pythonic = bool(tool_names) and job.model.call_form.is_pythonic
    return AnswerSplitter(
        tool_names, is_pythonic, is_thinking, max_calls, continues_thought=job.continues_thought and not is_thinking
    )


def split_answer(splitter: AnswerSplitter, texts: Iterable[str]) -> SplitAnswer:
    """The parts of a whole answer, whose texts are fed to a fresh splitter."""
    answer = SplitAnswer()
    for text in texts:
        for part in splitter.feed(text):
            answer.add(part)
    for part in splitter.flush():
        answer.add(part)
    answer.cut_text = splitter.cut_text
    return answer
