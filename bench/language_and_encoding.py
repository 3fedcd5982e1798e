"""Languages told on labeled public text, and text decoded as another encoding found, with false alarms on real text.

    python bench/language_and_encoding.py --material MATERIAL.jsonl --labels bench/held_out/languages.csv
    python bench/language_and_encoding.py --encodings TEXT.jsonl ... [--lengths 40 100 300] [--sample 500]
    python bench/language_and_encoding.py --clean TEXT ...

`--material` is made by `bench/draw_held_out.py`; labels are a language, the hash of a text and its source, read by a
person. Printed for each language: texts, how many of them are told rightly, and the languages that the others get; and
for each language that is told, how many of the labeled texts with it are right.

`--encodings` cuts texts into pieces of some lengths, each with at least half Chinese characters, writes them in one
encoding and reads them in another, with errors ignored. Caught is what the rule `mojibake` drops or restores exactly.
Texts are converted to the script of the encoding first. `--clean` counts the texts that the rule drops or changes. Text
files have a text on each line, JSON Lines a `text`. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from command_line import existing_file, non_negative_int, positive_int, read_json_lines, run_main

from hanlin.data.filters.mojibake import mojibake
from hanlin.data.text.char_stats import count_char_kinds
from hanlin.data.text.language_id import identify_language
from hanlin.data.text.script import load_converter

WRITTEN = {"gb18030": "simplified", "big5hkscs": "traditional", "utf-8": "none"}
READ = ("gbk", "gb18030", "big5", "cp950", "big5hkscs", "euc_jp", "euc_kr", "cp949", "shift_jis", "latin-1", "cp1252")
FAMILIES = ({"gbk", "gb18030"}, {"big5", "cp950", "big5hkscs"})
TOLERATED = 0.005


def read_texts(path: Path) -> Iterator[str]:
    """Read the texts of a file: lines, or the `text` of each row."""
    if path.suffix == ".jsonl":
        yield from (row["text"] for row in read_json_lines(path, ("text",)))
        return
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for line in filter(str.strip, lines):
            yield line.rstrip("\n")


def measure_languages(material: Path, labels: Path) -> dict[str, Any]:
    """Compare the languages told with the labels, and print the figures."""
    texts = {row["sha256"]: row["text"] for row in read_json_lines(material, ("sha256",)) if "text" in row}
    told: dict[str, Counter[str]] = defaultdict(Counter)
    absent = 0
    with labels.open(encoding="utf-8", newline="") as opened:
        for row in csv.DictReader(opened):
            if row["sha256"] in texts:
                told[row["language"]][identify_language(texts[row["sha256"]])] += 1
            else:
                absent += 1
    for language, counts in sorted(told.items()):
        total = counts.total()
        others = ", ".join(f"{name} {count}" for name, count in counts.most_common() if name != language)
        print(f"{language:8} {counts[language]} of {total} ({counts[language] / total:.1%}) {others}")
    for language in sorted(told):
        named = sum(counts[language] for counts in told.values())
        print(f"told {language:8} {told[language][language]} of {named} rightly")
    if absent:
        print(f"{absent} labels are not in the material")
    return {"languages": {language: dict(counts) for language, counts in told.items()}, "absent": absent}


def cut_pieces(texts: Sequence[str], length: int, sample: int, rng: random.Random) -> list[str]:
    """Draw pieces of texts that are at least half Chinese."""
    pieces = []
    for text in rng.sample(texts, len(texts)):
        if len(text) < length:
            continue
        start = rng.randrange(len(text) - length + 1)
        piece = text[start : start + length]
        if count_char_kinds(piece)[0] >= length / 2:
            pieces.append(piece)
        if len(pieces) == sample:
            break
    return pieces


def measure_encodings(texts: Sequence[str], lengths: Sequence[int], sample: int, seed: int) -> dict[str, Any]:
    """Count for each pair of encodings and each length how many pieces are caught."""
    figures: dict[str, Any] = {}
    print(f"{'written as':10} {'read as':10} " + " ".join(f"{length:>5} characters" for length in lengths))
    for written, script in WRITTEN.items():
        convert = load_converter(script)
        pieces = {
            length: list(map(convert, cut_pieces(texts, length, sample, random.Random(f"{seed}:{written}:{length}"))))
            for length in lengths
        }
        for read in READ:
            if written == read or any({written, read} <= family for family in FAMILIES):
                continue
            row = {}
            for length in lengths:
                caught = tried = 0
                for piece in pieces[length]:
                    data = piece.encode(written, "ignore")
                    piece = data.decode(written)
                    damaged = data.decode(read, "ignore")
                    if damaged == piece:
                        continue
                    tried += 1
                    result = mojibake(damaged, TOLERATED)
                    caught += not isinstance(result, str) or result == piece
                row[length] = {"caught": caught, "tried": tried}
            counts = " ".join(f"{cell['caught']:>9} of {cell['tried']:>3}" for cell in row.values())
            print(f"{written:10} {read:10} {counts}")
            figures[f"{written} as {read}"] = row
    return figures


def measure_clean(paths: Sequence[Path]) -> dict[str, Any]:
    """Count the real texts that the rule drops or changes, and print them."""
    figures = {}
    for path in paths:
        texts = dropped = changed = 0
        for text in read_texts(path):
            texts += 1
            result = mojibake(text, TOLERATED)
            dropped += not isinstance(result, str)
            changed += isinstance(result, str) and result != text
            if result != text:
                print(f"    {text[:80]!r}")
        print(f"{path.name}: dropped {dropped}, changed {changed} of {texts}")
        figures[path.name] = {"texts": texts, "dropped": dropped, "changed": changed}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=existing_file)
    parser.add_argument(
        "--labels", type=existing_file, default=Path(__file__).resolve().parent / "held_out" / "languages.csv"
    )
    parser.add_argument("--encodings", nargs="*", type=existing_file, default=[])
    parser.add_argument("--clean", nargs="*", type=existing_file, default=[])
    parser.add_argument("--lengths", nargs="+", type=positive_int, default=[40, 100, 300])
    parser.add_argument("--sample", type=positive_int, default=500)
    parser.add_argument("--seed", type=non_negative_int, default=1)
    arguments = parser.parse_args()
    if not (arguments.material or arguments.encodings or arguments.clean):
        parser.error("name --material, --encodings or --clean")
    figures: dict[str, Any] = {}
    if arguments.material:
        figures |= measure_languages(arguments.material, arguments.labels)
    if arguments.encodings:
        texts = [text for path in arguments.encodings for text in read_texts(path)]
        figures["encodings"] = measure_encodings(texts, arguments.lengths, arguments.sample, arguments.seed)
    if arguments.clean:
        figures["clean"] = measure_clean(arguments.clean)
    print(json.dumps(figures))


if __name__ == "__main__":
    run_main(main)
