"""Folders for the tests of the page: a small run with data, and artifacts written as a stage leaves them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.config.recipe_file import read_recipe
from hanlin.pipeline.artifacts import Store
from hanlin.pipeline.manifest import InputEntry, Manifest
from hanlin.pipeline.plan import plan
from hanlin.pipeline.run import build_request
from hanlin.pipeline.run_record import RunSource, record_run
from hanlin.pipeline.worker import run_stage

RECIPE = """# a comment that stays
name: small
seed: 1
stages:
  chats:
    kind: conversations
    sources: [./chats.jsonl]   # the only source
    validation_fraction: 0
    dedup: minhash
  text: { kind: corpus, sources: [./text.jsonl], validation_fraction: 0 }
"""
LONG = "春天的时候院子里开满了花，夏天的时候池塘里开满了荷花，秋天的时候山上的树叶都红了，冬天的时候屋顶上落满了雪"


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def make_small_run(home: Path) -> Store:
    """Run two data stages, with a near copy, a copy and an empty row in their sources."""
    chats = [{"instruction": f"第{n}个问题是什么？", "output": f"第{n}个回答在这里。"} for n in range(5)]
    near = [{"instruction": f"说说四季{mark}", "output": f"{LONG}{mark}"} for mark in ("。", "！")]
    write_rows(home / "chats.jsonl", [*chats, *near, chats[0], {"instruction": "空的", "output": ""}])
    write_rows(home / "text.jsonl", [{"text": f"第{n}篇：{LONG}，还有第{n}件事。"} for n in range(4)])
    (home / "small.yaml").write_text(RECIPE, encoding="utf-8")
    recipe = read_recipe(home / "small.yaml", [f"root={home}"])
    store = Store(home)
    with record_run("small", store, RunSource(str(home / "small.yaml"), (f"root={home}",), "", str(home))):
        for step in plan(recipe, store):  # in this process: a worker takes seconds to start
            run_stage(build_request(recipe, step, store))
            store.link("small", step.stage.name, store.folder(step.stage.kind.name, step.key))
    return store


def commit(
    store: Store,
    kind: str,
    type_: str,
    key: str,
    files: Mapping[str, str],
    *,
    run_stage: tuple[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    inputs: Sequence[InputEntry] = (),
) -> Path:
    """An artifact with some files, and a link of a run's stage to it if one is named."""
    partial = store.open_partial(kind, key)
    for name, text in files.items():
        (partial / name).write_text(text, encoding="utf-8")
    finished = "2026-01-01 00:00:00"
    manifest = Manifest(
        kind, type_, 1, key, "", settings or {}, 1, tuple(inputs), (), metrics or {}, {}, finished, finished, 1.0
    )
    store.commit(partial, manifest)
    folder = store.folder(kind, key)
    if run_stage is not None:
        store.link(*run_stage, folder)
    return folder


def metrics_text(steps: int, spike: int = 0) -> str:
    """A `metrics.jsonl` whose loss falls, with a spike at one step."""
    rows = [
        {
            "step": step,
            "loss": 9.0 if step == spike else 3.0 / step,
            "learning_rate": 1e-3,
            "grad_norm": 1.0,
            "tokens": 100,
            **({"probe_english_loss_at_start": 2.0} if step == 1 else {}),
            **({"probe_english_loss": 2.5} if step % 10 == 0 else {}),
        }
        for step in range(1, steps + 1)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)
