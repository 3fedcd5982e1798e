"""How well near copies are found: 20,000 documents, 2,000 of them planted near copies of others.

The documents are cut from real text (HANLIN_SHARED_DATA) or, where there is none, from the demo's world. A copy differs
in punctuation, in width, in script (traditional), by boilerplate put around it, by a few sentences edited, or by two
of these; one whose Jaccard similarity to its original is below the threshold is drawn again. The similarity that counts
here is computed on its own, with Python's sets of five-character strings over text normalized by NFKC and OpenCC.
Documents that happen to be similar to another one before anything is planted are left out.

The stage `corpus` runs as in a recipe. Recall: the share of planted pairs of which one is dropped. Precision: the share
of the dropped documents that are in truth at least as similar as the threshold to the one they are said to copy. Beside
it run the searches for near copies of datatrove and Data-Juicer over the same documents, where they are installed
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

from opencc import OpenCC
from peer_pipelines import commands, run, write_halves

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


def normal(text: str) -> str:
    text = SIMPLE.convert(unicodedata.normalize("NFKC", text)).casefold()
    return "".join(char for char in text if char.isalnum())


def shingles(text: str) -> frozenset[str]:
    plain = normal(text)
    return frozenset(plain[n : n + 5] for n in range(max(1, len(plain) - 4)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))


def real_texts(folder: Path) -> Iterator[str]:
    for name in FILES:
        if (folder / name).is_file():
            yield re.sub(r'[{}\[\]"]|\\n', "\n", (folder / name).read_text(encoding="utf-8"))


def demo_texts(folder: Path) -> Iterator[str]:
    from hanlin.config.settings.demo import DemoWorld
    from hanlin.demo import world

    world.run(DemoWorld(), Inputs({}), folder, StageContext(seed=7))
    for path in sorted((folder / "text").rglob("*.*")):
        yield path.read_text(encoding="utf-8", errors="ignore")


def pieces(texts: Iterator[str], wanted: int, chance: random.Random) -> list[str]:
    """Passages of 60 to 420 characters, of which no two are similar."""
    found: list[str] = []
    for text in texts:
        sentences = [part for part in re.split(r"(?<=[。！？!?.\n])", text) if part.strip()]
        place = 0
        while place < len(sentences):
            length, piece = chance.randint(60, 420), ""
            while place < len(sentences) and len(piece) < length:
                piece += sentences[place].strip()
                place += 1
            if len(normal(piece)) >= 60:
                found.append(piece)
    chance.shuffle(found)
    return [found[n] for n in apart(found)][:wanted]


def apart(texts: list[str]) -> list[int]:
    """The places of texts that share fewer than a third of their shingles with any other kept one."""
    owners: dict[str, list[int]] = {}
    kept: list[int] = []
    for place, text in enumerate(texts):
        mine = shingles(text)
        shared = Counter(other for shingle in mine for other in owners.get(shingle, ())[:20])
        if shared and shared.most_common(1)[0][1] > len(mine) / 3:
            continue
        kept.append(place)
        for shingle in mine:
            owners.setdefault(shingle, []).append(place)
    return kept


def punctuation(text: str, chance: random.Random) -> str:
    swap = {"，": ", ", "。": ".", "！": "!", "？": "?", "：": ":", "；": "；\n", "“": '"', "”": '"', "、": "，"}
    return "".join(swap.get(char, char) if chance.random() < 0.8 else "" if char in swap else char for char in text)


def width(text: str, chance: random.Random) -> str:
    return "".join(
        chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else "\u3000" if char == " " else char for char in text
    )


def script(text: str, chance: random.Random) -> str:
    other = COMPLEX.convert(text)
    return other if other != text else SIMPLE.convert(text)


def boilerplate(text: str, chance: random.Random) -> str:
    before = chance.choice(("首页 > 新闻 > 正文\n", "来源：本站整理\n", "【字体：大 中 小】\n"))
    after = chance.choice(("\n相关阅读", "\n返回列表 打印本页", "\n责任编辑：王明"))
    return before + text + after


def edited(text: str, chance: random.Random) -> str:
    """Words of a few sentences replaced, dropped or added."""
    chars = list(text)
    for _ in range(chance.randint(1, max(1, len(text) // 30))):
        place, size = chance.randrange(len(chars)), chance.randint(1, 3)
        new = "".join(chance.choice("春夏秋冬山水风月花鸟") for _ in range(chance.randint(0, 3)))
        chars[place : place + size] = list(new)
    return "".join(chars)


WAYS: dict[str, Callable[[str, random.Random], str]] = {
    "punctuation": punctuation, "width": width, "script": script, "boilerplate": boilerplate, "edited": edited,
}  # fmt: skip


def planted(text: str, chance: random.Random) -> tuple[str, str]:
    """A near copy and the way it was made."""
    mine = shingles(text)
    while True:
        ways = [chance.choice(list(WAYS))]
        if chance.random() < 0.3:
            ways.append(chance.choice(list(WAYS)))
        copy = text
        for way in ways:
            copy = WAYS[way](copy, chance)
        if copy != text and similarity(mine, shingles(copy)) >= THRESHOLD:
            return copy, "+".join(sorted(set(ways)))


def main() -> None:
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--documents", type=int, default=20_000)
    reader.add_argument("--planted", type=int, default=2_000)
    reader.add_argument("--seed", type=int, default=7)
    asked = reader.parse_args()
    chance = random.Random(asked.seed)
    shared = Path(os.environ.get("HANLIN_SHARED_DATA", "")) / "text"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "world").mkdir()
        texts = real_texts(shared) if (shared / FILES[0]).is_file() else demo_texts(work / "world")
        originals = pieces(texts, asked.documents - asked.planted, chance)
        chosen = chance.sample(range(len(originals)), min(asked.planted, len(originals)))
        copies = {f"copy{place}": (*planted(originals[place], chance), place) for place in chosen}
        rows = [(f"text{place}", text) for place, text in enumerate(originals)]
        rows += [(name, text) for name, (text, _, _) in copies.items()]
        chance.shuffle(rows)
        source = work / "documents.jsonl"
        lines = (json.dumps({"text": text, "name": name}, ensure_ascii=False) for name, text in rows)
        source.write_text("\n".join(lines) + "\n", encoding="utf-8")
        out = work / "out"
        out.mkdir()
        begun = time.perf_counter()
        settings = Corpus(sources="./x", rules=[], validation_fraction=0, min_chars=1)
        corpus.run(settings, Inputs({"sources.0.path": (source,)}), out, StageContext(seed=asked.seed))
        seconds = time.perf_counter() - begun
        dropped = [json.loads(line) for line in (out / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
        write_halves(rows, work / "halves")
        others = {
            name: of_pairs(rows, copies, *run(command)) for name, command in commands(work / "halves", "dedup").items()
        }
    result = judged(rows, copies, dropped) | others
    result |= {"bench": "dedup_quality", "documents": len(rows), "planted": len(copies)}
    print(json.dumps(result | {"seconds": round(seconds, 1), "characters": sum(len(text) for _, text in rows)}))


def of_pairs(
    rows: list[tuple[str, str]], copies: dict[str, tuple[str, str, int]], found: dict[str, Any], gigabytes: float
) -> dict[str, object]:
    """Recall and precision of a peer, from the names of the documents that it keeps."""
    gone = {name for name, _ in rows} - set(found["kept"])
    pairs = sum(name in gone or f"text{original}" in gone for name, (_, _, original) in copies.items())
    return {
        "recall": round(pairs / len(copies), 4),
        "precision": round(pairs / max(1, len(gone)), 4),
        "dropped": len(gone),
        "seconds": round(found["seconds"], 1),
        "gigabytes": round(gigabytes, 2),
    }


def judged(
    rows: list[tuple[str, str]], copies: dict[str, tuple[str, str, int]], dropped: list[dict[str, object]]
) -> dict[str, object]:
    """Recall over pairs (of each pair one must be gone), whole and by the way that the copy was made; precision."""
    named = dict(rows)
    order = [name for name, _ in rows]

    @cache
    def of(name: str) -> frozenset[str]:
        return shingles(named[name])

    def place(text: object) -> str:
        return order[int(str(text).rpartition("#")[2]) - 1]

    gone = {place(row["row"]["id"]): place(row["duplicate_of"]) for row in dropped}  # type: ignore[index]
    found = {name: name in gone or f"text{original}" in gone for name, (_, _, original) in copies.items()}
    ways: dict[str, list[bool]] = {}
    for name, (_, way, _) in copies.items():
        ways.setdefault(way, []).append(found[name])
    right = sum(similarity(of(name), of(kept)) >= THRESHOLD for name, kept in gone.items())
    for way, hits in sorted(ways.items()):
        print(f"{way}: {sum(hits)} of {len(hits)}")
    near = [similarity(of(name), of(f"text{original}")) < THRESHOLD + 0.05 for name, (_, _, original) in copies.items()]
    return {
        "copies_near_threshold": sum(near),
        "recall": round(sum(found.values()) / len(found), 4),
        "precision": round(right / len(gone), 4),
    }


if __name__ == "__main__":
    main()
