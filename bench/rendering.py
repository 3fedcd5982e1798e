"""Rendering conversations to token ids and loss mask, compared with transformers' `apply_chat_template`, alternating.

The conversations are the cases of `hanlin.parity`; both give the same ids and the same mask, which is checked first.
`python bench/rendering.py FOLDER...`: folders of tokenizers with a chat template (by default one with Llama 3's
template that is trained here). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from command_line import existing_folder, run_main

from hanlin.chat.template import ChatTemplate
from hanlin.models.train_tokenizer import train_tokenizer
from hanlin.parity.backends.transformers import TransformersBackend
from hanlin.parity.cases import make_cases

ROUNDS = 11


def measure_seconds(work: Callable[[], object]) -> float:
    start_time = time.perf_counter()
    work()
    return time.perf_counter() - start_time


def measure(folder: Path) -> dict[str, object]:
    template, theirs = ChatTemplate.load(folder), TransformersBackend(folder)
    chats = [case for case in make_cases() if not (case.tools or case.id.startswith(("injection", "thinking")))]
    for case in chats:
        ours = template.render(case.messages)
        assert theirs.render_conversation(case.messages, case.prompt) == (ours.ids, ours.loss_mask), case.id
    tokens = sum(len(template.render(case.messages).ids) for case in chats)
    rows: dict[str, list[float]] = {"hanlin": [], "transformers": []}
    for _ in range(ROUNDS):
        taken = dict.fromkeys(rows, 0.0)
        for case in chats:  # in turns, so that what else the machine does falls on both
            taken["hanlin"] += measure_seconds(partial(template.render, case.messages))
            taken["transformers"] += measure_seconds(partial(theirs.render_conversation, case.messages, case.prompt))
        for name, total in taken.items():
            rows[name].append(total)
    ratios = [slow / fast for fast, slow in zip(rows["hanlin"], rows["transformers"], strict=True)]
    return {
        "conversations": len(chats),
        "tokens": tokens,
        **{f"{name}_tokens_per_second": round(tokens / statistics.median(taken)) for name, taken in rows.items()},
        "ratio": {
            "median": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=existing_folder, nargs="*", help="models or tokenizers; none: a small one is made"
    )
    folders = parser.parse_args().folders
    result: dict[str, object] = {"bench": "rendering", "rounds": ROUNDS}
    with tempfile.TemporaryDirectory() as temp_dir:
        if not folders:
            texts = [message.text for case in make_cases() for message in case.messages]
            train_tokenizer(texts, vocab_size=2000, template="llama3", out=Path(temp_dir) / "llama3")
            folders = [Path(temp_dir) / "llama3"]
        for folder in folders:
            result[folder.name] = measure(folder)
            print(f"{folder.name}: {result[folder.name]}")
    print(json.dumps(result))


if __name__ == "__main__":
    run_main(main)
