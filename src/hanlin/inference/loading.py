"""Load an engine, its tokenizer and its chat template from what a user names: a model, an adapter, GGUF files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.inference.protocol import Engine
from hanlin.inference.registry import ENGINES, FOR_GGUF, create_engine
from hanlin.models.folder.gguf import choose_gguf, find_gguf_files
from hanlin.models.folder.layout import CONFIG, is_adapter
from hanlin.tokenizer.tokenizer import Tokenizer

Kind = Literal["model", "adapter", "gguf"]


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where the weights are (a folder or one GGUF file), where the tokenizer files are, and the kind of the model."""

    weights: Path
    folder: Path
    kind: Kind

    @property
    def name(self) -> str:
        """The name to show: the file's stem, or the folder's name as it was given, even if it is a link."""
        return self.weights.stem if self.kind == "gguf" else self.weights.absolute().name


def find_model(path: Path, file: str = "") -> ModelLocation:
    """Find out what is at `path`: a model folder, an adapter folder, a GGUF file, or a folder of GGUF files.

    `file` chooses among GGUF files by type (`Q8_0`) or name. Without it the only one is taken, or the largest, which
    lost least. Raises UserError if there is nothing to run, or `file` matches none or several.
    """
    if not path.exists():
        what = say("there is no such file or folder", "没有这个文件或文件夹")
        raise UserError(what, path, _hint_of_path())
    candidates = find_gguf_files(path)
    if candidates:
        return ModelLocation(choose_gguf(candidates, path, file), path if path.is_dir() else path.parent, "gguf")
    if file:
        what = say(f"'{file}' was asked for, but there is no GGUF file here", f"指定了“{file}”，但这里没有 GGUF 文件")
        raise UserError(what, path)
    if is_adapter(path):
        return ModelLocation(path, path, "adapter")
    if (path / CONFIG).is_file():
        return ModelLocation(path, path, "model")
    raise UserError(say("there is no model here", "这里没有模型"), path, _hint_of_path())


def parse_model_spec(text: str | Path) -> tuple[Path, str]:
    """Split `folder:Q8_0` into the path and the chosen GGUF file. A path that exists is taken as it is."""
    path = Path(text).expanduser()
    match = re.fullmatch(r"(.+):([\w.-]{2,})", str(text))
    if match is None or path.exists():
        return path, ""
    return Path(match[1]).expanduser(), match[2]


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine and the tokenizer of its model."""

    engine: Engine
    tokenizer: Tokenizer
    location: ModelLocation

    def load_template(self) -> ChatTemplate:
        """Load the chat template of the model's folder. Raises UserError if there is none."""
        return ChatTemplate.load(self.location.folder, self.tokenizer)


def load_engine(
    path: Path,
    file: str = "",
    engine: str = "auto",
    *,
    batch: int | None = None,
    dtype: str | None = None,
    **options: Any,
) -> LoadedEngine:
    """Find a model, read its tokenizer and load it into an engine.

    Args:
        path: A model or adapter folder, a GGUF file, or a folder of GGUF files.
        file: The GGUF file to take, see `find_model`.
        engine: Name of the engine, or `auto`.
        batch: Maximum number of answers generated at once; None leaves it to the engine.
        dtype: Number format of the weights; ignored for GGUF files, which have their own. None leaves it to the engine.
        **options: Further options of the engine.

    Raises:
        UserError: If there is no model, or the engine cannot run it.
    """
    found = find_model(path, file)
    if engine in ENGINES and (engine in FOR_GGUF) != (found.kind == "gguf"):
        what = say(
            f"the engine {engine} does not run this ({found.kind})", f"引擎 {engine} 不能运行此类模型（{found.kind}）"
        )
        hint = say(
            "llama_cpp and llama_server run GGUF files, transformers and vllm everything else",
            "llama_cpp 与 llama_server 运行 GGUF，其余用 transformers 或 vllm",
        )
        raise UserError(what, found.weights, hint)
    if options.get("adapters") and found.kind == "gguf":
        what = say("adapters cannot be switched over a GGUF file", "无法在 GGUF 文件上切换适配器")
        raise UserError(what, found.weights, say("serve the model's folder", "请提供模型文件夹"))
    if "threads" in options and found.kind != "gguf":
        raise UserError(say("threads are llama.cpp's", "threads 只适用于 llama.cpp"), found.weights)
    tokenizer = Tokenizer.load(found.folder)  # before the weights: a missing tokenizer should not cost minutes
    if batch is not None:
        options["parallel" if found.kind == "gguf" else "batch"] = batch
    if dtype is not None and found.kind != "gguf" and engine != "vllm":
        options["dtype"] = dtype
    return LoadedEngine(create_engine(engine, found.weights, **options), tokenizer, found)


def _hint_of_path() -> str:
    return say(
        "name a model or adapter folder, a .gguf file, or a folder of .gguf files",
        "请指定模型或适配器文件夹、.gguf 文件，或含 .gguf 文件的文件夹",
    )
