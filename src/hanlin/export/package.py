"""The stage `package`: a model in the folder that another program takes as it is (Ollama, LM Studio, llama.cpp, vLLM,
Hugging Face). The artifact appears only when the parity check has passed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template, save_tokenizer
from hanlin.config.settings.export import Package
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space, copy_atomic, write_text
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import quote_shell
from hanlin.export.model_card import Card, model_card
from hanlin.export.quality_page import CHART_FILE
from hanlin.inference.backends.llama_cpp.header import read_gguf_header
from hanlin.inference.loading import find_tokenizer
from hanlin.models.folder.checks import check_model_folder, check_quantized_folder, is_quantized
from hanlin.models.folder.gguf import choose_gguf, find_gguf_files, list_gguf_parts, split_part_name
from hanlin.models.folder.layout import CONFIG, INDEX, find_license_files
from hanlin.models.folder.rope import context_length
from hanlin.models.sentencepiece_file import carry_model
from hanlin.parity import check as parity
from hanlin.parity.modelfile import check_modelfile, find_packaged_name
from hanlin.tokenizer.file_names import TEMPLATE_FILE, TOKENIZER_FILE
from hanlin.tokenizer.generation_config import GREEDY, read_sampling_params
from hanlin.tokenizer.gguf_metadata import read_gguf_template
from hanlin.tokenizer.tokenizer import Tokenizer

CARD_FILE, START, MODELFILE = "README.md", "start.sh", "Modelfile"
_TOOL_PARSERS = {"llama3.1": "llama3_json", "llama3.2": "pythonic", "hermes": "hermes", "qwen3": "hermes"}
"""vLLM's name of the form in which a packaged template writes calls of tools."""


@dataclass(frozen=True, slots=True)
class _PackagedModel:
    """What is packaged: the GGUF files chosen, or none of a model folder."""

    folder: Path
    files: tuple[Path, ...]
    template: ChatTemplate
    context: int


def run(settings: Package, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Copy the files that the program needs, write those that are missing, and verify parity with every installed
    program.

    Args:
        settings: The program, and what the package says of the model.
        inputs: `model`, GGUF files or a model folder; its lineage is for the model card.
        out: An empty folder.
        context: Reports progress.

    Returns:
        The metrics of the stage: the result of the parity check, and the number and size of the files.

    Raises:
        UserError: The model has no chat template, the program needs another format, or a program renders a conversation
            to other token ids than in training.
    """
    source = _load_source(settings, inputs.path("model"))
    modelfile_settings: dict[str, Any] = {
        "context": source.context,
        "system": settings.system,
        "license": settings.license or "",
        "sampling": _sampling(source),
    }
    if settings.target == "ollama":
        check_modelfile(source.files[0].name, source.template, **modelfile_settings)
    targets = {path: out / _target_path(settings, source, path) for path in _files_to_copy(source)}
    _check_names(targets)
    with catch_full_disk(out):
        check_free_space(out, sum(path.stat().st_size for path in targets))
        for index, (path, target) in enumerate(targets.items()):
            context.progress.update(index, len(targets), tr("files"))
            copy_atomic(path, target)
    context.progress.close()
    metrics: dict[str, Any] = {"target": settings.target, "context": source.context}
    packaged_files = [target for path, target in targets.items() if path in source.files]
    if settings.target == "ollama":
        (file,) = packaged_files
        result = parity.verify_modelfile(out / MODELFILE, file, source.template, **modelfile_settings)
        metrics["modelfile"] = result.skip_reason or f"{result.cases} cases"
    elif settings.target in ("llama_cpp", "vllm"):
        _write_start(out / START, _command(settings, source, packaged_files))
    folder = source.template.tokenizer.folder  # of the tokenizer that transformers loads, or the GGUF file with it
    if settings.target in ("vllm", "huggingface"):
        folder = out / "model" if settings.target == "vllm" else out
        with catch_full_disk(out):
            save_tokenizer(source.template.tokenizer, source.template, folder)
            if not source.files:
                carry_model([source.folder], source.template.tokenizer, folder)
    metrics["parity"] = parity.verify(ChatTemplate.load(folder), folder, packaged_files)
    (root,) = inputs.lineage.get("model", ()) or (None,)
    card = Card(
        settings, source.context, [file.name for file in packaged_files], root, inputs.lineage.get("evaluations", ())
    )
    write_text(out / CARD_FILE, model_card(card, chart=CHART_FILE if (out / CHART_FILE).is_file() else ""))
    written_files = [
        path for path in out.rglob("*") if path.is_file() and context.scratch_folder(out) not in path.parents
    ]
    return {**metrics, "files": len(written_files), "bytes": sum(path.stat().st_size for path in written_files)}


def _sampling(source: _PackagedModel) -> dict[str, Any]:
    """The sampling defaults of a model that has some."""
    params = read_sampling_params(source.files[0] if source.files else source.folder)
    return {} if params == GREEDY else params


def _load_source(settings: Package, folder: Path) -> _PackagedModel:
    gguf_paths = find_gguf_files(folder)
    folder = folder if folder.is_dir() else folder.parent
    wants_gguf = settings.target in ("ollama", "lmstudio", "llama_cpp")
    if wants_gguf and not gguf_paths:
        what = tr("{target} takes GGUF files, but there is none here", target=settings.target)
        raise UserError(what, folder, tr("make some with `hanlin gguf`"))
    if settings.target == "vllm" and gguf_paths:
        what = tr("vLLM takes a model folder, and this is GGUF")
        raise UserError(what, folder, tr("name the folder it was made from"))
    if not gguf_paths:
        is_packed = is_quantized(folder)
        config = check_quantized_folder(folder) if is_packed else check_model_folder(folder, experts=True).config
        return _PackagedModel(folder, (), _template(folder), context_length(config))
    if settings.file or settings.target in ("ollama", "llama_cpp"):
        gguf_paths = [choose_gguf(gguf_paths, folder, settings.file)]
    _check_parts(settings, gguf_paths)
    lengths = [read_gguf_header(file).context_length for file in gguf_paths]
    return _PackagedModel(folder, tuple(gguf_paths), _template(folder, gguf_paths[0]), min(lengths))


def _check_parts(settings: Package, gguf_paths: Sequence[Path]) -> None:
    """Raise UserError if a part of a model in several files is missing, or the program takes no such model."""
    for path in gguf_paths:
        parts = list_gguf_parts(path)
        missing = [part.name for part in parts if not part.is_file()]
        if missing:
            what = tr("{count} files of the model are missing: {names}", count=len(missing), names=join_list(missing))
            raise UserError(what, path)
        if len(parts) > 1 and settings.target == "ollama":
            hint = tr("make one of them with `llama-gguf-split --merge`, or take `--for llama_cpp`")
            raise UserError(tr("Ollama takes no model in several GGUF files"), path, hint)


def _template(folder: Path, gguf: Path | None = None) -> ChatTemplate:
    """The chat template beside a model, or in a GGUF file."""
    if gguf is None and not (folder / TOKENIZER_FILE).is_file():
        hint = tr(
            "put {tokenizer_file} and {template_file} beside it",
            tokenizer_file=TOKENIZER_FILE,
            template_file=TEMPLATE_FILE,
        )
        raise UserError(tr("there is no tokenizer beside the model"), folder, hint)
    template = find_template(Tokenizer.load(folder if gguf is None else find_tokenizer(gguf)))
    if template is None and gguf is not None and read_gguf_template(gguf):
        template = find_template(Tokenizer.load(gguf))
    if template is None:
        hint = tr("train with a `template`, or put one beside the model")
        raise UserError(tr("the model has no chat template"), folder, hint)
    return template


def _files_to_copy(source: _PackagedModel) -> list[Path]:
    """The files to copy: GGUF files, or weights and configuration; licenses and the quality report's chart."""
    weights = [part for file in source.files for part in list_gguf_parts(file)]
    if not weights:
        weights = [*sorted(source.folder.glob("*.safetensors")), source.folder / INDEX, source.folder / CONFIG]
    candidates = (*weights, source.folder / CHART_FILE, *find_license_files(source.folder))
    return [path for path in candidates if path.is_file()]


def _target_path(settings: Package, source: _PackagedModel, path: Path) -> Path:
    """Return the path of a file within the package."""
    match settings.target:
        case "vllm" if path.suffix in (".safetensors", ".json"):
            return Path("model", path.name)
        case "lmstudio" if path.suffix == ".gguf":  # where LM Studio looks: models/publisher/model/file
            stem, ending = split_part_name(path.name)
            return Path(settings.publisher, settings.name, f"{settings.name}-{stem.rpartition('-')[2]}{ending}")
        case _:
            return Path(path.name)


def _check_names(targets: Mapping[Path, Path]) -> None:
    """Raise UserError if two files would have one name in the package: the second would replace the first."""
    sources: dict[Path, Path] = {}
    for path, target in targets.items():
        other = sources.setdefault(target, path)
        if other != path:
            what = tr("{first} and {second} would both be {name}", first=other.name, second=path.name, name=target.name)
            raise UserError(what, path.parent, tr("name one of them in `file`"))


def _command(settings: Package, source: _PackagedModel, packed: Sequence[Path]) -> list[str]:
    """Return the command line that starts the server; `$here` is the folder of the package."""
    name, context = quote_shell(settings.name), str(source.context)
    if settings.target == "llama_cpp":
        model = f'"$here"/{quote_shell(packed[0].name)}'
        command = [
            '"${LLAMA_SERVER:-llama-server}"',
            "--model",
            model,
            "--alias",
            name,
            "--ctx-size",
            context,
            "--jinja",
        ]
        return [*command, "--host", "127.0.0.1", "--port", "8080"]
    command = ['"${VLLM:-vllm}"', "serve", '"$here/model"', "--served-model-name", name, "--max-model-len", context]
    parser = _TOOL_PARSERS.get(find_packaged_name(source.template.source) or "")
    if parser:
        command += ["--enable-auto-tool-choice", "--tool-call-parser", parser]
    return [*command, "--host", "127.0.0.1", "--port", "8000"]


def _write_start(path: Path, command: Sequence[str]) -> None:
    """Write a POSIX shell script that runs the command; its own arguments follow and override those of the command."""
    lines = [
        "#!/bin/sh",
        "set -e",
        'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)',
        f'exec {" ".join(command)} "$@"',
    ]
    write_text(path, "\n".join(lines) + "\n")
    path.chmod(0o755)
