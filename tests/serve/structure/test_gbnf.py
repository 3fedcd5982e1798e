"""GBNF means what it means in llama.cpp: every way to read a text counts, whatever its rules are called."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cache

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from hanlin.serve.gbnf import lexemes
from hanlin.serve.gbnf.lark import gbnf_to_lark
from hanlin.serve.gbnf.syntax import GbnfError, is_gbnf
from hanlin.serve.grammar_worker import GrammarError, compile_grammar, make_matcher

END = 256
MAX_LENGTH = 4
TEXTS = ["".join(chars) for length in range(MAX_LENGTH + 1) for chars in itertools.product("abc", repeat=length)]


class ByteVocabulary:
    """A token for each byte, so that a text is in a grammar or not whatever a tokenizer makes of it."""

    eos_token_id = END
    bos_token_id = None

    def __init__(self) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"\xff256"]
        self.special_token_ids = [END]

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


@cache
def byte_tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(ByteVocabulary()), eos_token=[END])


def compiled(grammar: str) -> LLMatcher:
    request = {"kind": "grammar", "value": grammar, "before": ""}
    return make_matcher(byte_tokenizer(), compile_grammar(request)[0])


def takes(matcher: LLMatcher, text: str) -> bool:
    copy, data = matcher.deep_copy(), list(text.encode())
    return copy.try_consume_tokens(data) == len(data) and copy.is_accepting()


@pytest.mark.parametrize(
    ("grammar", "fits", "fits_not"),
    [
        ('root ::= word "b"\nword ::= [a-z]+', ["xb", "bb"], ["b", "xc"]),
        ('root ::= list "b"\nlist ::= "(" list ")" | [a-z]+', ["xb", "(bb)b"], ["b", "(x)"]),
        ('root ::= list* "end"\nlist ::= "(" list ")" | [a-z]', ["end", "eend", "enend", "(e)end"], ["en"]),
        ('root ::= tree | "x"\ntree ::= "a" tree "b" | "ab"', ["ab", "aabb", "x"], ["aab", ""]),
        (r'root ::= "\u0041" [\u00e9] "\x42"', ["AéB"], ["Aé"]),
        (r"root ::= [\U00020000-\U0002ffff]+", ["𠮷"], ["吉", ""]),
        ("root ::= .", ["\n", "a", "中"], ["", "ab"]),
        ("root ::= [a&&b]", ["a", "b", "&"], ["c"]),
        ("root ::= [+--]", ["+", ",", "-"], ["a"]),
        ("root ::= [a^-]+", ["a^-"], ["b"]),
        (r'root ::= [^"\\]*', ["", "ab\n"], ['"', "\\"]),
        ('root ::= start\nstart ::= "x"', ["x"], [""]),
        ('root ::= foo-bar foo_bar fooBar\nfoo-bar ::= "x"\nfoo_bar ::= "y"\nfooBar ::= "z"', ["xyz"], ["xy"]),
        ('root ::= 1st\n1st ::= "x"', ["x"], ["1"]),
        ('# 注释\nroot ::= "甲" | # 一\n  "乙"\n  | "丙"', ["甲", "乙", "丙"], ["丁"]),
        ('root ::= (\n  "a" # or\n  | "b"\n){2}', ["ab", "bb"], ["a"]),
        ('root ::= "a"{0} [0-9]{2,} "b"{0,2}', ["12", "123bb"], ["1", "a12", "12bbb"]),
        ('root ::= "" | ()', [""], ["a"]),
        (r'root ::= "a\nb\t\\\"/\[" "//"', ['a\nb\t\\"/[//'], ["a"]),
    ],
)  # fmt: skip
def test_a_grammar_takes_the_texts_that_llama_cpp_takes(grammar: str, fits: list[str], fits_not: list[str]) -> None:
    matcher = compiled(grammar)
    assert [text for text in fits if not takes(matcher, text)] == []
    assert [text for text in fits_not if takes(matcher, text)] == []


@dataclass(frozen=True)
class Rule:
    """A part of a random grammar: how it is written, and which texts it takes."""

    kind: str
    text: str = ""
    parts: tuple[Rule, ...] = ()
    least: int = 0
    most: int | None = None

    def write(self) -> str:
        inner = [part.write() for part in self.parts]
        count = f"{{{self.least},{'' if self.most is None else self.most}}}"
        return {
            "name": self.text,
            "literal": f'"{self.text}"',
            "class": f"[{self.text}]",
            "sequence": f"({' '.join(inner)})",
            "choice": f"({' | '.join(inner)})",
            "repeat": f"({''.join(inner)}){count}",
        }[self.kind]

    def texts(self, of_rules: dict[str, frozenset[str]]) -> frozenset[str]:
        """The texts of at most `MAX_LENGTH` characters that it takes, if those of the rules are known."""
        inner = [part.texts(of_rules) for part in self.parts]
        if self.kind == "choice":
            return frozenset().union(*inner)
        if self.kind in ("sequence", "repeat"):
            most = MAX_LENGTH + self.least if self.most is None else self.most
            chains = [inner] if self.kind == "sequence" else [inner * count for count in range(self.least, most + 1)]
            return frozenset().union(*(_chain(chain) for chain in chains))
        if self.kind == "name":
            return of_rules[self.text]
        return frozenset(self.text) if self.kind == "class" else frozenset({self.text})


def _chain(sets: list[frozenset[str]]) -> frozenset[str]:
    texts = frozenset({""})
    for others in sets:
        texts = frozenset(one + other for one in texts for other in others if len(one + other) <= MAX_LENGTH)
    return texts


def draw_rule(rng: random.Random, depth: int, names: list[str]) -> Rule:
    kind = rng.choice(["name", "literal", "class", *(["sequence", "sequence", "choice", "repeat"] if depth else [])])
    if kind == "name":
        return Rule(kind, rng.choice(names))
    if kind in ("literal", "class"):
        return Rule(kind, "".join(sorted(set(rng.choices("abc", k=2))) if kind == "class" else rng.choices("abc", k=2)))
    parts = tuple(draw_rule(rng, depth - 1, names) for _ in range(1 if kind == "repeat" else rng.randint(2, 3)))
    least, most = rng.choice([(0, None), (1, None), (0, 1), (2, 3)])
    return Rule(kind, "", parts, least, most)


@pytest.mark.parametrize("all_characters", [False, True], ids=["in lexemes", "in characters"])
def test_random_grammars_take_exactly_the_texts_of_their_language(
    all_characters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if all_characters:
        monkeypatch.setattr(lexemes, "_MAX_PAIRS", 0)
    for seed in range(60):
        rng = random.Random(seed)
        names = ["root", "x", "y-z"][: rng.randint(1, 3)]
        rules = {name: draw_rule(rng, 2, names) for name in names}
        known: dict[str, frozenset[str]] = dict.fromkeys(names, frozenset())
        while (texts := {name: rule.texts(known) for name, rule in rules.items()}) != known:
            known = texts
        grammar = "\n".join(f"{name} ::= {rule.write()}" for name, rule in rules.items())
        if known["root"]:  # of others no text is short
            matcher = compiled(grammar)
            assert {text for text in TEXTS if takes(matcher, text)} == known["root"], grammar


def test_the_grammar_of_json_stays_in_lexemes() -> None:
    """One character at a time, each step over a vocabulary would cost many times as much."""
    grammar = r"""
        root ::= object
        value ::= object | array | string | number | ("true" | "false" | "null") ws
        object ::= "{" ws (string ":" ws value ("," ws string ":" ws value)*)? "}" ws
        array ::= "[" ws (value ("," ws value)*)? "]" ws
        string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
        number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
        ws ::= | " " | "\n" [ \t]{0,20}
    """
    assert gbnf_to_lark(grammar).count("/") < 60  # of 230 characters and more
    matcher = compiled(grammar)
    assert all(takes(matcher, text) for text in ('{"a": [1, -2.5e+1, true], "b": {"中": "\\n"}}', "{}"))
    assert not any(takes(matcher, text) for text in ('{"a": }', '{"a": 1', "[]"))


def test_rules_that_name_no_recursive_rule_are_one_regular_expression() -> None:
    assert gbnf_to_lark('root ::= digit+ "," digit{2}\ndigit ::= [0-9]').count("/") == 2


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= "a', 'line 1 of the grammar: `"` is missing'),
        ("root ::= [a", "line 1 of the grammar: `]` is missing"),
        ('a ::= "x"\nroot ::= (a', "line 2 of the grammar: `)` is missing"),
        ('root ::= b\na ::= "x"', "the grammar has no rule `b`"),
        ('a ::= "x"', "the grammar has no rule `root`"),
        ('root ::= "x"\nroot ::= "y"', "line 2 of the grammar: the rule `root` is there twice"),
        ('root ::= "x" )', "line 1 of the grammar: the rule does not end here"),
        ('root ::= "x"{3,2}', "line 1 of the grammar: a count is at most 2000"),
        ('root ::= "x"{a}', "line 1 of the grammar: a count is written"),
        ('root ::= "\\d"', "line 1 of the grammar: \\d is no escape of GBNF"),
        ('root ::= "\\ud800"', "line 1 of the grammar: \\ud800 is no character"),
        ("root ::= [z-a]", "line 1 of the grammar: a range of characters begins with the lower one"),
        ("root ::= []", "line 1 of the grammar: the set of characters is empty"),
        ("root ::= <think>", "line 1 of the grammar: single tokens"),
        ("root ::= " + "(" * 200, "line 1 of the grammar: the grammar is nested too deep"),
    ],
)
def test_a_malformed_grammar_is_refused_with_its_line(grammar: str, message: str) -> None:
    with pytest.raises(GbnfError) as refusal:
        gbnf_to_lark(grammar)
    assert message in str(refusal.value)
    with pytest.raises(GrammarError):
        compiled(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        '?start: "a"',
        '%import common.INT\nstart: "a" | INT',
        '    // a comment\n    ?start: sum\n    ?sum: "a" | sum "+" "a"\n',
        "!start: /a/",
        'start: "a" | "::="',
    ],
)
def test_lark_is_told_from_gbnf_however_it_begins(grammar: str) -> None:
    assert not is_gbnf(grammar)
    assert takes(compiled(grammar), "a")
