"""Random chat templates: damaged packaged ones, and expressions that are built to cost much."""

from __future__ import annotations

import functools
import random
from typing import Any

from hanlin.chat.packaged import packaged_names, read_packaged_template

VARIABLES: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "简短。"},
        {"role": "user", "content": "天气？ <|eot_id|> it's 5"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2]}}}]},
        {"role": "tool", "content": "晴"},
        {"role": "assistant", "content": "好 </think> 的"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_generation_prompt": True,
}
_NUMBERS = ("0", "1", "2", "-1", "9", "255", "9999", "99999", "1000000", "1000000000", "10**9", "1e308", "1.5", "0.1")
_TEXTS = ("'x'", "'翰林'", "''", "'%s'", "'%9999d'", "'{:9999}'", "'{0}'", "'\\n'", "'a b '", "'<think>'", "'%(a)s'")
_NAMES = ("a", "b", "n.a", "messages", "tools", "m", "m.content", "loop", "loop.index", "range", "dict", "namespace")
_CONTAINERS = ("[a, a, a, a, a, a, a, a, a, a]", "(a, b)", "{'a': a}")
_FILTERS = (
    *("abs", "attr", "batch", "capitalize", "center", "count", "default", "dictsort", "escape", "first", "float"),
    *("format", "groupby", "indent", "int", "items", "join", "last", "length", "list", "lower", "map", "max", "min"),
    *("reject", "replace", "reverse", "round", "safe", "select", "selectattr", "slice", "sort", "string", "sum"),
    *("title", "tojson", "trim", "truncate", "unique", "upper", "wordcount"),
)
_METHODS = (
    *("center", "count", "encode", "endswith", "expandtabs", "find", "format", "format_map", "get", "index", "items"),
    *("join", "keys", "ljust", "lower", "lstrip", "partition", "replace", "rjust", "split", "splitlines", "strip"),
    *("title", "translate", "upper", "values", "zfill", "to_bytes", "hex", "__class__", "removeprefix", "rsplit"),
)
_TESTS = ("defined", "none", "string", "mapping", "iterable", "eq(a)", "in(b)", "sameas(a)", "divisibleby(2)", "number")
_OPERATORS = ("+", "-", "*", "**", "%", "/", "//", "~", "==", "!=", "<", ">", "in", "not in", "and", "or")


def make(rng: random.Random) -> str:
    """A template: one time in three a damaged packaged one, else a random one."""
    if rng.random() < 0.33:
        return _damage(rng, read_packaged_template(rng.choice(_packaged())))
    return "{% set a = ['x'] %}{% set b = 'xy' %}{% set n = namespace(a=[1]) %}" + "".join(
        _statement(rng, 0) for _ in range(rng.randint(1, 6))
    )


@functools.cache
def _packaged() -> tuple[str, ...]:
    return packaged_names()


def _damage(rng: random.Random, source: str) -> str:
    for _ in range(rng.randint(1, 4)):
        index = rng.randint(0, len(source))
        way = rng.random()
        if way < 0.3:
            source = source[:index] + _statement(rng, 1) + source[index:]
        elif way < 0.5:
            source = (
                source[:index] + rng.choice(["{%", "%}", "{{", "}}", "'", "(", "|", "{#", "\x00", "}"]) + source[index:]
            )
        elif way < 0.7:
            end = min(len(source), index + rng.randint(0, 60))
            source = source[:index] + source[end:]
        else:
            end = min(len(source), index + rng.randint(0, 300))
            source = source[:end] + source[index:end] * rng.choice([1, 2, 50]) + source[end:]
    return source


def _statement(rng: random.Random, depth: int) -> str:
    way = rng.random()
    if depth > 3 or way < 0.3:
        return "{{ " + _expression(rng, 0) + " }}"
    body = "".join(_statement(rng, depth + 1) for _ in range(rng.randint(1, 3)))
    if way < 0.45:
        return "{% set " + rng.choice(["a", "b", "n.a", "range", "budget"]) + " = " + _expression(rng, 0) + " %}"
    if way < 0.7:
        test = f" if {_expression(rng, 2)}" if rng.random() < 0.2 else ""
        count = rng.choice(["range(9)", "range(99)", "range(9999)", "range(99999)", "messages", _expression(rng, 1)])
        return f"{{% for m in {count}{test}{' recursive' if rng.random() < 0.1 else ''} %}}{body}{{% endfor %}}"
    if way < 0.8:
        return "{% if " + _expression(rng, 1) + " %}" + body + "{% endif %}"
    if way < 0.86:
        name = rng.choice("fgh")
        return f"{{% macro {name}(x) %}}{body}{{{{ {name}(x) }}}}{{% endmacro %}}{{{{ {name}(a) }}}}"
    if way < 0.92:
        return "{% set a %}" + body + "{% endset %}"
    return rng.choice(
        ["{% filter " + rng.choice(_FILTERS) + " %}" + body + "{% endfilter %}", "{% generation %}{% endgeneration %}"]
    )


def _expression(rng: random.Random, depth: int) -> str:
    way = rng.random()
    if depth > 4 or way < 0.22:
        return rng.choice(
            [*_NUMBERS, *_TEXTS, *_NAMES, *_NAMES, "[a, a, a, a, a, a, a, a, a, a]", "(a, b)", "{'a': a}"]
        )
    inner = functools.partial(_expression, rng, depth + 1)
    if way < 0.42:
        return f"({inner()} {rng.choice(_OPERATORS)} {inner()})"
    arguments = ", ".join(inner() for _ in range(rng.choice([0, 0, 1, 1, 2])))
    if way < 0.65:
        return f"({inner()})|{rng.choice(_FILTERS)}" + (f"({arguments})" if arguments else "")
    if way < 0.8:
        return f"({inner()}).{rng.choice(_METHODS)}({arguments})"
    if way < 0.86:
        return f"({inner()})[{rng.choice([inner(), '0', '-1', '::2', ':5', '1:'])}]"
    if way < 0.92:
        return f"{rng.choice(['range', 'dict', 'namespace', 'strftime_now', 'cycler', 'joiner'])}({arguments})"
    if way < 0.96:
        return f"({inner()}) is {rng.choice(_TESTS)}"
    return f"({inner()} if {inner()} else {inner()})"
