"""Recall and precision of near-duplicate search: 20,000 documents, 2,000 of them planted near-duplicates of others.

The documents are cut from real text (HANLIN_SHARED_DATA) or, without it, from the demo's world. A copy differs
in punctuation, in width, in script (traditional), by boilerplate put around it, by a few sentences edited, or by two
of these; one whose Jaccard similarity to its original is below the threshold is made again. The true similarity
is computed independently, with Python's sets of five-character strings over text normalized by NFKC and OpenCC.
Documents that happen to be similar to another one before anything is planted are left out.

The stage `corpus` runs as in a recipe. Recall: the share of planted pairs of which one is dropped. Precision: the share
of the dropped documents that are in truth at least as similar as the threshold to the one they are said to copy. The
near-duplicate searches of datatrove and Data-Juicer run over the same documents, if they are installed
(`bench/peers`); as they do not say what a dropped document copies, their precision is the share of their drops that
make up one half of a planted pair. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from command_line import non_negative_int, positive_int, run_main
from opencc import OpenCC
from peer_pipelines import make_commands, run, write_halves

from hanlin.config.settings.data import Corpus
from hanlin.core.context import Inputs, StageContext
from hanlin.data.stages import corpus

THRESHOLD = 0.8
SIMPLE, COMPLEX = OpenCC("t2s"), OpenCC("s2t")
FILES = (
    "novel_hongloumeng.txt", "novel_sanguo.txt", "laws_zh.dev.jsonl", "web_zh_wanjuan_sample.dev.jsonl",
    "wiki_zh_simp_cmrc2018_dev.txt", "dirty_zh_qa_forum.dev.jsonl", "mixed_zh_cluecorpussmall.dev.txt",
    "wiki_zh_trad_drcd_dev.txt", "news_zh_simp_ntrex.txt", "poetry_songci_simp_0.json", "en_wiki_demo.txt",
)  # fmt: skip


def normalize(text: str) -> str:
    text = SIMPLE.convert(unicodedata.normalize("NFKC", text)).casefold()
    return "".join(char for char in text if char.isalnum())


def make_ngrams(text: str) -> frozenset[str]:
    plain = normalize(text)
    return frozenset(plain[n : n + 5] for n in range(max(1, len(plain) - 4)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def read_real_texts(folder: Path) -> Iterator[str]:
    for name in FILES:
        if (folder / name).is_file():
            yield re.sub(r'[{}\[\]"]|\\n', "\n", (folder / name).read_text(encoding="utf-8"))


def read_demo_texts(folder: Path) -> Iterator[str]:
    from hanlin.config.settings.demo import DemoWorld
    from hanlin.demo import world

    world.run(DemoWorld(), Inputs({}), folder, StageContext(seed=7))
    for path in sorted((folder / "text").rglob("*.*")):
        yield path.read_text(encoding="utf-8", errors="ignore")


def cut_passages(texts: Iterator[str], count: int, rng: random.Random) -> list[str]:
    """Passages of 60 to 420 characters, of which no two are similar."""
    passages: list[str] = []
    for text in texts:
        sentences = [part for part in re.split(r"(?<=[。！？!?.\n])", text) if part.strip()]
        index = 0
        while index < len(sentences):
            length, piece = rng.randint(60, 420), ""
            while index < len(sentences) and len(piece) < length:
                piece += sentences[index].strip()
                index += 1
            if len(normalize(piece)) >= 60:
                passages.append(piece)
    rng.shuffle(passages)
    return [passages[n] for n in find_dissimilar(passages)][:count]


def find_dissimilar(texts: list[str]) -> list[int]:
    """Indices of texts that share fewer than a third of their 5-grams with any other selected one."""
    owners: dict[str, list[int]] = {}
    selected: list[int] = []
    for index, text in enumerate(texts):
        ngrams = make_ngrams(text)
        shared = Counter(other for ngram in ngrams for other in owners.get(ngram, ())[:20])
        if shared and shared.most_common(1)[0][1] > len(ngrams) / 3:
            continue
        selected.append(index)
        for ngram in ngrams:
            owners.setdefault(ngram, []).append(index)
    return selected


def change_punctuation(text: str, rng: random.Random) -> str:
    swap = {"，": ", ", "。": ".", "！": "!", "？": "?", "：": ":", "；": "；\n", "“": '"', "”": '"', "、": "，"}
    return "".join(swap.get(char, char) if rng.random() < 0.8 else "" if char in swap else char for char in text)


def change_width(text: str, rng: random.Random) -> str:
    return "".join(
        chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "\u3000" if char == " " else char for char in text
    )


def change_script(text: str, rng: random.Random) -> str:
    other = COMPLEX.convert(text)
    return other if other != text else SIMPLE.convert(text)


def add_boilerplate(text: str, rng: random.Random) -> str:
    before = rng.choice(("首页 > 新闻 > 正文\n", "来源：本站整理\n", "【字体：大 中 小】\n"))
    after = rng.choice(("\n相关阅读", "\n返回列表 打印本页", "\n责任编辑：王明"))
    return before + text + after


def edit_words(text: str, rng: random.Random) -> str:
    """Words of a few sentences replaced, dropped or added."""
    chars = list(text)
    for _ in range(rng.randint(1, max(1, len(text) // 30))):
        index, size = rng.randrange(len(chars)), rng.randint(1, 3)
        new = "".join(rng.choice("春夏秋冬山水风月花鸟") for _ in range(rng.randint(0, 3)))
        chars[index : index + size] = list(new)
    return "".join(chars)


WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "punctuation": change_punctuation, "width": change_width, "script": change_script,
    "boilerplate": add_boilerplate, "edited": edit_words,
}  # fmt: skip


def make_near_duplicate(text: str, rng: random.Random) -> tuple[str, str]:
    """A near-duplicate and the ways it was made."""
    ngrams = make_ngrams(text)
    while True:
        ways = [rng.choice(list(WAYS))]
        if rng.random() < 0.3:
            ways.append(rng.choice(list(WAYS)))
        copy = text
        for way in ways:
            copy = WAYS[way](copy, rng)
        if copy != text and jaccard(ngrams, make_ngrams(copy)) >= THRESHOLD:
            return copy, "+".join(sorted(set(ways)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=positive_int, default=20_000)
    parser.add_argument("--planted", type=positive_int, default=2_000)
    parser.add_argument("--seed", type=non_negative_int, default=7)
    arguments = parser.parse_args()
    if arguments.planted >= arguments.documents:
        parser.error("--planted is less than --documents")
    rng = random.Random(arguments.seed)
    shared = Path(os.environ.get("HANLIN_SHARED_DATA", "")) / "text"
    with tempfile.TemporaryDirectory() as folder:
        temp_dir = Path(folder)
        (temp_dir / "world").mkdir()
        texts = read_real_texts(shared) if (shared / FILES[0]).is_file() else read_demo_texts(temp_dir / "world")
        originals = cut_passages(texts, arguments.documents - arguments.planted, rng)
        chosen = rng.sample(range(len(originals)), min(arguments.planted, len(originals)))
        copies = {f"copy{index}": (*make_near_duplicate(originals[index], rng), index) for index in chosen}
        rows = [(f"text{index}", text) for index, text in enumerate(originals)]
        rows += [(name, text) for name, (text, _, _) in copies.items()]
        rng.shuffle(rows)
        source = temp_dir / "documents.jsonl"
        lines = (json.dumps({"text": text, "name": name}, ensure_ascii=False) for name, text in rows)
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        out = temp_dir / "out"
        out.mkdir()
        start_time = time.perf_counter()
        settings = Corpus(sources="./x", rules=[], validation_fraction=0, min_chars=1)
        corpus.run(settings, Inputs({"sources.0.path": (source,)}), out, StageContext(seed=arguments.seed))
        seconds = time.perf_counter() - start_time
        dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
        write_halves(rows, temp_dir / "halves")
        peers = {
            name: score_peer(rows, copies, *run(command))
            for name, command in make_commands(temp_dir / "halves", "dedup").items()
        }
    result = score_hanlin(rows, copies, dropped) | peers
    result |= {"bench": "dedup_quality", "documents": len(rows), "planted": len(copies)}
    print(json.dumps(result | {"seconds": round(seconds, 1), "characters": sum(len(text) for _, text in rows)}))


def score_peer(
    rows: list[tuple[str, str]], copies: dict[str, tuple[str, str, int]], report: dict[str, Any], gigabytes: float
) -> dict[str, object]:
    """Recall and precision of a peer, from the names of the documents that it keeps."""
    dropped_names = {name for name, _ in rows} - set(report["kept"])
    pairs = sum(
        name in dropped_names or f"text{original}" in dropped_names for name, (_, _, original) in copies.items()
    )
    return {
        "recall": round(pairs / len(copies), 4),
        "precision": round(pairs / max(1, len(dropped_names)), 4),
        "dropped": len(dropped_names),
        "seconds": round(report["seconds"], 1),
        "gigabytes": round(gigabytes, 2),
    }


def score_hanlin(
    rows: list[tuple[str, str]], copies: dict[str, tuple[str, str, int]], dropped: list[dict[str, object]]
) -> dict[str, object]:
    """Recall over pairs (one of each must be dropped), in all and by the way the copy was made; precision."""
    named = dict(rows)
    order = [name for name, _ in rows]

    @cache
    def ngrams_of(name: str) -> frozenset[str]:
        return make_ngrams(named[name])

    def name_at(location: object) -> str:
        return order[int(str(location).rpartition("#")[2]) - 1]

    dropped_names = {name_at(row["row"]["id"]): name_at(row["duplicate_of"]) for row in dropped}  # type: ignore[index]
    is_found = {
        name: name in dropped_names or f"text{original}" in dropped_names for name, (_, _, original) in copies.items()
    }
    ways: dict[str, list[bool]] = {}
    for name, (_, way, _) in copies.items():
        ways.setdefault(way, []).append(is_found[name])
    right = sum(jaccard(ngrams_of(name), ngrams_of(kept)) >= THRESHOLD for name, kept in dropped_names.items())
    for way, hits in sorted(ways.items()):
        print(f"{way}: {sum(hits)} of {len(hits)}")
    near = [
        jaccard(ngrams_of(name), ngrams_of(f"text{original}")) < THRESHOLD + 0.05
        for name, (_, _, original) in copies.items()
    ]
    return {
        "copies_near_threshold": sum(near),
        "recall": round(sum(is_found.values()) / len(is_found), 4),
        "precision": round(right / len(dropped_names), 4),
    }


if __name__ == "__main__":
    run_main(main)
