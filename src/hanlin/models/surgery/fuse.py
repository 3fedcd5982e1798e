"""The stage `fuse_models`: fuse models of one shape into one, tensor by tensor, and verify what was written.

The formulas are in `fuse_tensor`, which entries are kept in `pruning`, and a second computation of both, with sorted
float64 arrays, in `fuse_reference`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.surgery.fuse import FuseModels, Gradient, anchors
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.models.extend_vocab import SAMPLE_TEXTS
from hanlin.models.folder.adapter import is_same_model
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.config import read_number
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.folder.rope import read_rope
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.merge import PROMPTS, TEXTS_THAT_RULES_CHANGE
from hanlin.models.safetensors import read_rows
from hanlin.models.save import remove_files_on_failure, save_streamed, stored_dtype
from hanlin.models.surgery.fuse_reference import compare_with_reference
from hanlin.models.surgery.fuse_tensor import FusedTensor, Part
from hanlin.tokenizer.tokenizer import Tokenizer

CHECKED_ENTRIES = 64_000_000
"""Largest tensor that is computed a second time: sorting 64 million entries takes 10 seconds and 3 GB of memory."""
_SAME_CONFIG = (
    *("hidden_act", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "attention_bias"),
    *("mlp_bias", "rope_theta", "rope_scaling"),
)
"""Values of `config.json` that give equal weights another meaning."""


def run(settings: FuseModels, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the fused model into `out` and compare it with a second computation.

    One tensor is read, fused and written after the other, large ones in pieces, so that memory holds a few pieces of
    64 MB for each model. Configuration, tokenizer and chat template come from the base or the first model, but the
    template from the first model that has one.

    Args:
        settings: Method, weights, dtype.
        inputs: `base`, if there is one, and `models.0.model`, `models.1.model`, ...
        out: An empty folder.
        context: Seed of random masks; progress.

    Returns:
        The metrics of the stage.

    Raises:
        UserError: The models differ in shape, configuration or tokenizer, or a weight is not finite.
        RuntimeError: The check failed; the files are removed.
    """
    models = [check_model_folder(inputs.path(f"models.{index}.model")) for index in range(len(settings.models))]
    base_path = inputs.optional_path("base")
    base = check_model_folder(base_path) if base_path is not None else None
    source = base or models[0]
    check_same_shape(source, models)
    tokenizer, template = choose_tokenizer(source, models)
    refuse_repeated(models)
    for what in _describe_what_has_no_effect(settings, base, models):
        context.progress.log(what)
    dtype = source.dtype if settings.dtype == "base" else settings.dtype
    tensors = plan_tensors(settings, source, base, models, context.seed)
    total = sum(tensor.size for tensor in tensors.values())
    done = 0

    def make(name: str) -> Iterator[torch.Tensor]:
        nonlocal done
        shape = models[0].tensors[name].shape
        for piece in tensors[name].pieces():
            yield piece if len(shape) > 1 else piece.view(-1)
            done += piece.numel()
            context.progress.update(done, total, tr("parameters"))

    with remove_files_on_failure(out):
        kept = {name: stored_dtype(source, name) for name in tensors} if settings.dtype == "base" else None
        written = save_streamed(source, out, make, tokenizer=tokenizer, template=template, dtype=dtype, dtypes=kept)
        checked = verify(settings, written, tensors, context)
    return {
        "method": settings.method,
        "models": len(models),
        "tensors": len(tensors),
        "parameters": total,
        "dtype": dtype,
        "template": "" if template is None else template.tokenizer.folder.name,
        **checked,
    }


def refuse_repeated(models: Sequence[ModelFiles]) -> None:
    """Raise UserError if one of the models is there twice, also as a link or a copy: it would count twice, unsaid."""
    for index, model in enumerate(models):
        for other in models[:index]:
            if is_same_model(model, other):
                what = tr("{name} and {other} are the same model", name=model.folder.name, other=other.folder.name)
                raise UserError(what, model.folder, tr("name it once; its `weight` says how much it counts"))


def _describe_what_has_no_effect(
    settings: FuseModels, base: ModelFiles | None, models: Sequence[ModelFiles]
) -> Iterator[str]:
    """A sentence for each model that changes nothing: one of weight 0, or one with the weights of the base."""
    for fused, model in zip(settings.models, models, strict=True):
        if not any(number for values in fused.weights() for number in anchors(values)):
            yield tr("{name} has the weight 0 and changes nothing", name=model.folder.name)
        elif base is not None and settings.adds_changes and is_same_model(model, base):
            yield tr("{name} has the weights of the base and changes nothing", name=model.folder.name)


def check_same_shape(source: ModelFiles, models: Sequence[ModelFiles]) -> None:
    """Raise UserError for the first model whose tensors or whose configuration differ from those of `source`."""
    expected = llama_shapes(source.config)
    for model in models:
        names = {"name": model.folder.name, "other": source.folder.name}
        if model.vocabulary_rows != source.vocabulary_rows:
            what = tr(
                "{name} has {rows:,} embedding rows, but {other} has {expected:,}",
                rows=model.vocabulary_rows,
                expected=source.vocabulary_rows,
                **names,
            )
            raise UserError(what, model.folder, tr("fuse models that were trained from one base"))
        shapes = llama_shapes(model.config)
        for key in sorted(expected.keys() | shapes.keys()):
            if expected.get(key) == shapes.get(key):
                continue
            what = tr(
                "'{key}' has shape {shape} in {name}, but {expected} in {other}",
                key=key,
                shape=_show_shape(shapes.get(key)),
                expected=_show_shape(expected.get(key)),
                **names,
            )
            raise UserError(what, model.folder, tr("fuse models that were trained from one base"))
        for key in _SAME_CONFIG:
            value, other = _config_value(model, key), _config_value(source, key)
            if value != other:
                what = tr(
                    "{key} is {value} in {name}, but {expected} in {other}",
                    key=key,
                    value=value,
                    expected=other,
                    **names,
                )
                raise UserError(what, model.folder, tr("fuse models that were trained from one base"))


def _show_shape(shape: tuple[int, ...] | None) -> str:
    return tr("none") if shape is None else str(list(shape))


def _config_value(files: ModelFiles, key: str) -> Any:
    """A value of a configuration, as transformers 4 and 5 mean it: rotary settings in one form, defaults filled in."""
    config, rope = files.config, read_rope(files.config)
    theta = rope.pop("rope_theta")
    if key == "rope_theta":
        return float(theta)
    if key == "rope_scaling":
        return _fill_scaling(rope, config)
    defaults = {
        "hidden_act": "silu",
        "num_key_value_heads": config["num_attention_heads"],
        "head_dim": int(config["hidden_size"]) // int(config["num_attention_heads"]),
        "rms_norm_eps": read_number(config, "rms_norm_eps"),
    }
    value = config.get(key)
    return defaults.get(key, False) if value is None else value


def _fill_scaling(rope: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """A rotary scaling with the numbers that transformers takes for those that are left out."""
    kind = rope["rope_type"]
    if kind == "default":
        return {"rope_type": kind}
    filled = {"beta_fast": 32.0, "beta_slow": 1.0} if kind == "yarn" else {}
    if kind != "linear":  # the others count from the length of the training
        filled["original_max_position_embeddings"] = read_number(config, "max_position_embeddings")
    return {**filled, **rope}


def choose_tokenizer(source: ModelFiles, models: Sequence[ModelFiles]) -> tuple[Tokenizer, ChatTemplate | None]:
    """Return the tokenizer and the chat template of the fused model: of the first model with a template, or `source`.

    Raises:
        UserError: A model has another entry for a token id, or divides a text into other tokens.
    """
    tokenizer = Tokenizer.load(source.folder)
    entries = tokenizer.backend.get_vocab(with_added_tokens=True)
    chosen: ChatTemplate | None = None
    for model in models:
        other = Tokenizer.load(model.folder)
        differing = entries.items() ^ other.backend.get_vocab(with_added_tokens=True).items()
        if differing:
            entry, token_id = min(differing, key=lambda item: (item[1], item[0]))
            what = tr(
                "the tokenizers of {name} and {other} differ, first in '{entry}' (id {token_id})",
                name=model.folder.name,
                other=source.folder.name,
                entry=entry,
                token_id=token_id,
            )
            raise UserError(what, model.folder, tr("fuse models that were trained from one base"))
        _check_read_alike(tokenizer, other)
        if chosen is None:
            chosen = find_template(other)
    if chosen is None:
        chosen = find_template(tokenizer)
    return (tokenizer if chosen is None else chosen.tokenizer), chosen


def _check_read_alike(tokenizer: Tokenizer, other: Tokenizer) -> None:
    """Raise UserError if two tokenizers of equal entries divide a text otherwise: their merges or rules differ.

    Files that say the same in other words (of other versions of the library) pass.
    """
    texts = [*SAMPLE_TEXTS, *PROMPTS, *TEXTS_THAT_RULES_CHANGE]
    for text, ids, other_ids in zip(texts, tokenizer.encode_batch(texts), other.encode_batch(texts), strict=True):
        if ids != other_ids:
            what = tr(
                "the tokenizers of {name} and {other} divide {text!r} into other tokens",
                name=other.folder.name,
                other=tokenizer.folder.name,
                text=text[:40],
            )
            hint = tr("they have the same entries, but other merges or rules: put the tokenizer of one beside both")
            raise UserError(what, other.folder, hint)


def plan_tensors(
    settings: FuseModels, source: ModelFiles, base: ModelFiles | None, models: Sequence[ModelFiles], seed: int
) -> dict[str, FusedTensor]:
    """Decide weight and density of every tensor of every model.

    Raises:
        UserError: A rule names blocks that the models do not have, or fits no tensor.
    """
    shapes, layers = llama_shapes(source.config), int(source.config["num_hidden_layers"])
    used: set[tuple[int, int]] = set()
    tensors: dict[str, FusedTensor] = {}
    for name in shapes:
        layer = _layer_of(name)
        position = _position(layer, layers)
        parts = []
        for index, model in enumerate(settings.models):
            weight, density = model.weight, settings.density if model.density is None else model.density
            for number, rule in enumerate(model.rules):
                in_layers = rule.layers is None or (layer is not None and rule.layers[0] <= layer <= rule.layers[1])
                if in_layers and fnmatchcase(name, rule.tensors):
                    used.add((index, number))
                    weight = weight if rule.weight is None else rule.weight
                    density = density if rule.density is None else rule.density
                    break
            parts.append(
                Part(
                    models[index].tensors[name],
                    interpolate(weight, position),
                    1.0 if density is None else interpolate(density, position),
                )
            )
        entry = None if base is None else base.tensors[name]
        tensors[name] = FusedTensor(name, settings, entry, parts, seed)
    for index, model in enumerate(settings.models):
        for number, rule in enumerate(model.rules):
            if rule.layers is not None and rule.layers[1] >= layers:
                what = tr("there is no block {last}; the models have {count}", last=rule.layers[1], count=layers)
                raise UserError(what, f"models.{index}.rules.{number}.layers", tr("blocks are counted from 0"))
            if (index, number) not in used:
                what = tr("the rule fits no tensor, or an earlier rule fits all of them")
                raise UserError(
                    what, f"models.{index}.rules.{number}", tr("names look like {name}", name=list(shapes)[1])
                )
    return tensors


def interpolate(values: Gradient, position: float) -> float:
    """The value of a gradient at a position from 0 to 1: linear between its numbers, which are evenly spaced.

    values   [0, 1, 0]
    position 0 -> 0, 0.25 -> 0.5, 0.5 -> 1, 1 -> 0
    """
    numbers = anchors(values)
    scaled = position * (len(numbers) - 1)
    low = min(int(scaled), len(numbers) - 1)
    high = min(low + 1, len(numbers) - 1)
    return numbers[low] + (numbers[high] - numbers[low]) * (scaled - low)


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[2]) if parts[1] == "layers" else None


def _position(layer: int | None, layers: int) -> float:
    """Where a block is between the first (0) and the last (1); what is outside of the blocks is at 0."""
    if layer is None:
        return 0.0
    return layer / (layers - 1) if layers > 1 else 1.0


def verify(
    settings: FuseModels, written: ModelFiles, tensors: dict[str, FusedTensor], context: StageContext
) -> dict[str, Any]:
    """Read the saved model again: every tensor is finite, and a sample equals a second computation within rounding.

    The sample holds a tensor of each kind (embeddings, `q_proj`, ..., norms) from a random block, but none of more than
    `CHECKED_ENTRIES`.

    Returns:
        `checked_tensors`, `checked_entries`, and `max_error`, the largest difference relative to the largest entry of
        its tensor.

    Raises:
        RuntimeError: A saved tensor differs by more than rounding to the dtype of the file can cause.
    """
    kinds: dict[str, list[str]] = {}
    for name in tensors:
        layer = _layer_of(name)
        kinds.setdefault(name if layer is None else name.split(".", 3)[3], []).append(name)
    draw = random.Random(context.seed)
    sample = [draw.choice(names) for names in kinds.values()]
    sample = [name for name in sample if tensors[name].size <= CHECKED_ENTRIES]
    largest = 0.0
    for number, name in enumerate(sample, start=1):
        rows = read_rows(written.tensors[name])
        error = compare_with_reference(tensors[name], rows, torch.finfo(rows.dtype).eps)
        largest = max(largest, error)
        context.progress.update(number, len(sample), tr("tensors checked"))
    entries = sum(tensors[name].size for name in sample)
    return {"checked_tensors": len(sample), "checked_entries": entries, "max_error": largest}
