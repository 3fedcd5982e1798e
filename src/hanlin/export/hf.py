"""The stage `quantized_model`: a model folder in fewer bits that transformers and vLLM load as it is.

GPTQ, or bitsandbytes' int8 and NF4. Each is loaded again and measured against its source. GPTQ's integers are packed by
the library compressed-tensors, whose format both programs read; the algorithm is in `gptq`.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template, save_tokenizer
from hanlin.config.settings.export import QuantizedModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.discover import refuse_repeated
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space, read_json, write_sorted_json
from hanlin.core.i18n import join_list, tr
from hanlin.export import gptq, quality
from hanlin.export.calibration import load_calibration_rows
from hanlin.export.quality_page import write_card
from hanlin.models.dtypes import exact_dtype
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import CONFIG, WEIGHTS, ModelFiles, find_license_files
from hanlin.models.load import load_model
from hanlin.models.safetensors import save_safetensors
from hanlin.models.sentencepiece_file import carry_model
from hanlin.parity import check as parity
from hanlin.tokenizer.tokenizer import Tokenizer

FORMAT_NAMES = {"gptq": "GPTQ-INT4", "int8": "bnb-INT8", "nf4": "bnb-NF4"}


def run(settings: QuantizedModel, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the folder, load it again as transformers does, and measure it. Raises UserError for what is no plain Llama
    model, where a library is not installed, and for a full disk.
    """
    folder = inputs.path("model")
    refuse_adapter(folder)
    files = check_model_folder(folder)
    tokenizer = Tokenizer.load(folder)
    template = find_template(tokenizer)
    check_free_space(out, sum(entry.end - entry.start for entry in files.tensors.values()) // 2)
    with catch_full_disk(out):
        if not (context.scratch_folder(out) / "written").is_file():
            if settings.method == "gptq":
                refuse_repeated(inputs.paths("data"), tr("name it once"))
                _write_gptq(settings, files, inputs.paths("data"), tokenizer, out, context)
            else:
                load_model(folder, dtype="auto", quantization=settings.method).save_pretrained(out)
            save_tokenizer(tokenizer, template, out)
            carry_model([folder], tokenizer, out)
            for license_file in find_license_files(folder):
                shutil.copyfile(license_file, out / license_file.name)
            (context.scratch_folder(out) / "written").touch()
    metrics: dict[str, Any] = {"format": FORMAT_NAMES[settings.method]}
    if template is not None:
        metrics["parity"] = parity.verify(ChatTemplate.load(out), out)
    row: quality.Row = _size_metrics(files, out)
    if settings.quality_report is not None:
        held_out = inputs.paths("quality_report.held_out")
        reference = quality.prepare_reference(
            settings.quality_report, held_out, files, tokenizer, template, context.scratch_folder(out), context
        )
        row |= quality.measure_quality(out, reference, context)
        write_card(out, settings.name, settings.license, {FORMAT_NAMES[settings.method]: row}, library="transformers")
    else:
        load_model(out)  # it can be read
    return {**metrics, FORMAT_NAMES[settings.method]: row}


def _size_metrics(files: ModelFiles, out: Path) -> dict[str, float]:
    weights = sum(torch.Size(entry.shape).numel() for entry in files.tensors.values())
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    return {"bytes": size, "bits_per_weight": round(8 * size / weights, 3)}


def _write_gptq(
    settings: QuantizedModel,
    files: ModelFiles,
    data: tuple[Path, ...],
    tokenizer: Tokenizer,
    out: Path,
    context: StageContext,
) -> None:
    if importlib.util.find_spec("compressed_tensors") is None:
        hint = tr("pip install 'hanlin[gptq]'")
        raise UserError(tr("compressed-tensors is not installed"), "method", hint)
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    for name in ("hidden_size", "intermediate_size"):
        if int(files.config[name]) % settings.group_size:
            what = tr(
                "rows of {size} ({name}) do not divide into groups of {group_size}",
                size=files.config[name],
                name=name,
                group_size=settings.group_size,
            )
            raise UserError(what, "group_size", _hint_of_group_size(files.config))
    window = min(settings.window, int(files.config["max_position_embeddings"]))
    rows = list(load_calibration_rows(data, tokenizer, window, settings.tokens, context.seed))
    model: Any = load_model(files.folder, dtype=exact_dtype(files))
    grids = gptq.quantize_layers(
        model, rows, settings.group_size, lambda done, of: context.progress.update(done, of, tr("layers"))
    )
    context.progress.close()
    arguments = QuantizationArgs(num_bits=gptq.BITS, symmetric=True, strategy="group", group_size=settings.group_size)
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments)
    dtype = getattr(torch, files.dtype)
    tensors: dict[str, torch.Tensor] = {}
    state = model.state_dict()
    for name in files.tensors:
        module = name.removesuffix(".weight")
        if name not in state:  # `rotary_emb.inv_freq`, which follows from the configuration
            continue
        if module not in grids:
            tensors[name] = state[name].to(dtype).contiguous()
            continue
        grid = grids[module]
        packed = PackedQuantizationCompressor.compress({"weight": grid.weight, "weight_scale": grid.scale}, scheme)
        packed["weight_scale"] = packed["weight_scale"].to(dtype)
        tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in packed.items()}
    save_safetensors(tensors, out / WEIGHTS)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, format="pack-quantized", quantization_status="compressed", ignore=["lm_head"]
    )
    model_config = {**read_json(files.folder / CONFIG), "quantization_config": config.model_dump(mode="json")}
    write_sorted_json(out / CONFIG, model_config)


def _hint_of_group_size(config: Mapping[str, Any]) -> str:
    """The group sizes that divide the rows of every weight of a model."""
    sizes = [int(config[name]) for name in ("hidden_size", "intermediate_size")]
    fitting = [group for group in (128, 64, 32) if not any(size % group for size in sizes)]
    if not fitting:
        return tr("no group size fits this model: choose another method")
    return tr("set {sizes}", sizes=join_list(map(str, fitting)))
