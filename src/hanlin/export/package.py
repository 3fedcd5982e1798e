"""The stage `package`: a model in the folder that another program takes as it is (Ollama, LM Studio, llama.cpp, vLLM,
Hugging Face). The artifact appears only when the parity check has passed.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template, save_tokenizer
from hanlin.config.settings.export import Package
from hanlin.core.context import Inputs, StageContext
from hanlin.core.disk import catch_full_disk, check_free_space, copy_atomic
from hanlin.core.errors import UserError
from hanlin.core.files import write_text
from hanlin.core.i18n import tr
from hanlin.export.model_card import Card, model_card
from hanlin.export.quality_page import CHART_FILE
from hanlin.inference.backends.llama_cpp.model import LlamaCppModel
from hanlin.models.folder.checks import check_model_folder, check_quantized_folder, is_quantized
from hanlin.models.folder.gguf import choose_gguf, find_gguf_files
from hanlin.models.folder.layout import CONFIG, INDEX, find_license_files
from hanlin.parity import check as parity
from hanlin.parity.modelfile import find_packaged_name
from hanlin.tokenizer.file_names import TEMPLATE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

CARD_FILE, START, MODELFILE = "README.md", "start.sh", "Modelfile"
_TOOL_PARSERS = {"llama3.1": "llama3_json"}
"""vLLM's name of the form in which a packaged template writes calls of tools."""


@dataclass(frozen=True, slots=True)
class _PackagedModel:
    """What is packaged: the GGUF files chosen, or none of a model folder."""

    folder: Path
    files: tuple[Path, ...]
    template: ChatTemplate
    context: int


def run(settings: Package, inputs: Inputs, out: Path, job: StageContext) -> dict[str, Any]:
    """Copy what the program needs, write what it lacks, and ask every program at hand for the same conversations.

    Raises UserError when the model has no chat template, when the program takes another form of model, and when a
    program reads a conversation otherwise than it was learned.
    """
    source = _read(settings, inputs.path("model"))
    places = {path: out / _place(settings, source, path) for path in _weights(source)}
    with catch_full_disk(out):
        check_free_space(out, sum(path.stat().st_size for path in places))
        for done, (path, index) in enumerate(places.items()):
            job.progress.update(done, len(places), tr("files"))
            copy_atomic(path, index)
    job.progress.close()
    metrics: dict[str, Any] = {"target": settings.target, "context": source.context}
    packed = [index for path, index in places.items() if path in source.files]
    if settings.target == "ollama":
        (file,) = packed
        told = {"context": source.context, "system": settings.system, "license": settings.license or ""}
        verdict = parity.verify_modelfile(out / MODELFILE, file, source.template, **told)
        metrics["modelfile"] = verdict.skip_reason or f"{verdict.cases} cases"
    elif settings.target in ("llama_cpp", "vllm"):
        _write_start(out / START, _command(settings, source, packed))
    folder = source.folder  # where the tokenizer lies that transformers reads
    if settings.target in ("vllm", "huggingface"):
        folder = out / "model" if settings.target == "vllm" else out
        with catch_full_disk(out):
            save_tokenizer(source.template.tokenizer, source.template, folder)
    metrics["parity"] = parity.verify(ChatTemplate.load(folder), folder, packed)
    (root,) = inputs.lineage.get("model", ()) or (None,)
    card = Card(settings, source.context, [file.name for file in packed], root, inputs.lineage.get("evaluations", ()))
    write_text(out / CARD_FILE, model_card(card, chart=CHART_FILE if (out / CHART_FILE).is_file() else ""))
    kept = [path for path in out.rglob("*") if path.is_file() and job.scratch_folder(out) not in path.parents]
    return {**metrics, "files": len(kept), "bytes": sum(path.stat().st_size for path in kept)}


def _read(settings: Package, folder: Path) -> _PackagedModel:
    found = find_gguf_files(folder)
    folder = folder if folder.is_dir() else folder.parent
    wants_gguf = settings.target in ("ollama", "lmstudio", "llama_cpp")
    if wants_gguf and not found:
        what = tr("{target} takes GGUF files, but there is none here", target=settings.target)
        raise UserError(what, folder, tr("make some with `hanlin gguf`"))
    if settings.target == "vllm" and found:
        what = tr("vLLM takes a model folder, and this is GGUF")
        raise UserError(what, folder, tr("name the folder it was made from"))
    if not found:
        packed = is_quantized(folder)
        config = check_quantized_folder(folder) if packed else check_model_folder(folder, experts=True).config
        return _PackagedModel(folder, (), _template(folder), int(config["max_position_embeddings"]))
    if settings.file or settings.target in ("ollama", "llama_cpp"):
        found = [choose_gguf(found, folder, settings.file)]
    lengths = []
    for file in found:
        model = LlamaCppModel(file, vocabulary_only=True)
        lengths.append(int(model.meta("llama.context_length") or 0))
        model.close()
    return _PackagedModel(folder, tuple(found), _template(folder), min(lengths))


def _template(folder: Path) -> ChatTemplate:
    if not (folder / TOKENIZER_FILE).is_file():
        hint = tr(
            "put {tokenizer_file} and {template_file} beside it",
            tokenizer_file=TOKENIZER_FILE,
            template_file=TEMPLATE_FILE,
        )
        raise UserError(tr("there is no tokenizer beside the model"), folder, hint)
    template = find_template(Tokenizer.load(folder))
    if template is None:
        hint = tr("train with a `template`, or put one beside the model")
        raise UserError(tr("the model has no chat template"), folder, hint)
    return template


def _weights(source: _PackagedModel) -> list[Path]:
    """The files to copy: GGUF files, or weights and configuration; licenses and the quality report's chart."""
    weights = list(source.files)
    if not weights:
        weights = [*sorted(source.folder.glob("*.safetensors")), source.folder / INDEX, source.folder / CONFIG]
    found = (*weights, source.folder / CHART_FILE, *find_license_files(source.folder))
    return [path for path in found if path.is_file()]


def _place(settings: Package, source: _PackagedModel, path: Path) -> Path:
    """Where a file goes in the package."""
    match settings.target:
        case "vllm" if path.suffix in (".safetensors", ".json"):
            return Path("model", path.name)
        case "lmstudio" if path in source.files:  # where LM Studio looks: models/publisher/model/file
            ending = path.stem.rpartition("-")[2]
            return Path(settings.publisher, settings.name, f"{settings.name}-{ending}.gguf")
        case _:
            return Path(path.name)


def _command(settings: Package, source: _PackagedModel, packed: Sequence[Path]) -> list[str]:
    """The words that start the server; `$here` is the package."""
    name, context = shlex.quote(settings.name), str(source.context)
    if settings.target == "llama_cpp":
        model = f'"$here/{packed[0].name}"'
        words = ['"${LLAMA_SERVER:-llama-server}"', "--model", model, "--alias", name, "--ctx-size", context, "--jinja"]
        return [*words, "--host", "127.0.0.1", "--port", "8080"]
    words = ['"${VLLM:-vllm}"', "serve", '"$here/model"', "--served-model-name", name, "--max-model-len", context]
    parser = _TOOL_PARSERS.get(find_packaged_name(source.template.source) or "")
    if parser:
        words += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    return [*words, "--host", "127.0.0.1", "--port", "8000"]


def _write_start(path: Path, words: Sequence[str]) -> None:
    """A script for any shell; what is given to it goes on to the server, later words standing in for earlier ones."""
    lines = ["#!/bin/sh", "set -e", 'here=$(cd "$(dirname "$0")" && pwd)', f'exec {" ".join(words)} "$@"']
    write_text(path, "\n".join(lines) + "\n")
    path.chmod(0o755)
