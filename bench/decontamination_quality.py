"""How many reworded evaluation questions decontamination finds, and how many clean documents it takes for contaminated.

`python bench/decontamination_quality.py --questions FILE ... [--documents FILE ...] [--sample 100]`. Questions are read
like the sets of `decontaminate.against`, documents from text, Markdown or JSON Lines files (every line of a `.txt` file
is a document). Each kind of rewording changes the same drawn questions and puts each into a text with an answer:

    numerals        75 -> 七十五, 30% -> 百分之三十, 3.5 -> 三点五, 2/3 -> 三分之二, 2个 -> 两个
    full_width      75 -> ７５
    financial       75 -> 柒拾伍
    ten_thousands   75000 -> 7.5万
    function_words  的, 是, 多少, 下列, 关于, 请问, 如果, ... replaced by others or left out
    clauses         two neighboring clauses change places
    both            function words, then clauses
    words           English: 75 -> seventy-five
    english         English: function words replaced or left out; sentences change places

Questions in which a kind changes nothing, or whose n-grams are too few to be searched at all, are not counted, nor are
those shorter than `--least` (characters, or words of English). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from command_line import existing_file, existing_path, non_negative_int, positive_int, read_json_lines, refuse, run_main

from hanlin.config.settings.data import Decontaminate
from hanlin.data.dedup.content import is_of_words
from hanlin.data.dedup.decontaminate import QuestionIndex
from hanlin.data.dedup.question_sets import EvalQuestion, read_questions

Rewording = Callable[[str, random.Random], str]
_NUMBER = re.compile(r"(?<![A-Za-z\d.])(\d+)/(\d+)(?![\d/])|(?<![A-Za-z\d.])(\d+)(\.\d+)?(%)?(?![A-Za-z\d.])")
_DIGITS, _FINANCIAL = "零一二三四五六七八九", "零壹贰叁肆伍陆柒捌玖"


def write_chinese(number: int, digits: str = _DIGITS, units: str = "十百千") -> str:
    """Write a whole number below 10**12 in Chinese."""
    for size, unit in ((10**8, "亿"), (10**4, "万")):
        if number >= size:
            rest = number % size
            zero = digits[0] if 0 < rest < size // 10 else ""
            return (
                write_chinese(number // size, digits, units)
                + unit
                + zero
                + (write_chinese(rest, digits, units) if rest else "")
            )
    written, zero = "", False
    for power, unit in ((1000, units[2]), (100, units[1]), (10, units[0]), (1, "")):
        digit = number // power % 10
        if digit:
            written += (digits[0] if zero and written else "") + digits[digit] + unit
        zero = not digit
    if units[0] == "十" and written.startswith("一十"):
        written = written[1:]
    return written or digits[0]


def to_numerals(text: str, rng: random.Random) -> str:
    """Write the numbers of a text in Chinese."""

    def write(match: re.Match[str]) -> str:
        if match[1]:
            return f"{write_chinese(int(match[2]))}分之{write_chinese(int(match[1]))}"
        whole = match[3]
        if len(whole) > 11 or (len(whole) > 1 and whole[0] == "0"):
            return match.group()
        is_year = text[match.end() : match.end() + 1] == "年" and len(whole) == 4
        written = "".join(_DIGITS[int(char)] for char in whole) if is_year else write_chinese(int(whole))
        if match[4]:
            written += "点" + "".join(_DIGITS[int(char)] for char in match[4][1:])
        elif written == "二" and re.match("[个只条本人天次辆件箱]", text[match.end() :]):
            written = "两"
        return f"百分之{written}" if match[5] else written

    return _NUMBER.sub(write, text)


def to_full_width(text: str, rng: random.Random) -> str:
    return text.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})


def to_financial(text: str, rng: random.Random) -> str:
    def write(match: re.Match[str]) -> str:
        if match[1] or match[4] or len(match[3]) > 8:
            return match.group()
        return write_chinese(int(match[3]), _FINANCIAL, "拾佰仟") + (match[5] or "")

    return _NUMBER.sub(write, text)


def to_ten_thousands(text: str, rng: random.Random) -> str:
    return re.sub(
        r"(?<![\d.])(\d{2,8})00(?![\d.])",
        lambda match: f"{int(match[1]) / 100:g}万" if len(match[1]) > 2 else match[0],
        text,
    )


def read_replacements(text: str) -> list[list[str]]:
    """Read a table with a word on each line, followed by what it may become after slashes; - for nothing."""
    return [["" if word == "-" else word for word in row.strip().split("/")] for row in text.strip().split("\n")]


_REPLACEMENTS = read_replacements(
    """
    请问/-
    下列/以下/下面
    以下/下列
    关于/有关/就
    不正确/错误/有误
    多少/几/若干
    什么/何/啥
    怎么/如何
    如何/怎样
    如果/若/假如
    那么/则/-
    一共/总共/共
    哪个/哪一个
    哪项/哪一项
    需要/需/要
    可以/能/能够
    因为/由于
    所以/因此
    还剩/剩下
    的/之/-
    是/为/-
    了/-/过
    吗/么/-
    呢/-/呀
    和/与/及
    把/将
    在/于/-
    几/多少
    都/均/-
    中/里/之中
    从/自
    由/被
    对/对于
    其/它/他
    此/这
    该/这
    """
)


def change_function_words(text: str, rng: random.Random) -> str:
    """Replace four of five function words, and ask politely."""
    table = {word: options for word, *options in _REPLACEMENTS}
    pattern = "|".join(sorted(map(re.escape, table), key=len, reverse=True))

    def replace(match: re.Match[str]) -> str:
        return rng.choice(table[match.group()]) if rng.random() < 0.8 else match.group()

    changed = re.sub(pattern, replace, text)
    return rng.choice(("", "请问，", "想问一下：", "试问")) + changed if changed != text else text


def swap_clauses(text: str, rng: random.Random) -> str:
    """Let two neighboring clauses change places."""
    clauses = re.findall(r"[^，,。；;？?！!：:]+[，,。；;？?！!：:]?", text)
    if len(clauses) < 2:
        return text
    first = rng.randrange(len(clauses) - 1)
    clauses[first], clauses[first + 1] = clauses[first + 1], clauses[first]
    return "".join(clauses)


def change_both(text: str, rng: random.Random) -> str:
    changed = change_function_words(text, rng)
    return swap_clauses(changed, rng) if changed != text else text


_SMALL = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def write_english(number: int) -> str:
    """Write a whole number below a million in English."""
    if number < 20:
        return _SMALL[number]
    if number < 100:
        return _TENS[number // 10] + (f"-{_SMALL[number % 10]}" if number % 10 else "")
    size, name = (1000, "thousand") if number >= 1000 else (100, "hundred")
    rest = f" {write_english(number % size)}" if number % size else ""
    return f"{write_english(number // size)} {name}{rest}"


def to_words(text: str, rng: random.Random) -> str:
    return re.sub(r"(?<![\w.,/])\d{1,6}(?![\w/]|[.,]\d)", lambda match: write_english(int(match.group())), text)


_ENGLISH_REPLACEMENTS = read_replacements(
    """
    the/a/this/-
    a/one/the
    of/from/-
    which/what
    what/which
    is/was
    are/were
    how many/what number of
    how much/what amount of
    if/when/suppose
    does/will
    in/inside/within
    for/to
    to/for/in order to
    and/as well as/plus
    that/which
    each/every
    has/had
    his/the
    her/the
    most/the most
    with/having
    on/upon
    """
)


def change_english(text: str, rng: random.Random) -> str:
    """Replace four of five English function words, and let two sentences change places."""
    table = {word: options for word, *options in _ENGLISH_REPLACEMENTS}
    pattern = r"\b(?:" + "|".join(sorted(map(re.escape, table), key=len, reverse=True)) + r")\b"

    def replace(match: re.Match[str]) -> str:
        return rng.choice(table[match.group().lower()]) if rng.random() < 0.8 else match.group()

    changed = re.sub(pattern, replace, text, flags=re.I)
    if changed == text:
        return text
    sentences = re.split(r"(?<=[.?!]) +(?=\S)", changed)
    if len(sentences) > 1:
        sentences[0], sentences[1] = sentences[1], sentences[0]
    return "Here is something to work out: " + " ".join(sentences)


CHINESE: dict[str, Rewording] = {
    "numerals": to_numerals, "full_width": to_full_width, "financial": to_financial, "ten_thousands": to_ten_thousands,
    "function_words": change_function_words, "clauses": swap_clauses, "both": change_both,
}  # fmt: skip
ENGLISH: dict[str, Rewording] = {"words": to_words, "english": change_english}
_FRAMES = (
    "练习题。{}答案见下页。",
    "今天老师布置的作业里有这样一道题：{}你会做吗？",
    "{}解：略。",
    "Exercise 7. {} The answer is on the next page.",
)


def measure_recall(
    questions: Sequence[EvalQuestion], index: QuestionIndex, sample: int, least: int, seed: int
) -> dict[str, tuple[int, int, list[str]]]:
    """Count for each kind the questions found and those changed; with some that were missed."""
    unsearched = {f"{row['name']}\t{id_}" for row in index.report({})["sets"] for id_ in row["unsearched"]}
    figures = {}
    for kinds, of_words in ((CHINESE, False), (ENGLISH, True)):
        of_language = [
            question
            for question in questions
            if is_of_words(question.text) == of_words
            and question.key not in unsearched
            and (len(question.text.split()) if of_words else len(question.text)) >= least
        ]
        for name, reword in kinds.items():
            rng = random.Random(f"{seed}:{name}")
            order = rng.sample(of_language, len(of_language))
            found = tried = 0
            missed: list[str] = []
            for question in order:
                reworded = reword(question.text, rng)
                if reworded == question.text:
                    continue
                tried += 1
                text = (_FRAMES[3] if of_words else rng.choice(_FRAMES[:3])).format(reworded)
                is_found = any(hit.text == question.text for hit in index.find(text))
                found += is_found
                if not is_found:
                    missed.append(f"{question.text} -> {reworded}")
                if tried == sample:
                    break
            figures[name] = (found, tried, missed)
    return figures


def read_documents(paths: Sequence[Path]) -> Iterator[str]:
    """Read documents: lines of text files, texts of JSON Lines files, other files as a whole."""
    for path in paths:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if path.suffix == ".txt":
            yield from filter(str.strip, text.split("\n"))
        elif path.suffix == ".jsonl":
            for row in read_json_lines(path, lines=iter(text.split("\n"))):
                if not isinstance(row, str) and not (isinstance(row, dict) and isinstance(row.get("text"), str)):
                    refuse(f"{path}: a row without 'text'")
                yield row if isinstance(row, str) else row["text"]
        else:
            yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", nargs="+", type=existing_path, required=True)
    parser.add_argument("--documents", nargs="*", type=existing_file, default=[])
    parser.add_argument("--sample", type=positive_int, default=100)
    parser.add_argument(
        "--least", type=non_negative_int, default=0, help="shortest question, in characters or English words"
    )
    parser.add_argument("--seed", type=non_negative_int, default=1)
    parser.add_argument(
        "--show", type=non_negative_int, default=0, help="missed questions and contaminated documents to print"
    )
    arguments = parser.parse_args()
    questions = [question for path in arguments.questions for question in read_questions(path, path.name)]
    index = QuestionIndex(questions, Decontaminate(against="./questions"))
    figures = {}
    for name, (found, tried, missed) in measure_recall(
        questions, index, arguments.sample, arguments.least, arguments.seed
    ).items():
        per_15 = 15 * found / tried if tried else 0
        print(f"{name:15} found {found} of {tried} ({per_15:.1f} of 15)")
        for text in missed[: arguments.show]:
            print("    ", text.replace("\n", " ")[:240])
        figures[name] = {"found": found, "tried": tried}
    documents = contaminated = 0
    for text in read_documents(arguments.documents):
        documents += 1
        hits = index.find(text)
        contaminated += bool(hits)
        if hits and contaminated <= arguments.show:
            print(f"contaminated: {text[:120]!r}: {hits[0].text[:120]!r}")
    if documents:
        print(f"{contaminated} of {documents} documents are taken for contaminated")
    result = {"questions": len(questions), "recall": figures, "documents": documents, "contaminated": contaminated}
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
