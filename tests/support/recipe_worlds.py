"""What a shipped recipe reads from its user, made small: models, text, conversations and preferences in `root`."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

from hanlin.config.recipe import Recipe
from hanlin.config.recipe_file import read_recipe
from hanlin.config.settings.base import references

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PLACES = ("图书馆", "翰林院", "学堂", "花园", "茶馆", "书店", "城门", "石桥")
SEASONS = ("春天", "夏天", "秋天", "冬天")
LETTERS = (
    "翰林院在城东春天的时候子里开满了花你叫什么名字我是一个中文助手三加四等于七图书馆有很多欢迎来读今学习数学和诗歌"
)


def small_world(recipe: Path, root: Path, model: Path, tokenizer: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """The recipe over stand-ins for everything that it reads from `root`."""
    checked = read_recipe(recipe, [f"root={root}", *changes])
    for stage in checked.stages.values():
        for item in references(stage.settings):
            found = checked.resolve(item)
            if found.path is not None:
                _stand_in(stage.kind.name, item.types, found.path, model, tokenizer)
    return checked


def _stand_in(kind: str, types: tuple[str, ...], path: Path, model: Path, tokenizer: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("import_gguf", "import_checkpoint"):
        _write_layout(kind, path, model)
    elif "model" in types:
        shutil.copytree(model, path)
    elif "tokenizer" in types:
        shutil.copytree(tokenizer, path)
    elif "*" in path.name:
        _write(kind, path.with_name(path.name.replace(".json*", ".jsonl").replace("*", "0")))
    elif path.suffix:
        _write(kind, path)
    else:
        path.mkdir()
        _write(kind, path / "part.jsonl")


def _write_layout(kind: str, folder: Path, model: Path) -> None:
    """The model as another program has it: a GGUF file, or Meta's checkpoint with the tokenizer beside it."""
    from hanlin.config.settings.export import Gguf
    from hanlin.config.settings.surgery.export_checkpoint import ExportCheckpoint
    from hanlin.core.context import Inputs, StageContext
    from hanlin.export.gguf.source import load_source
    from hanlin.export.gguf.writer import write_files
    from hanlin.models.layouts import export_checkpoint

    if kind == "import_gguf":
        target = folder.with_suffix(".written") if folder.suffix else folder
        target.mkdir()
        write_files(["F32"], Gguf(model="./m", types=("F32",)), load_source(model), target, StageContext())
        if folder.suffix:
            next(target.glob("*.gguf")).rename(folder)
        return
    folder.mkdir()
    export_checkpoint.run(ExportCheckpoint(model="./m"), Inputs({"model": (model,)}), folder, StageContext())
    for file in model.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja":
            shutil.copyfile(file, folder / file.name)


def _write(kind: str, file: Path) -> None:
    """Records of what a stage of that kind reads, each line one."""
    pairs = [(place, season) for place in PLACES for season in SEASONS]
    if kind == "conversations":
        rows = [
            {"instruction": f"{p}在{s}开门吗？", "input": "", "output": f"{p}在{s}每天上午开门，欢迎你来。"}
            for p, s in pairs
        ]
    elif kind == "preferences":
        rows = [
            {"prompt": f"{p}在{s}怎么样？", "chosen": f"{p}在{s}很好看。", "rejected": f"It is nice in season {n}."}
            for n, (p, s) in enumerate(pairs)
        ]
    else:
        source = random.Random(file.name)
        texts = ["".join(source.choice(LETTERS) for _ in range(source.randint(60, 160))) + "。" for _ in range(60)]
        if file.suffix == ".txt":
            file.write_text("\n".join(texts) + "\n", encoding="utf-8")
            return
        rows = [{"text": text} for text in texts]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
