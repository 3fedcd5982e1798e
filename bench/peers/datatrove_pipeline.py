"""datatrove over a folder of two JSON Lines files, for `bench/data.py` and `bench/dedup_quality.py`.

Run by the Python of datatrove's own environment: `datatrove_pipeline.py FOLDER WORK clean|dedup`. With `clean`: FTFY
and Gopher's repetition rules, exact duplicates, near-duplicates; with `dedup` near-duplicates alone. Words are cut by
jieba, which is what datatrove assigns to Chinese; n-grams and signatures are those of its FineWeb configuration (5
words, 14 bands of 8 hashes). Two tasks in two processes. The last line is one JSON object: seconds and processor
seconds without imports, and the names kept.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from pathlib import Path

import ftfy  # noqa: F401 - imported before the clock starts, as is all that the pipeline would import late
import jieba
import spacy
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import ExactDedupFilter, ExactDedupSignature, ExactFindDedups
from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import GopherRepetitionFilter
from datatrove.pipeline.formatters import FTFYFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import HashConfig

CHINESE = "zho_Hani"
TASKS = 2


def content(document: object) -> str:
    return document.text  # type: ignore[attr-defined, no-any-return]


def run(work: Path, name: str, tasks: int, *steps: object) -> None:
    executor = LocalPipelineExecutor(
        pipeline=list(steps), tasks=tasks, workers=tasks, logging_dir=str(work / "logs" / name), start_method="fork"
    )
    executor.run()


def main() -> None:
    folder, work, mode = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    jieba.initialize()
    spacy.blank("zh")
    start_time, busy = time.perf_counter(), sum(os.times()[:4])
    source = folder
    if mode == "clean":
        source = work / "cleaned"
        run(
            work, "clean", TASKS, JsonlReader(str(folder), id_key="name"), FTFYFormatter(),
            GopherRepetitionFilter(language=CHINESE), JsonlWriter(str(source)),
        )  # fmt: skip
        config = ExactDedupConfig(content_getter=content)
        run(work, "exact", TASKS, JsonlReader(str(source)), ExactDedupSignature(str(work / "exact"), config))
        run(work, "find", 1, ExactFindDedups(str(work / "exact"), str(work / "copies"), config))
        run(
            work, "exact_filter", TASKS, JsonlReader(str(source)), ExactDedupFilter(str(work / "copies"), config),
            JsonlWriter(str(work / "single")),
        )  # fmt: skip
        source = work / "single"
    minhash = MinhashConfig(hash_config=HashConfig(hash_fc="xxhash", precision=64))
    reader = JsonlReader(str(source), id_key="name" if mode == "dedup" else "id")
    run(work, "signatures", TASKS, reader, MinhashDedupSignature(str(work / "signatures"), minhash, CHINESE))
    buckets = MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=minhash)
    run(work, "buckets", minhash.num_buckets, buckets)
    run(work, "cluster", 1, MinhashDedupCluster(str(work / "buckets"), str(work / "remove"), config=minhash))
    run(work, "filter", TASKS, reader, MinhashDedupFilter(str(work / "remove")), JsonlWriter(str(work / "kept")))
    seconds, busy = time.perf_counter() - start_time, sum(os.times()[:4]) - busy
    kept = []
    for path in sorted((work / "kept").glob("*.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            kept += [json.loads(line)["id"] for line in lines]
    print(json.dumps({"seconds": seconds, "cpu_seconds": busy, "kept": kept}))


if __name__ == "__main__":
    main()
