"""Data-Juicer over a folder of two JSON Lines files, for `bench/data.py` and `bench/dedup_quality.py`.

Run by the Python of Data-Juicer's own environment: `data_juicer_pipeline.py FOLDER WORK clean|dedup`. With `clean`:
Unicode repair, white space, HTML, its filters of repeated and special characters, exact duplicates, near-duplicates
at Hanlin's threshold and `num_perm` (0.8, 128); with `dedup` near-duplicates alone at its own (0.7, 256). Tokens
are characters, five in an n-gram, as it recommends for Chinese, punctuation and white space ignored. Two processes. The
last line is one JSON object: seconds and processor seconds without imports, and the names kept.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from data_juicer.config import init_configs
from data_juicer.core import DefaultExecutor

CLEAN = [
    {"fix_unicode_mapper": {}},
    {"whitespace_normalization_mapper": {}},
    {"clean_html_mapper": {}},
    {"character_repetition_filter": {"rep_len": 10, "max_ratio": 0.5}},
    {"special_characters_filter": {"max_ratio": 0.4}},
    {"document_deduplicator": {"lowercase": True}},
]
NEAR = {"tokenization": "character", "window_size": 5, "ignore_pattern": r"[\p{P}\s]"}


def main() -> None:
    folder, work, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    near = NEAR if mode == "dedup" else NEAR | {"jaccard_threshold": 0.8, "num_permutations": 128}
    minhash = {"document_minhash_deduplicator": near}
    recipe = {
        "dataset_path": str(folder),
        "export_path": str(work / "kept.jsonl"),
        "work_dir": str(work),
        "np": 2,
        "use_cache": False,
        "open_tracer": False,
        "skip_op_error": False,
        "text_keys": "text",
        "process": [*CLEAN, minhash] if mode == "clean" else [minhash],
    }
    (work / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    executor = DefaultExecutor(init_configs(["--config", str(work / "recipe.yaml")]))
    start_time, busy = time.perf_counter(), sum(os.times()[:4])
    executor.run()
    seconds, busy = time.perf_counter() - start_time, sum(os.times()[:4]) - busy
    with (work / "kept.jsonl").open(encoding="utf-8") as lines:
        kept = [json.loads(line)["name"] for line in lines]
    # Data-Juicer has put its log in the place of sys.stdout
    os.write(1, (json.dumps({"seconds": seconds, "cpu_seconds": busy, "kept": kept}) + "\n").encode())


if __name__ == "__main__":
    main()
