"""Fit the weights of the rule `advertorials` on labeled pages, and say what it would do to pages that it has not seen.

`python bench/fit_advertorials.py --material MATERIAL.jsonl --good GOOD.jsonl[.gz] ...`. The material is made by
`bench/draw_held_out.py`; its labels are those of the rule `advertorials` in `bench/held_out/advertorials.tsv`. Rows of
the other files (with a field `text`, `content` or `output`) are pages that sell nothing, unless the labels say so; give
such files a weight with FILE=WEIGHT. Printed are the weights for `hanlin.data.text.advertorial_model`, and for each
source what the rule drops if the weights are fitted ten times on nine tenths of the pages and applied to the rest.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from command_line import (
    existing_file,
    finite_float,
    non_negative_float,
    positive_float,
    read_json_lines,
    refuse,
    run_main,
)
from draw_held_out import hash_text
from rule_precision import LABELS, read_labels

from hanlin.config.settings.data import Corpus
from hanlin.data.filters.boilerplate import MAX_ADVERTORIAL_CHARS, MIN_ADVERTORIAL_CHARS, may_sell
from hanlin.data.filters.rules import build_text_rules, clean_text
from hanlin.data.ledger import Drop
from hanlin.data.text.advertorial_model import measure_page

FOLDS, STEPS = 10, 30
Floats = npt.NDArray[np.float64]


class Page(NamedTuple):
    """A page, whether it sells, and how much it counts."""

    source: str
    text: str
    sells: bool
    weight: float


def read_texts(file: Path) -> Iterator[str]:
    """Yield the texts of a file of JSON lines."""
    with gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8") as opened:
        for row in read_json_lines(file, lines=iter(opened)):
            yield str(row.get("text") or row.get("content") or row.get("output") or "")


def read_pages(material: Path, good: list[str]) -> Iterator[Page]:
    """Yield the labeled pages of the material, and the pages of other files."""
    read = read_labels([LABELS / "advertorials.tsv"])
    labels = {label.sha256: label for label in read if label.rule == "advertorials"}
    for row in read_json_lines(material, ("sha256", "source")):
        label = labels.get(row["sha256"])
        if label is not None:
            yield Page(row["source"], row["text"], label.should_drop, 1.0)
    for item in good:
        name, _, weight = item.partition("=")
        for text in read_texts(Path(name)):
            label = labels.get(hash_text(text))
            yield Page(Path(name).name, text, label is not None and label.should_drop, float(weight or 1))


def weighted_file(text: str) -> str:
    """`FILE` or `FILE=WEIGHT`, as it is; the file is there."""
    name, _, weight = text.partition("=")
    existing_file(name)
    positive_float(weight or "1")
    return text


def fit(values: Floats, sells: Floats, weights: Floats, penalty: float) -> Floats:
    """Fit a logistic regression by Newton's method.

    Args:
        values: [pages, measures], standardized.
        sells: [pages], 1 or 0.
        weights: [pages].
        penalty: L2 penalty of all weights but the last.

    Returns:
        [measures + 1]; the last is the bias.
    """
    inputs = np.c_[values, np.ones(len(values))]
    result = np.zeros(inputs.shape[1])
    ridge = np.diag([penalty] * values.shape[1] + [1e-9])
    for _ in range(STEPS):
        probability = 1 / (1 + np.exp(-inputs @ result))
        gradient = inputs.T @ (weights * (probability - sells)) + ridge @ result
        curvature = (inputs * (weights * probability * (1 - probability))[:, None]).T @ inputs + ridge
        result -= np.linalg.solve(curvature, gradient)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--material", type=existing_file, required=True)
    parser.add_argument(
        "--good",
        type=weighted_file,
        nargs="*",
        default=[],
        help="files of pages that sell nothing, FILE or FILE=WEIGHT",
    )
    parser.add_argument("--penalty", type=non_negative_float, default=30.0)
    parser.add_argument("--limit", type=finite_float, default=0.0, help="drop above this logit in the figures")
    arguments = parser.parse_args()
    pages = [
        page
        for page in read_pages(arguments.material, arguments.good)
        if MIN_ADVERTORIAL_CHARS <= len(page.text) <= MAX_ADVERTORIAL_CHARS
    ]
    if len(pages) < FOLDS:
        refuse(f"{arguments.material}: {len(pages)} labeled pages, and {FOLDS} are needed")
    measures = [measure_page(page.text) for page in pages]
    names = list(measures[0])
    values = np.array([[row[name] for name in names] for row in measures])
    sells = np.array([float(page.sells) for page in pages])
    weights = np.array([page.weight for page in pages])
    mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-9
    standard = (values - mean) / deviation
    order, logits = np.random.default_rng(0).permutation(len(pages)), np.zeros(len(pages))
    for fold in range(FOLDS):
        held = order[fold::FOLDS]
        rest = np.setdiff1d(order, held)
        fitted = fit(standard[rest], sells[rest], weights[rest], arguments.penalty)
        logits[held] = np.c_[standard[held], np.ones(len(held))] @ fitted
    logits[[not may_sell(page.text) for page in pages]] = -np.inf
    fitted = fit(standard, sells, weights, arguments.penalty)
    slopes = fitted[:-1] / deviation
    bias = float(fitted[-1] - (mean * slopes).sum())
    print("WEIGHTS = {")
    for name, slope in zip(names, slopes, strict=True):
        print(f'    "{name}": {slope:.3f},')
    print(f"}}\nBIAS = {bias:.3f}\n")
    other_rules = build_text_rules(rule for rule in Corpus(sources=("-",)).rules if rule.name != "advertorials")
    for source in dict.fromkeys(page.source for page in pages):
        mine = np.array([page.source == source for page in pages])
        if sells[mine].any():
            mine &= np.array(
                [
                    not m or not isinstance(clean_text(p.text, other_rules), Drop)
                    for m, p in zip(mine, pages, strict=True)
                ]
            )
        drops = mine & (logits > arguments.limit)
        before, after = sells[mine].mean(), sells[mine & ~drops].mean()
        print(
            f"{source}: {mine.sum()} pages, {100 * before:.1f} % sell; {drops.sum()} dropped,"
            f" {int(sells[drops].sum())} of them rightly; {100 * after:.1f} % of the kept sell"
        )


if __name__ == "__main__":
    run_main(main)
