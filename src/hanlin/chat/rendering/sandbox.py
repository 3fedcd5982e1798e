"""The sandbox in which chat templates run: Jinja's own, with the work of every operation charged to a budget.

Charges are written into the compiled code, where no variable of the template can replace them. What needs no chat
template (random choices, HTML) is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hanlin.chat.rendering.work_budget import MAX_LENGTH, TemplateLimitError, WorkBudget
from hanlin.core.limits import MAX_TEMPLATE_CHARACTERS

REFERENCE_DATE = datetime(2024, 7, 26)
"""What `strftime_now` tells a template. A date that moves on would make a prompt differ from its training and a run
from its repetition; this one is the date that Llama 3.1's own template falls back to."""
_MAX_MESSAGE = 2_000
"""Characters of what a template says when it refuses."""

_LEFT_OUT = (
    *("filesizeformat", "pprint", "random", "striptags", "urlencode", "urlize", "wordwrap", "xmlattr"),
    "forceescape",
)
_BODIES = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block)
_CONTAINERS_PASS = frozenset(
    [
        *("attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject"),
        *("rejectattr", "reverse", "select", "selectattr", "slice"),
    ]
)
"""Filters that do not look into what a list holds."""
_SORTING = frozenset(["dictsort", "groupby", "max", "min", "sort", "sum", "unique"])
_TYPE_TESTS = frozenset(
    [
        *("boolean", "callable", "defined", "even", "false", "filter", "float", "integer", "iterable", "mapping"),
        *("none", "number", "odd", "sequence", "string", "test", "true", "undefined"),
    ]
)
"""Tests that look at no more than the type or a number."""


class _Generator(CodeGenerator):
    """Writes the charges into the code of a template."""

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._charged("compare", node.expr, frame)
        for operand in node.ops:
            self.write({"in": " in ", "notin": " not in "}.get(operand.op) or f" {_OPERATORS[operand.op]} ")
            self._charged("look_in" if operand.op in ("in", "notin") else "compare", operand.expr, frame)
        self.write(")")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self.write("environment.budget.charge(")
        super().visit_Getitem(node, frame)
        self.write(")")

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self.write("{")
        for pair in node.items:
            self._charged("key", pair.key, frame)
            self.write(": ")
            self.visit(pair.value, frame)
            self.write(", ")
        self.write("}")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat_texts((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")

    def _charged(self, method: str, node: nodes.Expr, frame: Frame) -> None:
        """Write an expression, within a call that charges it unless it is a constant."""
        if isinstance(node, nodes.Const):
            self.visit(node, frame)
            return
        self.write(f"environment.budget.{method}(")
        self.visit(node, frame)
        self.write(")")


_OPERATORS = {"eq": "==", "ne": "!=", "gt": ">", "gteq": ">=", "lt": "<", "lteq": "<="}


class SandboxEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox whose templates work on a budget."""

    intercepted_binops = frozenset(["*", "**", "+", "-", "%"])
    code_generator_class = _Generator

    def __init__(self, extensions: Iterable[type[Extension]]) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=list(extensions), finalize=self._write, optimized=False
        )
        self.budget = WorkBudget()
        self._compiling = False
        self.filters["tojson"] = _tojson
        for name in _LEFT_OUT:
            del self.filters[name]
        self.filters = {name: self._limit_filter(name, call) for name, call in self.filters.items()}
        for name, test in self.tests.items():
            if name not in _TYPE_TESTS:
                self.tests[name] = self._limit_test(cast(Callable[..., Any], test))
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def compile_source(self, source: str) -> jinja2.Template:
        """Compile a template.

        Raises:
            jinja2.TemplateSyntaxError: It is not Jinja, too long or nested too deeply.
        """
        if len(source) > MAX_TEMPLATE_CHARACTERS:
            message = f"{len(source):,} characters, but at most {MAX_TEMPLATE_CHARACTERS:,} are read"
            raise jinja2.TemplateSyntaxError(message, 1)
        self.budget.start()
        self._compiling = True
        try:
            return self.from_string(source)
        except jinja2.TemplateSyntaxError:
            raise
        except (RecursionError, MemoryError, SyntaxError) as error:
            raise jinja2.TemplateSyntaxError("nested too deeply", 1) from error
        except Exception as error:
            raise jinja2.TemplateSyntaxError(f"{type(error).__name__}: {error}"[:_MAX_MESSAGE], 1) from error
        finally:
            self._compiling = False

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template, and count a step in each body that may run more than once."""
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(_BODIES):
            body: list[nodes.Node] = node.body  # type: ignore[attr-defined]
            literal = sum(len(data.data) for child in body for data in _literals(child))
            body.insert(0, nodes.ExprStmt(_charge(f"step({literal})")).set_lineno(node.lineno))
            if isinstance(node, nodes.For) and node.test is not None:
                node.test = nodes.And(_charge("step()"), node.test).set_lineno(node.lineno)
        return tree

    # ------------------------------------------------------------------------------------------- operations

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise TemplateLimitError("powers are not computed")
        if operator == "*":
            self.budget.repeat(left, right)
        elif operator == "%" and isinstance(left, str):
            self.budget.format_percent(left, right)
        elif operator == "-" and not isinstance(left, int | float):
            raise TemplateLimitError("a difference of what is no number")
        return self.budget.charge(super().call_binop(context, operator, left, right))

    def call(self, context: Context, callee: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """A call that the template makes: counted, and charged before it runs."""
        budget = self.budget
        budget.step()
        budget.arguments(args, kwargs)
        owner = getattr(callee, "__self__", None)
        if owner is not None and not isinstance(owner, _OURS):
            args = budget.method(owner, getattr(callee, "__name__", ""), (*args, *kwargs.values()))[: len(args)]
        elif callee is dict and args and not isinstance(args[0], dict):
            args = ([(budget.key(key), value) for key, value in budget.count(args[0])], *args[1:])
        return budget.charge(super().call(context, callee, *args, **kwargs))

    def getitem(self, obj: Any, argument: Any) -> Any:
        return super().getitem(obj, self.budget.key(argument))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        layout: str = value.__self__

        def limited(*args: Any, **kwargs: Any) -> str:
            self.budget.format_braces(layout, [*args, *kwargs.values()])
            return wrapped(*args, **kwargs)

        return functools.update_wrapper(limited, wrapped)

    def concat_texts(self, parts: tuple[Any, ...]) -> Any:
        """What `~` makes of its operands."""
        texts = [part if type(part) is str else self._text(part) for part in parts]
        self.budget.reserve(sum(map(len, texts)))
        return self.budget.charge("".join(texts))

    def concat(self, chunks: Iterable[str]) -> str:  # type: ignore[override]
        """What is written in a macro or a block, as one text."""
        texts = list(chunks)
        self.budget.reserve(sum(map(len, texts)))
        text = "".join(texts)
        self.budget.charge(text)
        return text

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            self.budget.reserve(self.budget.weigh(value))
        return str(value)

    def _write(self, value: Any) -> Any:
        """Charge what is written out."""
        if type(value) is str:
            return self.budget.charge(value)
        return self.budget.charge(value if isinstance(value, str) else self._text(value))

    def _limit_test(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.budget.arguments(args, kwargs)
            for value in args:
                if not isinstance(value, _OURS):
                    self.budget.compare(value)
            return call(*args, **kwargs)

        return limited

    def _limit_filter(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that is charged before it runs. Jinja's marks on the function are kept."""

        @functools.wraps(call)
        def limited(*args: Any, **kwargs: Any) -> Any:
            if self._compiling:
                raise nodes.Impossible
            self.budget.arguments(args, kwargs)
            first = 1 if args and isinstance(args[0], _OURS) else 0
            return self._run_filter(name, call, args[:first], args[first:], kwargs)

        return limited

    def _run_filter(
        self, name: str, call: Callable[..., Any], passed: tuple[Any, ...], args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        budget = self.budget
        value, *others = args or (None,)
        settings = [*others, *kwargs.values()]
        if name in _BY_ATTRIBUTE and any(isinstance(item, str) and item.count(".") > _MAX_DOTS for item in settings):
            raise TemplateLimitError("an attribute of an attribute of an attribute ...")
        if name == "trim" and settings and isinstance(settings[0], str):
            budget.check_stripped(settings[0])
        if name != "join" and name not in _FREE_SETTINGS:
            for setting in settings:
                _check_setting(setting)
        if not isinstance(value, str) and name not in _CONTAINERS_PASS:
            if hasattr(type(value), "__next__"):
                value = list(budget.count(value))
                budget.charge(value)
            weight = budget.weigh(value)
            budget.copy(weight)
            if name in _SORTING:
                budget.walk(20 * len(value) if hasattr(type(value), "__len__") else 0)
            elif name not in ("join", "tojson", "string", "safe", "escape", "e"):
                budget.reserve(weight)
        elif isinstance(value, str):
            budget.copy(len(value))
            if name in ("title", "wordcount"):
                budget.walk(len(value))
        elif name in ("list", "reverse") and hasattr(type(value), "__len__"):
            budget.walk(len(value))
        self._reserve_growth(name, value, settings)
        result = call(*passed, value, *others, **kwargs)
        if hasattr(type(result), "__next__"):
            return budget.count(result)
        return budget.charge(result)

    def _reserve_growth(self, name: str, value: Any, settings: list[Any]) -> None:
        """Charge the filters whose result may be longer than their input."""
        budget = self.budget
        widest = max([_size_of(setting) for setting in settings], default=0)
        if name == "join":
            values = value if hasattr(type(value), "__len__") else ()
            budget.reserve(budget.weigh(values) + len(values) * max(1, widest))
        elif name == "tojson":
            before = budget.items
            weight = budget.weigh(value)
            if widest:  # each entry has a line of its own, as far in as it is deep
                budget.reserve(weight + (budget.items - before + 2) * widest * _depth(value))
        elif name == "indent":
            text = str(value) if isinstance(value, str) else ""
            budget.reserve(len(text) + (text.count("\n") + 2) * max(4, widest))
        elif name == "replace":
            budget.replace(str(value), tuple(settings))
        elif name == "format":
            budget.format_percent(str(value), tuple(settings))
        elif name == "sum" and any(isinstance(setting, list | tuple) for setting in settings):
            raise TemplateLimitError("a sum of lists")
        elif name == "list" and isinstance(value, str) and len(value) > MAX_LENGTH:
            raise TemplateLimitError(f"a list of {len(value):,} entries")


_OURS = (jinja2.Environment, Context, EvalContext, Extension)
_FREE_SETTINGS = frozenset(["d", "default", "format", "replace", "int", "float", "map", "tojson"])
_LARGEST_SETTING = 10_000
_BY_ATTRIBUTE = frozenset([*_SORTING, "map", "select", "reject", "selectattr", "rejectattr"])
_MAX_DOTS = 8


def _check_setting(value: Any) -> None:
    """Refuse a width, a number of columns or a precision that no text needs."""
    if isinstance(value, int | float) and not -_LARGEST_SETTING <= value <= _LARGEST_SETTING:
        raise TemplateLimitError(f"a setting of a filter of {value:.3g}")
    if isinstance(value, str) and len(value) > _LARGEST_SETTING:
        raise TemplateLimitError(f"a setting of a filter of {len(value):,} characters")


def _size_of(setting: Any) -> int:
    if isinstance(setting, bool):
        return 0
    if isinstance(setting, int):
        return abs(setting)
    if isinstance(setting, tuple | list):
        return sum(map(_size_of, setting[:8]))
    return len(setting) if isinstance(setting, str) else 0


def _depth(value: Any) -> int:
    """How many lists and dicts are within each other, at most; the value has been weighed."""
    level, depth = [value], 1
    while level:
        depth += 1
        level = [
            entry
            for item in level
            if isinstance(item, dict | list | tuple)
            for entry in (item.values() if isinstance(item, dict) else item)
            if isinstance(entry, dict | list | tuple)
        ]
    return depth


def _literals(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    if isinstance(node, nodes.TemplateData):
        yield node
    yield from node.find_all(nodes.TemplateData)


def _charge(call: str) -> nodes.EnvironmentAttribute:
    """A node that calls the budget: no name of the template's, which a variable could replace."""
    return nodes.EnvironmentAttribute(f"budget.{call}")


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers' templates get it: not escaped for HTML, Chinese as it is."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: Any) -> None:
    raise jinja2.TemplateError(str(message)[:_MAX_MESSAGE] if isinstance(message, str) else "")


def _strftime_now(layout: str) -> str:
    if len(layout) > 256:
        raise TemplateLimitError("a date of more than 256 characters")
    return REFERENCE_DATE.strftime(layout)
