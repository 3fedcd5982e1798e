"""Models of other programs: GGUF files that are imported, Meta's `params.json` and pickled weights."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
from pathlib import Path
from typing import Any

from fuzz.mutate import damage_bytes, damage_json_file

_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
_PARAMS = ("n_kv_heads", "ffn_dim_multiplier", "multiple_of", "rope_theta", "use_scaled_rope", "rope_scaling_factor")
_OPCODES = (
    *(
        b"c__builtin__\neval\n",
        b"cos\nsystem\n",
        b"(S'x'\ntR",
        b"ctorch\nload\n",
        b"0",
        b"N.",
        b"\x80\x04",
        b"\x8c\x01a",
    ),
    *(b"\x8a\xff" + b"\xff" * 255, b"B\xff\xff\xff\x7f", b"(" * 2000, b"]" * 2000, b"h\x00" * 100),
)
"""Parts of pickles: names of functions, calls, numbers of many bytes, deep nesting."""


def gguf_models(folder: Path, model: Path) -> list[Path]:
    """GGUF files of a dense model and of one of experts, and the two files of one that was split."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    from hanlin.config.settings.export import Gguf
    from hanlin.core.context import StageContext
    from hanlin.core.files import read_json
    from hanlin.export.gguf.source import load_source
    from hanlin.export.gguf.writer import write_files
    from hanlin.models.folder.layout import CONFIG
    from rewritten_gguf import rewrite_gguf

    torch.manual_seed(0)
    experts = folder / "experts"
    shutil.copytree(model, experts)
    (experts / "model.safetensors").unlink()
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = {name: read_json(model / CONFIG)[name] for name in (*sizes, "num_key_value_heads", "eos_token_id")}
    MixtralForCausalLM(MixtralConfig(**config, **_EXPERTS)).save_pretrained(experts, save_original_format=True)
    files = []
    for source, file_type in ((model, "Q8_0"), (experts, "F16")):
        out = folder / f"gguf-{source.name}"
        out.mkdir()
        write_files([file_type], Gguf.model_validate({"model": "./m", "types": [file_type]}), load_source(source), out,
                    StageContext())  # fmt: skip
        files.append(out / f"model-{file_type}.gguf")
    rewrite_gguf(files[0], folder / "split.gguf", split_max_tensors=12)
    return [*files, *sorted(folder.glob("split-*.gguf"))]


def damage_gguf_model(rng: random.Random, prepared: list[Path], folder: Path) -> None:
    """Damage metadata or the list of tensors, of a split model in one of its files."""
    from hanlin.tokenizer.gguf_metadata import read_gguf_metadata

    kind = rng.randrange(3)
    parts = prepared[kind : kind + 1] if kind < 2 else prepared[2:]
    damaged = rng.randrange(len(parts))
    for index, part in enumerate(parts):
        data = part.read_bytes()
        if index == damaged:
            first = data.find(b"llama.") if rng.random() < 0.5 else read_gguf_metadata(part).end
            last = min(len(data), max(first, 0) + 2000)
            data = data[: max(first, 0)] + damage_bytes(rng, data[max(first, 0) : last]) + data[last:]
        (folder / part.name).write_bytes(data)
    if len(parts) > 1 and rng.random() < 0.1:
        (folder / parts[damaged].name).unlink()


def import_gguf_model(_: Any, folder: Path) -> None:
    """Read all that an import reads before llama.cpp is asked."""
    from hanlin.core.errors import UserError
    from hanlin.export.gguf.import_gguf import open_gguf
    from hanlin.models.folder.gguf import choose_gguf, find_gguf_files
    from hanlin.models.folder.shapes import llama_shapes

    candidates = find_gguf_files(folder)
    if not candidates:
        raise UserError("no file")
    source = open_gguf(choose_gguf(candidates, folder, ""))
    for name, shape in llama_shapes(source.description).items():
        assert tuple(source.weights[name].shape) == shape


def meta_checkpoint(folder: Path, model: Path) -> Path:
    """Meta's checkpoint of a model in two files, with its tokenizer."""
    from hanlin.config.settings.surgery.export_checkpoint import ExportCheckpoint
    from hanlin.core.context import Inputs, StageContext
    from hanlin.models.layouts import export_checkpoint

    out = folder / "original"
    out.mkdir()
    settings = ExportCheckpoint(model="./m", shards=2)
    export_checkpoint.run(settings, Inputs({"model": (model,)}), out, StageContext())
    for file in model.glob("tokenizer*"):
        shutil.copyfile(file, out / file.name)
    return out


def damage_checkpoint(rng: random.Random, prepared: Path, folder: Path) -> None:
    """Damage `params.json`, the bytes of a file, or the pickle in it."""
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    file = folder / rng.choice(["consolidated.00.pth", "consolidated.01.pth"])
    way = rng.random()
    if way < 0.5:
        params = folder / "params.json"
        params.write_bytes(damage_json_file(rng, params.read_bytes(), _PARAMS))
    elif way < 0.6:
        file.write_bytes(damage_bytes(rng, file.read_bytes()))
    else:
        file.write_bytes(_damage_pickle(rng, file.read_bytes()))


def import_checkpoint(_: Any, folder: Path) -> None:
    """Run the stage, whose child reads the pickles."""
    from hanlin.config.settings.surgery.import_checkpoint import ImportCheckpoint
    from hanlin.core.context import Inputs, StageContext
    from hanlin.models.layouts import import_checkpoint as stage

    out = folder / "out"
    out.mkdir()
    stage.run(ImportCheckpoint(checkpoint="./c"), Inputs({"checkpoint": (folder,)}), out, StageContext())


def _damage_pickle(rng: random.Random, data: bytes) -> bytes:
    """The archive with another pickle, which is all of it that runs."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                content = damage_bytes(rng, content)
                index = rng.randint(0, len(content))
                content = content[:index] + rng.choice(_OPCODES) + content[index:]
            target.writestr(name, content)
    return made.getvalue()
