"""Precision and recall of the rules on labeled public text that they were not tuned on.

`python bench/rule_precision.py --material MATERIAL.jsonl [--rule NAME ...] [--show wrong|missed]`. The material is made
by `bench/draw_held_out.py`. The labels are `bench/held_out/*.tsv`, with the columns rule, verdict, sha256 and source: a
person read the row and found that this rule should drop it (`drop`) or that it should not (`keep`).

Each rule is applied with the defaults of its stage (`conversations` for chats, `corpus` for documents and lines), after
the rules of the stage's default set that repair text, and alone: a row that another rule would drop still counts.
Printed for each rule and form: the judged rows that it drops, how many of them rightly, and precision; the judged rows
that it keeps, how many of them wrongly, and recall among the judged rows. Labels of rows that the material lacks are
counted. The last line is one JSON list.

A file of labels may have a column `line`: the first 16 hexadecimal digits of the SHA-256 of a line of the row, without
the blanks around it. The verdict is then whether the rule should cut that line. The rule `default` is the whole default
set of the stage: what it keeps and a person would not have kept is the junk among kept rows.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from command_line import existing_file, existing_path, read_json_lines, refuse, run_main
from draw_held_out import hash_text, judged_text, read_messages

from hanlin.config.settings.data import Conversations, Corpus
from hanlin.core.records import Message
from hanlin.data.filters.answers import build_answer_rules
from hanlin.data.filters.conversation import TURN_RULES, clean_turns
from hanlin.data.filters.rules import build_text_rules
from hanlin.data.ledger import Drop

LABELS = Path(__file__).resolve().parent / "held_out"
REPAIRS = ("html", "unicode", "control_characters", "whitespace")
COUNTS = ("drops", "right", "keeps", "missed", "not_in_material")


@dataclass(frozen=True, slots=True)
class Label:
    """A verdict on one row: whether `rule` should drop it."""

    rule: str
    should_drop: bool
    sha256: str
    source: str
    line: str = ""


def read_labels(files: Iterable[Path]) -> list[Label]:
    """Read labels. Raises SystemExit for a line that is not one, or for two verdicts on one row."""
    labels: dict[tuple[str, str, str], Label] = {}
    for file in files:
        with file.open(encoding="utf-8", newline="") as opened:
            for number, row in enumerate(csv.DictReader(opened, delimiter="\t"), start=2):
                if row.get("verdict") not in ("drop", "keep") or not row.get("rule") or len(row["sha256"] or "") != 16:
                    refuse(f"{file}:{number}: not a label: {row}")
                label = Label(
                    row["rule"], row["verdict"] == "drop", row["sha256"], row["source"], row.get("line") or ""
                )
                if labels.setdefault((label.rule, label.sha256, label.line), label).should_drop != label.should_drop:
                    refuse(f"{file}:{number}: another verdict on this row was read before")
    return list(labels.values())


@cache
def build_rule(rule: str, form: str) -> Callable[[tuple[Message, ...]], Drop | None]:
    """Build the function that says whether a rule drops a row, with the defaults of the stage of the form."""
    settings: Any = Conversations if form == "chats" else Corpus
    default = settings(sources=("-",))
    chosen = settings(sources=("-",), rules=(rule,)).rules
    before = [item for item in default.rules if item.name in REPAIRS and rule not in (item.name, "default")]
    texts = build_text_rules([*before, *chosen], chats=form == "chats")
    answer_rules = build_answer_rules(chosen) if form == "chats" else []
    turn_rules = [partial(TURN_RULES[item.name], **item.parameters) for item in chosen if item.name in TURN_RULES]

    def decide(messages: tuple[Message, ...]) -> Drop | None:
        cleaned = clean_turns(messages, texts, str, answer_rules)
        if isinstance(cleaned, Drop):
            return cleaned
        turns = cleaned[0]
        for turn_rule in turn_rules:
            result = turn_rule(turns)
            if isinstance(result, Drop):
                return result
            turns = result
        return None if any(turn.text.strip() or turn.tool_calls for turn in turns) else Drop("empty")

    return decide


def find_cut(label: Label, text: str) -> Drop | None:
    """A Drop with the line if the rule cuts it from a document, otherwise None."""
    default = build_text_rules(Corpus(sources=("-",)).rules)
    chosen = build_text_rules(Corpus(sources=("-",), rules=(label.rule,)).rules)
    for _, rule in [*(item for item in default if item[0] in REPAIRS), *chosen]:
        after = rule(text)
        if isinstance(after, Drop):
            return after
        before, text = text, after
    left = {hash_text(line.strip()) for line in text.split("\n")}
    lines = {hash_text(line.strip()): line for line in before.split("\n")}
    return Drop("cut", lines[label.line]) if label.line in lines and label.line not in left else None


def count(
    labels: Iterable[Label], material: Mapping[str, Mapping[str, Any]], show: str = ""
) -> dict[tuple[str, str], Counter[str]]:
    """Count right and wrong decisions.

    Args:
        labels: The verdicts.
        material: Rows by `sha256`.
        show: `wrong` or `missed` prints these rows.

    Returns:
        Counts of `COUNTS` by (rule, form); rows that the material lacks have the form `?`.
    """
    counts: dict[tuple[str, str], Counter[str]] = {}
    for label in labels:
        row = material.get(label.sha256)
        if row is None:
            counts.setdefault((label.rule, "?"), Counter())["not_in_material"] += 1
            continue
        form = "chats" if row["form"] == "chats" else "documents"
        drop = build_rule(label.rule, form)(read_messages(row))
        if label.line and drop is None:
            drop = find_cut(label, row["text"])
        counted = counts.setdefault((label.rule, form), Counter())
        counted["drops" if drop else "keeps"] += 1
        counted["right"] += bool(drop) and label.should_drop
        counted["missed"] += drop is None and label.should_drop
        if (show == "wrong" and drop and not label.should_drop) or (
            show == "missed" and not drop and label.should_drop
        ):
            detail = drop.detail if drop else ""
            print(f"[{show}] {label.rule} {label.sha256} {label.source} {detail}\n{judged_text(row)[:600]}\n")
    return counts


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--material", type=existing_path, required=True, help="file, or folder of files, of draw_held_out.py"
    )
    parser.add_argument(
        "--labels", type=existing_file, nargs="*", help="files of labels (default: all of bench/held_out)"
    )
    parser.add_argument("--rule", nargs="*", help="only these rules")
    parser.add_argument("--show", choices=("wrong", "missed"), default="", help="print these rows")
    arguments = parser.parse_args()
    files = sorted(arguments.material.rglob("*.jsonl")) if arguments.material.is_dir() else [arguments.material]
    material: dict[str, dict[str, Any]] = {}
    for file in files:
        for row in read_json_lines(file, ("sha256", "form")):
            material.setdefault(row["sha256"], row)
    labels = read_labels(arguments.labels or sorted(LABELS.glob("*.tsv")))
    unknown = sorted(set(arguments.rule or ()) - {label.rule for label in labels})
    if unknown:
        refuse(f"no label is of the rule {unknown[0]!r}; there are {', '.join(sorted({x.rule for x in labels}))}")
    if arguments.rule:
        labels = [label for label in labels if label.rule in arguments.rule]
    counts = count(labels, material, arguments.show)
    print(
        f"{'rule':24} {'form':10} {'drops':>6} {'right':>6} {'precision':>10} {'keeps':>6} {'missed':>7} {'recall':>7}"
    )
    for (rule, form), counted in sorted(counts.items()):
        if form == "?":
            continue
        drops, right, keeps, missed = (counted[name] for name in COUNTS[:4])
        shares = f"{_share(right, drops):>10} {keeps:6} {missed:7} {_share(right, right + missed):>7}"
        print(f"{rule:24} {form:10} {drops:6} {right:6} {shares}")
    absent = sum(counted["not_in_material"] for counted in counts.values())
    if absent:
        print(f"labels of rows that the material lacks: {absent}")
    result = [
        {"rule": rule, "form": form, **{name: counted[name] for name in COUNTS if counted[name]}}
        for (rule, form), counted in sorted(counts.items())
    ]
    print(json.dumps(result, ensure_ascii=False))


if __name__ == "__main__":
    run_main(main)
