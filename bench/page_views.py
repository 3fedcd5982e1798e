"""How fast the page shows what is large: a dataset of a million rows, a training run of 100,000 steps.

`make bench-page_views`; the last line is one JSON object with the figures in milliseconds.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from command_line import run_main

from hanlin.web.data.dataset import Dataset, Query
from hanlin.web.runs.curves import StageCurves

ROWS = 1_000_000
STEPS = 100_000


def write_dataset(folder: Path, rows: int) -> None:
    """Conversations of about 380 bytes, as a stage leaves them."""
    draw = random.Random(0)
    words = "春夏秋冬花鸟鱼虫山水云雨风雪东西南北诗书礼乐琴棋笔墨"
    texts = ["".join(draw.choices(words, k=draw.randint(10, 90))) for _ in range(1000)]
    with (folder / "conversations.jsonl").open("w", encoding="utf-8") as file:
        for number in range(rows):
            answer = texts[number * 7 % 1000] + (f"第{number}行" if number % 100_000 == 99_999 else "")
            turns = [{"role": "user", "text": texts[number % 1000]}, {"role": "assistant", "text": answer}]
            row = {"id": f"chats.jsonl#{number + 1}", "messages": turns, "source": f"chats.jsonl:{number + 1}"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    ledger = {"rows_in": rows, "rows_kept": rows, "rows_validation": 0, "rows_dropped": 0, "dropped": {}}
    (folder / "ledger.json").write_text(json.dumps(ledger), encoding="utf-8")


def write_curves(folder: Path, steps: int) -> None:
    """The two files of a run."""
    draw = random.Random(0)
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "speed.jsonl").open("w") as speed:
        for step in range(1, steps + 1):
            loss = 3 / step**0.2 + draw.random() / 10
            row: dict[str, Any] = {"step": step, "epoch": step / 33_000, "loss": loss, "learning_rate": 1e-4}
            row |= {"grad_norm": draw.random(), "tokens": 4096, "target_tokens": 2000}
            if step % 500 == 0:
                row |= {"validation_loss": loss + 0.1, "probe_english_loss": 2 + draw.random()}
            metrics.write(json.dumps(row) + "\n")
            row = {"step": step, "seconds": step / 2, "loss": loss, "learning_rate": 1e-4, "grad_norm": 0.3}
            speed.write(json.dumps({**row, "tokens_per_second": 8000.0, "memory_gb": 12.5}) + "\n")


def measure(action: Callable[[], Any], times: int = 5) -> float:
    """The median of some times, in milliseconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        action()
        taken.append(time.perf_counter() - begin)
    return round(1000 * statistics.median(taken), 1)


def main() -> None:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), Path(name) / "cache"
        write_dataset(folder, ROWS)
        figures["dataset_mb"] = round((folder / "conversations.jsonl").stat().st_size / 1e6, 1)
        figures["open_and_first_page"] = measure(lambda: Dataset(folder).page("kept", 0))
        figures["count_all_lines"] = measure(lambda: Dataset(folder).count_lines("kept"), 3)
        figures["open_and_last_page_without_cache"] = measure(lambda: Dataset(folder).page("kept", ROWS - 50), 3)
        dataset = Dataset(folder, cache)
        dataset.count_lines("kept")
        figures["open_and_last_page_with_cache"] = measure(lambda: Dataset(folder, cache).page("kept", ROWS - 50))
        draw = random.Random(1)
        figures["any_page"] = measure(lambda: dataset.page("kept", draw.randrange(ROWS - 50)), 50)
        figures["search_from_the_start"] = measure(lambda: dataset.page("kept", 0, Query(text="第99999行")), 3)
        figures["lengths_of_2000"] = measure(lambda: dataset.sample("kept"), 3)
        write_curves(folder, STEPS)

        def draw_curves() -> dict[str, Any]:
            curves = StageCurves(folder / "metrics.jsonl", folder / "speed.jsonl")
            curves.update()
            return curves.drawn()

        figures["curves_of_100000_steps"] = measure(draw_curves, 3)
        curves = StageCurves(folder / "metrics.jsonl", folder / "speed.jsonl")
        curves.update()

        def draw_again() -> dict[str, Any]:
            curves.update()
            return curves.drawn()

        figures["curves_again"] = measure(draw_again)
        figures["curves_kb"] = round(len(json.dumps(curves.drawn())) / 1000, 1)
    for name, value in figures.items():
        print(f"{name:36} {value:>10,.1f}", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    run_main(main)
