"""Run a chat template on placeholders instead of texts, to learn what it writes for any text.

A placeholder may be concatenated, stripped of white space and written out. If the template does anything else with it
(compares it, indexes it, takes its length, splits it, looks for anything but `TEMPLATE_TAGS` in it), its output depends
on the text: then there is no symbolic result, and each conversation is rendered on its own. A symbolic result is exact:
it has the same steps, with other texts.

    template:  "<user>" + message.content.strip() + "</user>"
    symbolic:  ("<user>", Placeholder(0, (("strip", None),)), "</user>")
    fill(..., [" hi "]) -> "<user>hi</user>"
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn, cast

from jinja2 import nodes

from hanlin.chat.reasoning import TEMPLATE_TAGS
from hanlin.chat.rendering.sandbox import SandboxEnvironment

MAX_SEGMENTS = 64
"""Pieces of a text that a template builds: so a text in use is at most so many times as long as what is said."""
FIRST_PLACEHOLDER_CODE = 0x100000
PLACEHOLDER_CHAR = re.compile("[\U00100000-\U0010fffd]")
"""Characters that stand for texts, of a plane that nobody types: the first for the first, and so on."""


class TextDependenceError(BaseException):
    """The template did something that depends on the text. Not an Exception, since Jinja swallows some of those."""


class Placeholder(NamedTuple):
    """The text with index `text_index`, after stripping `steps`: (name of a str method, its argument)."""

    text_index: int
    steps: tuple[tuple[str, str | None], ...] = ()

    def fill(self, texts: Sequence[str]) -> str:
        text = texts[self.text_index]
        for name, characters in self.steps:
            text = getattr(text, name)(characters)
        return text


Segment = str | Placeholder


class SymbolicText:
    """Text of which only the segments are known: literals and placeholders."""

    def __init__(self, *segments: Segment) -> None:
        if len(segments) > MAX_SEGMENTS:
            raise TextDependenceError
        self.segments = segments

    def __add__(self, other: Any) -> SymbolicText:
        return SymbolicText(*self.segments, *_segments_of(other))

    def __radd__(self, other: Any) -> SymbolicText:
        return SymbolicText(*_segments_of(other), *self.segments)

    def strip(self, characters: str | None = None) -> SymbolicText:
        return self._add_strip("strip", characters)

    def lstrip(self, characters: str | None = None) -> SymbolicText:
        return self._add_strip("lstrip", characters)

    def rstrip(self, characters: str | None = None) -> SymbolicText:
        return self._add_strip("rstrip", characters)

    def _add_strip(self, name: str, characters: str | None) -> SymbolicText:
        (placeholder, *others) = self.segments
        if others or isinstance(placeholder, str) or not (characters is None or type(characters) is str):
            raise TextDependenceError
        return SymbolicText(Placeholder(placeholder.text_index, (*placeholder.steps, (name, characters))))

    def _refuse(self, *_: Any) -> NoReturn:
        raise TextDependenceError

    def __contains__(self, item: Any) -> bool:
        """No text holds a tag of `TEMPLATE_TAGS` as far as a template sees: the typed ones are shielded."""
        if item not in TEMPLATE_TAGS or any(isinstance(segment, str) for segment in self.segments):
            raise TextDependenceError
        return False

    __getattr__ = __str__ = __repr__ = __format__ = __bool__ = __len__ = __iter__ = __getitem__ = _refuse
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __mul__ = __rmul__ = __mod__ = __rmod__ = _refuse
    __int__ = __float__ = __index__ = __call__ = __reversed__ = __reduce_ex__ = _refuse


_TEST_RESULTS_FOR_TEXT = {"string": True, "sequence": True, "iterable": True, "defined": True}
_TEST_RESULTS_FOR_TEXT |= dict.fromkeys(
    ("undefined", "none", "mapping", "number", "integer", "float", "boolean"), False
)
"""What tests say of every text."""


def _segments_of(value: Any) -> tuple[Segment, ...]:
    if isinstance(value, SymbolicText):
        return value.segments
    if isinstance(value, str):
        return (str(value),)
    raise TextDependenceError


def _is_text(value: Any) -> bool:
    return isinstance(value, str | SymbolicText)


def _wrap_filter(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses symbolic text, except for `trim`."""

    @functools.wraps(call)
    def guard(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(value, SymbolicText) for value in (*args, *kwargs.values())):
            return call(*args, **kwargs)
        if name != "trim" or kwargs or not isinstance(args[0], SymbolicText):
            raise TextDependenceError
        return args[0].strip(*args[1:])

    return guard


def _wrap_test(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A test that answers for symbolic text if the answer is the same for every text, and refuses otherwise."""

    @functools.wraps(call)
    def test(*args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(value, SymbolicText) for value in (*args, *kwargs.values())):
            return call(*args, **kwargs)
        if name not in _TEST_RESULTS_FOR_TEXT or len(args) > 1:
            raise TextDependenceError
        return _TEST_RESULTS_FOR_TEXT[name]

    return test


def _writes_directly(tree: nodes.Template) -> bool:
    """Whether all output of a template goes straight into its text.

    Nothing that is written may be captured in between, except by `{% generation %}`.
    """
    if any(tree.find_all((nodes.Macro, nodes.FilterBlock, nodes.AssignBlock, nodes.Block))):
        return False
    return all(isinstance(block.call.node, nodes.ExtensionAttribute) for block in tree.find_all(nodes.CallBlock))


class SymbolicRenderer:
    """Renders a template on symbolic text."""

    def __init__(self, environment: SandboxEnvironment, source: str) -> None:
        """Prepare the template. The environment is modified, so it must not be shared."""
        self._written_texts: list[SymbolicText] = []
        concat, binop, write = environment.concat_texts, environment.call_binop, environment.finalize
        self._budget, self._write = environment.budget, cast(Callable[[Any], Any], write)

        def concat_symbolic(parts: tuple[Any, ...]) -> Any:
            if not any(isinstance(part, SymbolicText) for part in parts):
                return concat(parts)
            return SymbolicText(
                *(segment for part in parts for segment in _segments_of(part if _is_text(part) else str(part)))
            )

        def binop_symbolic(context: Any, operator: str, left: Any, right: Any) -> Any:
            if operator != "+" and (isinstance(left, SymbolicText) or isinstance(right, SymbolicText)):
                raise TextDependenceError
            return binop(context, operator, left, right)

        environment.finalize = self._write_placeholder
        environment.filters = {name: _wrap_filter(name, call) for name, call in environment.filters.items()}
        environment.tests = {
            name: _wrap_test(name, cast(Callable[..., bool], call)) for name, call in environment.tests.items()
        }
        environment.concat_texts = concat_symbolic  # type: ignore[method-assign]
        environment.call_binop = binop_symbolic  # type: ignore[method-assign]
        self._template = environment.compile_source(source) if _writes_directly(environment.parse(source)) else None

    def render(self, variables: Mapping[str, Any]) -> tuple[Segment, ...] | None:
        """Render with variables that hold `SymbolicText`.

        Returns the segments of the output, or None if the output depends on the texts.
        """
        if self._template is None:
            return None
        self._written_texts.clear()
        self._budget.start()
        try:
            return self._split_segments(self._template.render(**variables))
        except (TextDependenceError, Exception):  # what goes wrong with holes is told with texts
            return None

    def _write_placeholder(self, value: Any) -> Any:
        """What is written for a value: for symbolic text, one character that stands for it until rendering is done."""
        if not isinstance(value, SymbolicText):
            return self._write(value)
        if len(self._written_texts) == MAX_SEGMENTS:
            raise TextDependenceError
        self._written_texts.append(value)
        return chr(FIRST_PLACEHOLDER_CODE + len(self._written_texts) - 1)

    def _split_segments(self, text: str) -> tuple[Segment, ...]:
        if [
            ord(placeholder_char) - FIRST_PLACEHOLDER_CODE for placeholder_char in PLACEHOLDER_CHAR.findall(text)
        ] != list(range(len(self._written_texts))):
            raise TextDependenceError  # the template wrote such a character itself
        result: list[Segment] = []
        for index, literal in enumerate(PLACEHOLDER_CHAR.split(text)):
            result += [*(self._written_texts[index - 1].segments if index else ()), *([literal] if literal else [])]
        if len(result) > MAX_SEGMENTS:
            raise TextDependenceError
        return tuple(result)


def fill(segments: Sequence[Segment], texts: Sequence[str]) -> str:
    """The text of `segments` with `texts` put into the placeholders."""
    return "".join([segment if isinstance(segment, str) else segment.fill(texts) for segment in segments])


def is_prefix(segments: Sequence[Segment], start: Sequence[Segment]) -> bool:
    """Whether the text of `start` is a prefix of that of `segments` for all possible texts."""
    merged, merged_start = _merge_literals(segments), _merge_literals(start)
    if len(merged_start) > len(merged):
        return False
    *same, last = merged_start or ("",)
    if merged[: len(same)] != same:
        return False
    end = merged[len(same)] if len(same) < len(merged) else ""
    return end == last or (isinstance(end, str) and isinstance(last, str) and end.startswith(last))


def _merge_literals(segments: Sequence[Segment]) -> list[Segment]:
    result: list[Segment] = []
    for segment in segments:
        if result and isinstance(segment, str) and isinstance(result[-1], str):
            result[-1] += segment
        else:
            result.append(segment)
    return result
