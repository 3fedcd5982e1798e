"""Lines that pages share, and parts of longer documents: what `dedup.lines` and `dedup.containment` find.

`python bench/shared_parts.py --material MATERIAL.jsonl [--source NAME ...] [--lines 20] [--containment 0.8]`. The
material is made by `bench/draw_held_out.py`. To the documents, the first half of every fifth one and the middle third
of the next one are added if they have at least 400 characters, and the stage `corpus` runs without rules. Printed:
how many of the added parts are dropped, and as parts of which document; other documents that are dropped as
contained; documents of which lines are cut; and, with `--show`, the lines in the order of how often they are cut. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path

from command_line import existing_file, non_negative_int, positive_int, read_json_lines, refuse, run_main, share

from hanlin.config.settings.data import Corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.data.stages import corpus

MIN_CHARS = 400


def make_parts(texts: list[str]) -> dict[str, int]:
    """The first half of every fifth text and the middle third of the next one, with the index of the text."""
    parts: dict[str, int] = {}
    for index, text in enumerate(texts):
        if len(text) >= MIN_CHARS and index % 5 == 0:
            parts.setdefault(text[: len(text) // 2].strip(), index)
        elif len(text) >= MIN_CHARS and index % 5 == 1:
            parts.setdefault(text[len(text) // 3 : 2 * len(text) // 3].strip(), index)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=existing_file, required=True)
    parser.add_argument("--source", nargs="*", help="only documents of these sources")
    parser.add_argument("--lines", type=positive_int, default=20)
    parser.add_argument("--containment", type=share, default=0.8)
    parser.add_argument("--show", type=non_negative_int, default=0, help="lines to print")
    arguments = parser.parse_args()
    rows = read_json_lines(arguments.material, ("source",))
    texts = list(dict.fromkeys(
        row["text"].strip() for row in rows
        if "text" in row and (not arguments.source or row["source"] in arguments.source)
    ))  # fmt: skip
    if not texts:
        refuse(f"{arguments.material}: no document of these sources")
    parts = make_parts(texts)
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "texts.jsonl"), Path(folder, "out")
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in (*texts, *parts))
        out.mkdir()
        dedup = {"lines": arguments.lines, "containment": arguments.containment}
        settings = Corpus(sources="./texts.jsonl", rules=[], dedup=dedup, validation_fraction=0, max_dropped=1)
        metrics = corpus.run(settings, Inputs({"sources.0.path": (source,)}), out, StageContext())
        dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
        kept = [json.loads(line) for line in (out / "documents.jsonl").read_text(encoding="utf-8").splitlines()]
    origins = list(parts.values())
    found = right = others = 0
    for row in dropped:
        number = int(row["location"].rpartition(":")[2]) - 1
        if row["reason"] in ("contained", "near_duplicate", "duplicate") and number >= len(texts):
            found += 1
            right += row["duplicate_of"] == f"texts.jsonl#{origins[number - len(texts)] + 1}"
        elif row["reason"] == "contained":
            others += 1
            print(f"[contained] {row['row']['text'][:80]!r} in {row['duplicate_of']}")
    cut: Counter[str] = Counter()
    for row in kept:
        number = int(row["id"].rpartition("#")[2]) - 1
        if number < len(texts):
            cut.update(set(texts[number].split("\n")) - set(row["text"].split("\n")))
    for line, count in cut.most_common(arguments.show):
        print(f"{count:6} {line}")
    result = {
        "documents": len(texts), "parts": len(parts), "parts_found": found, "right_origin": right,
        "other_documents_contained": others, "documents_with_cut_lines": metrics["changed"].get("dedup_lines", 0),
        "lines_cut": sum(cut.values()), "different_lines_cut": len(cut),
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
