"""Load an engine, its tokenizer and its chat template from what a user names: a model, an adapter, GGUF files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hanlin.chat.packaged import read_folder_template
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.inference.protocol import Engine
from hanlin.inference.registry import ENGINES, FOR_GGUF, create_engine
from hanlin.models.folder.adapter import resolve_base
from hanlin.models.folder.gguf import choose_gguf, find_gguf_files, list_gguf_parts
from hanlin.models.folder.layout import CONFIG, is_adapter
from hanlin.tokenizer.file_names import (
    CONFIG_FILE,
    GENERATION_FILE,
    SENTENCEPIECE_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
)
from hanlin.tokenizer.generation_config import read_eos_token_ids
from hanlin.tokenizer.gguf_metadata import read_gguf_metadata, read_gguf_template
from hanlin.tokenizer.gguf_vocabulary import count_other_tokens
from hanlin.tokenizer.tokenizer import Tokenizer

Kind = Literal["model", "adapter", "gguf"]

_MAX_OTHER_TOKENS = 0.01
"""Share of a GGUF file's tokens that the tokenizer beside it may call otherwise: converters spell some added ones anew.
"""


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where the weights are (a folder or one GGUF file), where the tokenizer is (of an adapter without one, the base),
    and the kind of the model.

    `folder` is the GGUF file itself if there is no tokenizer beside it.
    """

    weights: Path
    folder: Path
    kind: Kind

    @property
    def name(self) -> str:
        """The name to show: the file's stem, or the folder's name as it was given, even if it is a link."""
        return self.weights.stem if self.kind == "gguf" else self.weights.absolute().name

    @property
    def settings_folder(self) -> Path:
        """Where the stop ids and the sampling defaults are: with the tokenizer, if `generation_config.json` is there
        too; else those of an adapter are its base's, and those of a GGUF file in it. PEFT and most trainers save an
        adapter's tokenizer without that file.
        """
        if self.kind == "model" or (self.folder / GENERATION_FILE).is_file():
            return self.folder
        # the server names the base of an adapter as its weights
        has_base = self.kind != "gguf" and is_adapter(self.weights)
        return resolve_base(self.weights) if has_base else self.weights


def find_model(path: Path, file: str = "") -> ModelLocation:
    """Find out what is at `path`: a model folder, an adapter folder, a GGUF file, or a folder of GGUF files.

    `file` chooses among GGUF files by type (`Q8_0`) or name. Without it the only one is taken, or the largest, which
    lost least. Raises UserError if there is nothing to run, or `file` matches none or several.
    """
    if not path.exists():
        what = tr("there is no such file or folder")
        raise UserError(what, path, _hint_of_path(), "not_found")
    candidates = find_gguf_files(path)
    if candidates:
        weights = choose_gguf(candidates, path, file)
        return ModelLocation(weights, find_tokenizer(weights), "gguf")
    if file:
        what = tr("'{file}' was asked for, but there is no GGUF file here", file=file)
        raise UserError(what, path)
    if is_adapter(path):  # PEFT saves an adapter without a tokenizer, ours have one
        return ModelLocation(path, path if _has_tokenizer(path) else resolve_base(path), "adapter")
    if (path / CONFIG).is_file():
        return ModelLocation(path, path, "model")
    raise UserError(tr("there is no model here"), path, _hint_of_path())


def list_model_files(location: ModelLocation) -> list[Path]:
    """Every file that answers depend on: the weights, what is beside a GGUF file of its tokenizer, template and
    settings, and of an adapter the base.

    Raises:
        UserError: The base of an adapter is not there.
    """
    if location.kind == "gguf":
        beside = (TOKENIZER_FILE, SENTENCEPIECE_FILE, CONFIG_FILE, TEMPLATE_FILE, GENERATION_FILE)
        files = [*list_gguf_parts(location.weights), *(location.weights.with_name(name) for name in beside)]
        return [file for file in files if file.is_file()]
    folders = [location.weights]
    if location.kind == "adapter":
        folders.append(resolve_base(location.weights))
    return [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]


def find_tokenizer(gguf: Path) -> Path:
    """Where the tokenizer of a GGUF file is: the folder that it is in, or the file itself if none is there."""
    return gguf.parent if _has_tokenizer(gguf.parent) else gguf


def _has_tokenizer(folder: Path) -> bool:
    return (folder / TOKENIZER_FILE).is_file() or (folder / SENTENCEPIECE_FILE).is_file()


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
        """Load the chat template of the model's folder, or of the GGUF file. Raises UserError if there is none."""
        return load_template(self.location, self.tokenizer)

    def describe_numbers(self) -> dict[str, str]:
        """The engine of a measurement, and in which numbers it computed: `dtype` is the type of a GGUF file (`Q8_0`),
        `precision` what transformers multiplied in.
        """
        numbers = {"engine": self.engine.name, "precision": str(getattr(self.engine, "precision", ""))}
        if self.location.kind == "gguf":
            numbers["dtype"] = read_gguf_metadata(self.location.weights).file_type
        return {name: value for name, value in numbers.items() if value}


def load_template(location: ModelLocation, tokenizer: Tokenizer | None = None) -> ChatTemplate:
    """Load the chat template of a model; that of a GGUF file if there is none beside it.

    Raises:
        UserError: There is none, or it is not Jinja.
    """
    tokenizer = tokenizer or Tokenizer.load(location.folder)
    is_beside = (location.folder / TEMPLATE_FILE).is_file() or tokenizer.config.get("chat_template")
    lone = location.kind == "gguf" and not is_beside and bool(read_gguf_template(location.weights))
    source, origin = read_folder_template(location.weights if lone else location.folder)
    places = dict.fromkeys([location.settings_folder, *([location.weights] if lone else [])])
    stop_ids = [token_id for place in places for token_id in read_eos_token_ids(place)]
    return ChatTemplate(source, tokenizer, origin, tuple(dict.fromkeys(stop_ids)))


def load_engine(
    path: Path,
    file: str = "",
    engine: str = "auto",
    *,
    batch: int | None = None,
    dtype: str | None = None,
    precision: str = "auto",
    separate_process: bool | None = None,
    **options: Any,
) -> LoadedEngine:
    """Find a model, read its tokenizer and load it into an engine.

    Args:
        path: A model or adapter folder, a GGUF file, or a folder of GGUF files.
        file: The GGUF file to take, see `find_model`.
        engine: Name of the engine, or `auto`.
        batch: Maximum number of answers generated at once; None leaves it to the engine.
        dtype: Number format of the weights. None leaves it to the engine. GGUF files have their own: the default of
            stages that measure, `float32`, changes nothing of them, and one of 16 bits is refused.
        precision: Number format that weights in float32 are multiplied in, by transformers: `float32` or `bfloat16`;
            `auto`: float32; `fastest`: bfloat16 where a processor is faster by it.
        separate_process: Compute in a process of its own; see `create_engine`. By default llama.cpp does: a file that
            it does not expect makes it abort, which would end this process without a word.
        **options: Further options of the engine.

    Raises:
        UserError: If there is no model, or the engine cannot run it.
    """
    location = find_model(path, file)
    if location.kind == "gguf" and dtype in ("bfloat16", "float16"):
        what = tr("a GGUF file has its own number format, not {dtype}", dtype=dtype)
        raise UserError(what, location.weights, tr("leave `dtype` out, or name a file of another type"))
    if engine in ENGINES and (engine in FOR_GGUF) != (location.kind == "gguf"):
        what = tr("the engine {engine} does not run this ({kind})", engine=engine, kind=location.kind)
        hint = tr("llama_cpp and llama_server run GGUF files, transformers and vllm everything else")
        raise UserError(what, location.weights, hint)
    if options.get("adapters") and location.kind == "gguf":
        what = tr("adapters cannot be switched over a GGUF file")
        raise UserError(what, location.weights, tr("serve the model's folder"))
    if "threads" in options and location.kind != "gguf":
        raise UserError(tr("threads are llama.cpp's"), location.weights)
    if precision in ("bfloat16", "fastest"):
        is_multiplied_here = location.kind != "gguf" and engine in ("auto", "transformers")
        if not is_multiplied_here and precision == "bfloat16":
            what = tr("products in bfloat16 are for the engine transformers")
            raise UserError(what, "precision", tr("leave `precision` out"))
        if is_multiplied_here:
            options["precision"] = precision
    tokenizer = Tokenizer.load(location.folder)  # before the weights: a missing tokenizer should not cost minutes
    if location.kind == "gguf" and location.folder != location.weights:
        check_tokenizer_beside(location.weights, tokenizer)
    if batch is not None:
        options["parallel" if location.kind == "gguf" else "batch"] = batch
    if dtype is not None and location.kind != "gguf" and engine != "vllm":
        options["dtype"] = dtype
    if separate_process is None and location.kind == "gguf" and engine in ("auto", "llama_cpp"):
        separate_process, options = True, {**options, "log_restarts": False}
    opened = create_engine(engine, location.weights, separate_process=bool(separate_process), **options)
    return LoadedEngine(opened, tokenizer, location)


def check_tokenizer_beside(gguf: Path, tokenizer: Tokenizer) -> None:
    """Raise UserError if the tokenizer beside a GGUF file is another model's: every id would say something else."""
    other, count = count_other_tokens(gguf, list(map(tokenizer.backend.id_to_token, range(len(tokenizer)))))
    if other > _MAX_OTHER_TOKENS * count:
        what = tr(
            "the tokenizer beside this file is another model's: {other:,} of {count:,} tokens differ",
            other=other,
            count=count,
        )
        raise UserError(what, gguf, tr("put the model's own tokenizer beside it, or move it to a folder alone"))


def _hint_of_path() -> str:
    return tr("name a model or adapter folder, a .gguf file, or a folder of .gguf files")
