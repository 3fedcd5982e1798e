"""English and Chinese pages say the same: equal headings, code and figures, and one language in each paragraph.

A page that fails names the first lines that differ. What is compared:

- headings: levels, in order;
- fenced code: every line without its comment. A block marked `text` or `mermaid` (a drawing, printed text) may be
  translated line by line, so that only its number of lines is compared;
- figures: numbers with a decimal point or of at least two digits, outside fenced code and link targets, as a multiset;
- language: an English page holds Chinese only as short terms, quotes and examples; a Chinese page holds no paragraph,
  list item or table cell in English alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EN, ZH = ROOT / "docs" / "en", ROOT / "docs" / "zh"
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))

HAN = r"\u3400-\u4dbf\u4e00-\u9fff"
FULL_WIDTH = "，。、；：？！（）"
TRANSLATED_BLOCKS = ("text", "mermaid")
LONGEST_CHINESE = {"prose": 7, "cell": 15}
"""Chinese characters in a row that an English page may hold: a term in prose, an example in a table cell."""
MOST_LATIN_WORDS = 8
"""Latin words that a paragraph of a Chinese page may hold without a Chinese character."""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A fenced block: its language, its lines without comments and the line number it starts at."""

    language: str
    lines: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Page:
    """A Markdown page taken apart: `prose` are its lines, those of fenced blocks left empty."""

    prose: tuple[str, ...]
    blocks: tuple[CodeBlock, ...]

    @property
    def headings(self) -> list[str]:
        return [line for line in self.prose if re.match(r"#{1,6} ", line)]


def parse(text: str) -> Page:
    """Split Markdown into prose and fenced blocks (``` or ~~~, indented ones too)."""
    prose: list[str] = []
    blocks: list[CodeBlock] = []
    fence, language, start, inside = "", "", 0, list[str]()
    for number, line in enumerate(text.splitlines(), start=1):
        mark = re.match(r"\s*(`{3,}|~{3,})\s*(\S*)", line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2]:
                blocks.append(CodeBlock(language, tuple(inside), start))
                fence = ""
            else:
                inside.append(without_comment(line))
        elif mark:
            fence, language, start, inside = mark[1], mark[2], number, []
        prose.append("" if fence or mark else line)
    assert not fence, f"the code block of line {start} never ends"
    return Page(tuple(prose), tuple(blocks))


def without_comment(line: str) -> str:
    """A line of code without a comment (`# ...`, `// ...`, at its start or after a space)."""
    return re.sub(r"(^|\s)(#|//)(\s.*)?$", "", line).rstrip()


def comparable(block: CodeBlock) -> tuple[str, object]:
    if block.language in TRANSLATED_BLOCKS:
        return block.language, len(block.lines)
    return block.language, tuple(line for line in block.lines if line)


def figures(page: Page) -> Counter[str]:
    """Numbers of at least two digits or with a decimal point; `1,525` and `1525` are one. Part of a name is none:
    `bfloat16`, `Q4_K_M`.
    """
    text = re.sub(r"\]\([^)]*\)|<[^>]+>|https?://\S+", "]", "\n".join(page.prose))
    numbers = re.findall(r"(?<![A-Za-z0-9_.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)*", text)
    plain = (number.replace(",", "") for number in numbers)
    return Counter(number for number in plain if len(number) > 1)


def paragraphs(page: Page) -> Iterator[tuple[int, str, str]]:
    """Line number, sort (`prose` or `cell`) and text of each paragraph, list item, heading and table cell.

    Quoted blocks (`>`), HTML, directives of the API page and front matter hold no prose of the page's own.
    """
    start, lines = 0, list[str]()
    for number, line in enumerate((*page.prose, ""), start=1):
        stripped = line.strip()
        row = stripped.startswith("|")
        begins = row or not stripped or re.match(r"([-*+]|\d+[.)]|#+) ", stripped)
        if begins and lines:
            yield start, "prose", " ".join(lines)
            lines = []
        if row:
            yield from ((number, "cell", cell) for cell in re.split(r"(?<!\\)\|", stripped.strip("|")))
        elif stripped and not stripped.startswith((">", "<", ":::", "!!!", "???", "---")):
            start = start if lines else number
            lines.append(stripped)


def without_code(text: str) -> str:
    """Text without inline code, link targets and addresses."""
    return re.sub(r"``.+?``|`[^`]*`|\]\([^)]*\)|<[^>]+>|https?://\S+", " ", text)


def without_quotes(text: str) -> str:
    return re.sub(r"“[^”]*”|‘[^’]*’|\"[^\"]*\"|「[^」]*」|《[^》]*》", " ", text)


def chinese_in_english(page: Page) -> list[str]:
    """Lines of an English page that hold Chinese sentences, or a second language after a dot (`text · 文本`)."""
    matches = []
    for number, sort, text in paragraphs(page):
        plain = without_quotes(without_code(text))
        runs = re.findall(rf"[{HAN}][{HAN}{FULL_WIDTH}]*", plain)
        longest = max((len(run) for run in runs), default=0)
        if longest > LONGEST_CHINESE[sort] or re.search(rf"[A-Za-z)] ?[·•] ?[{HAN}]", plain):
            matches.append(f"line {number}: {text.strip()[:100]}")
    return matches


def english_in_chinese(page: Page) -> list[str]:
    """Paragraphs, items and cells of a Chinese page that are English alone."""
    matches = []
    for number, _, text in paragraphs(page):
        plain = without_code(text)
        words = re.findall(r"[A-Za-z][A-Za-z'’-]+", without_quotes(plain))
        if len(words) > MOST_LATIN_WORDS and not re.search(rf"[{HAN}]", plain):
            matches.append(f"line {number}: {text.strip()[:100]}")
    return matches


def half_width_punctuation(page: Page) -> list[str]:
    """Lines of a Chinese page with a half-width mark between two Chinese characters."""
    matches = []
    for number, _, text in paragraphs(page):
        mark = re.search(rf"[{HAN}][,;:?!] ?[{HAN}]", without_code(text))
        if mark:
            matches.append(f"line {number}: {mark[0]}")
    return matches


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*.md")}


PAIRS = {f"docs/{name}": (EN / name, ZH / name) for name in sorted(names(EN) & names(ZH))} | {
    name: (ROOT / f"{name}.md", ROOT / f"{name}.zh-CN.md")
    for name in ("README", "CONTRIBUTING", "CODE_OF_CONDUCT", "SECURITY")
}
every_pair = pytest.mark.parametrize("name", PAIRS)


def both(name: str) -> tuple[Page, Page]:
    english, chinese = (parse(file.read_text(encoding="utf-8")) for file in PAIRS[name])
    return english, chinese


def test_every_page_exists_in_both_languages() -> None:
    assert names(EN), "docs/en holds no page"
    assert names(EN) == names(ZH)


@every_pair
def test_headings_have_the_same_levels(name: str) -> None:
    english, chinese = both(name)
    for left, right in zip(english.headings, chinese.headings, strict=False):
        assert left.split()[0] == right.split()[0], f"{left!r} is where the Chinese page has {right!r}"
    assert len(english.headings) == len(chinese.headings)


@every_pair
def test_code_blocks_are_the_same_but_for_comments(name: str) -> None:
    english, chinese = both(name)
    for left, right in zip(english.blocks, chinese.blocks, strict=False):
        assert comparable(left) == comparable(right), f"English line {left.line}, Chinese line {right.line}"
    assert len(english.blocks) == len(chinese.blocks)


@every_pair
def test_figures_are_the_same(name: str) -> None:
    english, chinese = (figures(page) for page in both(name))
    assert not english - chinese, "figures of the English page that the Chinese one lacks"
    assert not chinese - english, "figures of the Chinese page that the English one lacks"


@every_pair
def test_each_page_keeps_to_its_language(name: str) -> None:
    english, chinese = both(name)
    assert chinese_in_english(english) == []
    assert english_in_chinese(chinese) == []
    assert half_width_punctuation(chinese) == []


@pytest.mark.parametrize("file", DECISIONS, ids=lambda file: file.stem)
def test_decisions_are_in_english(file: Path) -> None:
    assert chinese_in_english(parse(file.read_text(encoding="utf-8"))) == []


def test_the_comparison_finds_each_difference() -> None:
    page = parse("# A\n\nIt took 1,525 s (3.5 GB, bfloat16, `Q4_0`).\n\n```\nrun x  # 你好\n```\n")
    assert figures(page) == Counter({"1525": 1, "3.5": 1})
    assert page.blocks[0].lines == ("run x",)
    assert [text for _, _, text in paragraphs(page)] == ["# A", "It took 1,525 s (3.5 GB, bfloat16, `Q4_0`)."]
    assert chinese_in_english(parse("Hanlin (翰林) asks “今天天气怎么样，能出门吗？”.")) == []
    assert chinese_in_english(parse("Rows are dropped.\n这些行会被丢弃并计数。"))
    assert chinese_in_english(parse("| rows · 行 | count |"))
    assert english_in_chinese(parse("The rows of a table are read in order and counted once."))
    assert english_in_chinese(parse("- LoRA (Hu et al. 2021, arXiv:2106.09685)\n- 其余见 `hanlin kinds sft`")) == []
    assert half_width_punctuation(parse("先读取,再清洗。")) == ["line 1: 取,再"]
