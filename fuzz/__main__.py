"""Fuzz what others give to Hanlin: `python -m fuzz [NAME ...] --minutes 10 --seed 0`.

Every input is tried in a worker process with limits on time and memory. It must be read, or be refused with a
`UserError`; anything else (another error, too much time or memory, the end of the worker) is a finding, and its input
is saved below `--out`. An input follows from the number of its case: `--case NUMBER` tries one again and shows the
traceback. The files in `seeds/NAME` are tried first. The last line is one JSON object; `--page FILE` also writes a
table.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = ROOT / "tests" / "support"
sys.path[:0] = [str(SUPPORT), str(SUPPORT / "models"), str(SUPPORT / "serving"), str(ROOT / "bench"), str(ROOT)]
os.environ.setdefault("HANLIN_LANG", "en")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from fuzz.run import SECONDS_PER_CASE, run_fuzzer, try_case, work  # noqa: E402 (the path is set above)
from fuzz.targets import TARGETS  # noqa: E402


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}; all by default")
    options.add_argument("--minutes", type=float, default=10.0, help="for each name")
    options.add_argument("--seed", type=int, default=0, help="the first case")
    options.add_argument("--case", type=int, help="try one case again, with its traceback")
    options.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "hanlin-fuzz")
    options.add_argument(
        "--page", type=Path, action="append", default=[], help="a Markdown file whose table of figures is written anew"
    )
    options.add_argument("--work", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    unknown = [name for name in arguments.names if name not in TARGETS]
    if unknown:
        options.error(f"unknown: {', '.join(unknown)}")
    if arguments.work:
        work(TARGETS[arguments.names[0]], *arguments.work, arguments.out)
        return
    if arguments.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(try_case(TARGETS[arguments.names[0]], arguments.case, Path(folder)))
        return
    rows = [
        run_fuzzer(TARGETS[name], arguments.seed, arguments.minutes * 60, arguments.out)
        for name in arguments.names or TARGETS
    ]
    for page in arguments.page:
        write_table(page, rows)
    print(json.dumps({"fuzz": rows, "seconds_per_case": SECONDS_PER_CASE}, ensure_ascii=False))
    sys.exit(1 if any(row["findings"] for row in rows) else 0)


def write_table(page: Path, rows: list[dict[str, object]]) -> None:
    """Write the figures of fuzzers into the table of a page, between its two comments; other rows stay."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition("<!-- fuzz -->\n")
    table, end, after = rest.partition("<!-- /fuzz -->")
    lines = table.strip().splitlines()
    known = {line.split("|")[1].strip().strip("`"): line for line in lines[2:]}
    for row in rows:
        figures = (row["cases"], row["refused"], len(row["findings"]), row["slowest"], row["peak_mb"])  # type: ignore[arg-type]
        cells = (f"`{row['name']}`", *(f"{figure:,}" for figure in figures))
        known[str(row["name"])] = f"| {' | '.join(cells)} |"
    page.write_text(before + begin + "\n".join([*lines[:2], *known.values()]) + "\n" + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
