"""Jinja for chat templates, with transformers' `{% generation %}` block.

The sandbox and its limits are in `sandbox`; what the text means is in `template`.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.runtime import Context

from hanlin.chat.rendering.sandbox import REFERENCE_DATE, SandboxEnvironment
from hanlin.chat.rendering.symbolic import Segment, SymbolicRenderer
from hanlin.chat.rendering.work_budget import TemplateLimitError

WHITE_SPACE = r"' \t\n\v\f\r'"
"""What `strip` and `trim` mean by white space in llama.cpp's Jinja, as a Jinja literal. Python's own set holds more,
the ideographic space of Chinese paragraphs (U+3000) for one."""

_TRIMMED = re.compile(
    r"([A-Za-z_][\w.]{0,99}(?:\[[^\[\]]{0,99}\][\w.]{0,99}){0,8})\s{0,99}\|\s{0,99}trim\b(?!\s{0,99}\()"
)
"""Bounded, so that a long template takes no more than linear time."""
_TRIM = re.compile(r"\|\s*trim\b(?!\s*\()")
_STRIP = re.compile(r"\.strip\(\s*\)")
_DATE = re.compile(r"\bstrftime_now\(\s{0,99}(?:'([^'\"\\\0]{0,99})'|\"([^'\"\\\0]{0,99})\")\s{0,99}\)")


def make_portable(source: str) -> str:
    """Give every `trim` and `strip()` an explicit set of white space, and write out the date of training.

    Python's Jinja and llama.cpp's strip different characters by default; with the argument they agree. `strftime_now`
    is today's date in other programs, another prompt every day; what was trained is the text that is written out.
    """
    source = _DATE.sub(lambda match: f"'{REFERENCE_DATE.strftime(match[1] or match[2] or '')}'", source)
    named = _TRIMMED.sub(lambda match: f"{match[1]}.strip({WHITE_SPACE})", source)
    return _STRIP.sub(lambda _: f".strip({WHITE_SPACE})", _TRIM.sub(lambda _: f"| trim({WHITE_SPACE})", named))


class Markers(NamedTuple):
    """Three characters that occur in no text of a rendering.

    `start` and `end` surround what an assistant generated; `shield` breaks a special token that a user typed.
    """

    start: str
    end: str
    shield: str

    @classmethod
    def choose_unused(cls, texts: Iterable[str]) -> Markers:
        """The first characters of Unicode's private use areas (138,468 of them) that occur in none of `texts`."""
        texts = list(texts)
        if not any(map(_PRIVATE_USE.search, texts)):
            return DEFAULT_MARKERS
        used = set().union(*texts)
        private = itertools.chain(range(0xE000, 0xF900), range(0xF0000, 0xFFFFE))
        return cls(*itertools.islice((chr(code) for code in private if chr(code) not in used), 3))


_PRIVATE_USE = re.compile("[\ue000-\uf8ff\U000f0000-\U000ffffd]")
DEFAULT_MARKERS = Markers("\ue000", "\ue001", "\ue002")


def has_no_marker_chars(text: str) -> bool:
    """Whether a text holds no character of the private use areas, from which markers are taken."""
    return not _PRIVATE_USE.search(text)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` surrounds what the assistant generates, its end of turn included."""

    tags = {"generation"}  # noqa: RUF012 (Jinja declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_marked", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _marked(self, context: Context, caller: Callable[[], str]) -> str:
        markers: Markers = context["hanlin_markers"]
        return markers.start + caller() + markers.end


class JinjaTemplate:
    """One compiled template. `render` returns its text with markers around what `{% generation %}` blocks wrote."""

    def __init__(self, source: str) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        self.source = source
        self._limit_error = ""
        self._environment = _new_environment()
        self._template = self._environment.compile_source(source)

    @functools.cached_property
    def has_generation_blocks(self) -> bool:
        """Whether the template itself says what the assistant generates."""
        tree = self._environment.parse(self.source)
        return any(tree.find_all(nodes.CallBlock))

    @functools.cached_property
    def variables(self) -> frozenset[str]:
        """The variables that the template reads without setting them itself."""
        return frozenset(meta.find_undeclared_variables(self._environment.parse(self.source)))

    @functools.cached_property
    def literal_text(self) -> str:
        """All literal text of the template, joined by a character that no token holds."""
        tree = self._environment.parse(self.source)
        written = [node.data for node in tree.find_all(nodes.TemplateData)]
        written += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
        return "\0".join(written)

    def render_symbolic(self, markers: Markers, variables: Mapping[str, Any]) -> tuple[Segment, ...] | None:
        """What the template writes for any text, see `SymbolicRenderer.render`."""
        if self._limit_error:
            return None
        return self._symbolic_renderer.render({"hanlin_markers": markers, **variables})

    @functools.cached_property
    def _symbolic_renderer(self) -> SymbolicRenderer:
        return SymbolicRenderer(_new_environment(), self.source)

    def render(self, markers: Markers, variables: Mapping[str, Any]) -> str:
        """Render the template. Raises jinja2.TemplateError for everything that can go wrong, endless work included."""
        if self._limit_error:
            raise TemplateLimitError(self._limit_error)
        self._environment.budget.start()
        try:
            return self._environment.concat(self._template.generate(hanlin_markers=markers, **variables))
        except TemplateLimitError as error:
            self._remember(error, variables)
            raise
        except jinja2.TemplateError:
            raise
        except (MemoryError, RecursionError, OverflowError) as error:
            limit_error = TemplateLimitError(f"{type(error).__name__}")
            self._remember(limit_error, variables)
            raise limit_error from error
        except Exception as error:  # a template's own mistakes surface as any Python error
            raise jinja2.TemplateError(f"{type(error).__name__}: {error}"[:_MAX_MESSAGE]) from error

    def _remember(self, error: TemplateLimitError, variables: Mapping[str, Any]) -> None:
        """Refuse a template from now on that exceeds its limits on a small conversation: no honest one does, and each
        of a hundred renderings would take seconds. A long conversation is refused alone.
        """
        budget = self._environment.budget
        budget.start()
        try:
            weight = budget.weigh(list(variables.values()))
        except TemplateLimitError:
            return
        if weight <= _SMALL_CONVERSATION:
            self._limit_error = error.message or "limits"


_SMALL_CONVERSATION = 20_000
"""Characters of the texts of a conversation, about; each entry counts as 80 more."""
_MAX_MESSAGE = 500


def _new_environment() -> SandboxEnvironment:
    return SandboxEnvironment([_Generation, LoopControls])
