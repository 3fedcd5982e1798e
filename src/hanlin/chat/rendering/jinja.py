"""Jinja for chat templates, in a sandbox and with limits on its work.

It adds transformers' filters and its `{% generation %}` block. What the text means is in `template`.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.ext import loopcontrols as LoopControls
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from hanlin.chat.rendering.symbolic import Segment, SymbolicRenderer

MAX_STEPS = 200_000
"""Loop turns and macro calls of one rendering; a conversation of a thousand turns needs some thousands."""

MAX_CHARACTERS = 20_000_000
"""Characters of any text that a template builds, the result included."""

REFERENCE_DATE = datetime(2024, 7, 26)
"""What `strftime_now` tells a template. A date that moves on would make a prompt differ from its training and a run
from its repetition; this one is the date that Llama 3.1's own template falls back to."""


WHITE_SPACE = r"' \t\n\v\f\r'"
"""What `strip` and `trim` mean by white space in llama.cpp's Jinja, as a Jinja literal. Python's own set holds more,
the ideographic space of Chinese paragraphs (U+3000) for one."""

_TRIMMED = re.compile(r"([A-Za-z_][\w.]*(?:\[[^\[\]]*\][\w.]*)*)\s*\|\s*trim\b(?!\s*\()")
_TRIM = re.compile(r"\|\s*trim\b(?!\s*\()")
_STRIP = re.compile(r"\.strip\(\s*\)")


def make_portable(source: str) -> str:
    """Give every `trim` and `strip()` an explicit set of white space.

    Python's Jinja and llama.cpp's strip different characters by default; with the argument they agree.
    """
    named = _TRIMMED.sub(lambda match: f"{match[1]}.strip({WHITE_SPACE})", source)
    return _STRIP.sub(lambda _: f".strip({WHITE_SPACE})", _TRIM.sub(lambda _: f"| trim({WHITE_SPACE})", named))


class TemplateLimitError(jinja2.TemplateError):
    """A template exceeded the limits on its work."""


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


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox with limits: each loop iteration and macro call is counted, and each text has a maximum size."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControls])
        self.steps = 0
        self.filters["tojson"] = _tojson
        self.filters = {name: _limit_filter(name, call) for name, call in self.filters.items()}
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = REFERENCE_DATE.strftime
        self.globals["hanlin_step"] = self.step
        self.globals["hanlin_concat"] = _concat

    def step(self) -> str:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise TemplateLimitError(f"more than {MAX_STEPS:,} loop turns")
        return ""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template, with a counter in each loop and macro body and each `~` turned into a limited call."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all((nodes.For, nodes.Macro)):
            body: list[nodes.Node] = loop.body  # type: ignore[attr-defined]
            body.insert(0, nodes.ExprStmt(_call("hanlin_step", [])).set_lineno(loop.lineno))
        return _BoundedConcat().visit(tree)  # type: ignore[no-any-return]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateLimitError("powers are not computed")
        if operator == "*" and not (isinstance(left, int) and isinstance(right, int)):
            _check_cost(left, right)
        elif operator == "%" and isinstance(left, str):
            _check_format_width(left)
        return _check_size(super().call_binop(context, operator, left, right))

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """A call that the template makes. Methods that lengthen a text are checked before they run."""
        text = getattr(callee, "__self__", None)
        if isinstance(text, str) and getattr(callee, "__name__", "") in _LENGTHENING:
            _check_cost(text, *args)
        return _check_size(super().call(context, callee, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format_width(value.__self__)
        return wrapped


_LENGTHENING = frozenset(["center", "expandtabs", "indent", "join", "ljust", "replace", "rjust", "zfill"])
_WIDE_FIELD = re.compile(r"\d{5,}|:[^{}]*\{|%[^%a-zA-Z]*\*")
"""In a format: a width of five digits, or one that is only given with what is formatted."""


class _BoundedConcat(NodeTransformer):
    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return _call("hanlin_concat", [self.visit(part) for part in node.nodes]).set_lineno(node.lineno)


def _call(name: str, arguments: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.Name(name, "load"), arguments, [], None, None)


def _concat(*parts: Any) -> str:
    return str(_check_size("".join(map(str, parts))))


def _check_size(value: Any) -> Any:
    """Return the value, unless it is larger than any conversation needs."""
    if isinstance(value, str | list | tuple) and len(value) > MAX_CHARACTERS:
        raise TemplateLimitError(f"a text of {len(value):,} characters")
    if isinstance(value, int) and value.bit_length() > 256:
        raise TemplateLimitError("a number of more than 256 bits")
    return value


def _check_cost(*parts: Any) -> None:
    """Refuse an operation whose result could be as long as the product of its inputs, if that is too long."""
    size = 1
    for part in parts:
        if isinstance(part, str | list | tuple | dict):
            size *= max(1, len(part))
        elif isinstance(part, int):
            size *= max(1, abs(part))
    if size > 10 * MAX_CHARACTERS:
        raise TemplateLimitError(f"a text of perhaps {size:,} characters")


def _check_format_width(layout: str) -> None:
    if _WIDE_FIELD.search(layout):
        raise TemplateLimitError(f"a field of unknown or great width in {layout[:40]!r}")


def _limit_filter(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is refused if its result is, or could be, too long. Jinja's marks on the function are kept."""

    @functools.wraps(call)
    def limited(*args: Any, **kwargs: Any) -> Any:
        if name in _LENGTHENING:
            _check_cost(*args, *kwargs.values())
        if name == "format":
            _check_format_width(str(args[0]))
        return _check_size(call(*args, **kwargs))

    return limited


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' templates get it: not escaped for HTML, Chinese as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


class JinjaTemplate:
    """One compiled template. `render` returns its text with markers around what `{% generation %}` blocks wrote."""

    def __init__(self, source: str) -> None:
        """Raises jinja2.TemplateSyntaxError."""
        self.source = source
        self._environment = _Environment()
        self._template = self._environment.from_string(source)

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
        return self._symbolic_renderer.render({"hanlin_markers": markers, **variables})

    @functools.cached_property
    def _symbolic_renderer(self) -> SymbolicRenderer:
        return SymbolicRenderer(_Environment(), self.source)

    def render(self, markers: Markers, variables: Mapping[str, Any]) -> str:
        """Render the template. Raises jinja2.TemplateError for everything that can go wrong, endless work included."""
        self._environment.steps = 0
        try:
            chunks: list[str] = []
            size = 0
            for chunk in self._template.generate(hanlin_markers=markers, **variables):
                size += len(chunk)
                if size > MAX_CHARACTERS:
                    raise TemplateLimitError(f"a text of more than {MAX_CHARACTERS:,} characters")
                chunks.append(chunk)
            return "".join(chunks)
        except jinja2.TemplateError:
            raise
        except (MemoryError, RecursionError, OverflowError) as error:
            raise TemplateLimitError(f"{type(error).__name__}") from error
        except Exception as error:  # a template's own mistakes surface as any Python error
            raise jinja2.TemplateError(f"{type(error).__name__}: {error}") from error
