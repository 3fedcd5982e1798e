r"""Writes GBNF as Lark of the same language.

root ::= [a-z]+ "b"       ->   start: /[\x{61}-\x{7a}]+\x{62}/

A rule that refers to no rule that is recursive is one regular expression; the others are cut as `lexemes` says.
"""

from __future__ import annotations

from collections.abc import Mapping

from hanlin.serve.gbnf.lexemes import cut_into_lexemes
from hanlin.serve.gbnf.syntax import ROOT, Chars, Choice, Lexeme, Node, Reference, Repeat, Sequence, parse


def gbnf_to_lark(grammar: str) -> str:
    """Lark, as llguidance reads it, of a grammar in GBNF.

    Raises:
        GbnfError: It is malformed; the message says where.
    """
    rules = cut_into_lexemes(parse(grammar))
    names = {name: "start" if name == ROOT else f"rule_{index}" for index, name in enumerate(rules)}
    lines = [f"{names[name]}: {_write(node, names)}" for name, node in rules.items()]
    return "\n".join(["%llguidance {}", *lines, ""])


def _write(node: Node, names: Mapping[str, str]) -> str:
    match node:
        case Lexeme(inner):
            return f"/{_write_regex(inner)}/"
        case Reference(name):
            return names[name]
        case Sequence(parts):
            return " ".join(_write(part, names) for part in parts) or '""'
        case Choice(options):
            return f"({' | '.join(_write(option, names) for option in options)})"
        case Repeat(inner, least, most):
            return f"({_write(inner, names)}){_write_count(least, most)}" if most != 0 else '""'
        case Chars():
            return f"/{_write_regex(node)}/"


def _write_regex(node: Node) -> str:
    match node:
        case Chars(ranges):
            written = [_escape(low) if low == high else f"{_escape(low)}-{_escape(high)}" for low, high in ranges]
            return written[0] if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else f"[{''.join(written)}]"
        case Sequence(parts):
            return "".join(map(_write_regex, parts)) or "()"
        case Choice(options):
            return f"({'|'.join(map(_write_regex, options))})"
        case Repeat(inner, least, most):
            return f"({_write_regex(inner)}){_write_count(least, most)}" if most != 0 else "()"
        case Lexeme(inner):
            return _write_regex(inner)
        case Reference(name):
            raise ValueError(name)


def _escape(code: int) -> str:
    return f"\\x{{{code:x}}}"


def _write_count(least: int, most: int | None) -> str:
    if (least, most) in ((0, None), (1, None), (0, 1)):
        return {(0, None): "*", (1, None): "+", (0, 1): "?"}[least, most]
    return f"{{{least},{'' if most is None else most}}}"
