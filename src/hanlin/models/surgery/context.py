"""The stage `extend_context`: a longer context by scaled rotary position embeddings. The weights keep their bytes.

What each method does to the frequencies is computed here from the papers' equations, independently of transformers, and
compared with what transformers computes from the configuration that was written.
"""

from __future__ import annotations

import filecmp
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.tokenizer_files import find_template, save_tokenizer, special_token_ids
from hanlin.config.settings.surgery.context import ExtendContext
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, read_json, write_json, write_sorted_json
from hanlin.core.i18n import join_list, tr
from hanlin.models.dtypes import exact_dtype
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import CONFIG, INDEX, WEIGHTS, ModelFiles
from hanlin.models.folder.rope import context_length, original_context_length, read_rope, write_rope
from hanlin.models.load import load_model
from hanlin.models.merge import LogitAgreement, compare_logits, compute_logits, render_prompts
from hanlin.models.save import check_finite
from hanlin.models.sentencepiece_file import carry_model
from hanlin.tokenizer.file_names import CONFIG_FILE, GENERATION_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

MAX_FACTOR = 128.0
"""Largest scaling that anybody has shown to work: Llama 3 from 8K to 1M positions, by a larger base and training."""
MAX_FREQUENCY_ERROR = 1e-5
"""Largest relative difference of a frequency between float32 and float64."""
MAX_ANGLE_ERROR = 1e-6
"""Largest error of a sine or cosine for each position that an angle is away from zero, by float32's rounding."""
MAX_MEAN_KL = 1e-4
"""Largest mean KL divergence in nats that these differences cause in the logits."""
_OF_ONE_FACTOR = ("attention_factor", "mscale", "mscale_all_dim", "truncate")
"""Settings of YaRN that Hanlin does not write; the first three are chosen for one factor."""
LONG_ROW = 512
"""Tokens of the row that is compared beside the prompts."""


def run(settings: ExtendContext, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model with the longer context into `out` and verify it.

    Three checks: the weights keep their bytes; transformers computes the frequencies and the scaling of attention that
    the method's equations give, up to the last position; the model as written has the logits of the old weights with
    these frequencies. With `dynamic`, prompts must have the logits of the old model to the bit.

    Args:
        settings: The length and the method.
        inputs: `model`, the folder of the model.
        out: An empty folder.
        context: Reports progress.

    Returns:
        Lengths, rotary settings, what was compared, and how far short prompts differ from the old model.

    Raises:
        UserError: The length or the factor makes no sense for this model, it is scaled in another way already, or
            a weight is not finite.
        RuntimeError: A check failed.
    """
    folder = inputs.path("model")
    refuse_adapter(folder)
    base = check_model_folder(folder)
    rope = scale_rope(settings, base.config)
    check_finite(base)
    config = write_rope(base.config, rope)
    if settings.method != "dynamic":  # which starts from the length of the training
        config["max_position_embeddings"] = settings.context_length
    tokenizer = Tokenizer.load(folder)
    template = find_template(tokenizer)
    prompts = render_prompts(tokenizer, template)

    context.progress.update(0, 3, tr("steps"), force=True)
    out.mkdir(parents=True, exist_ok=True)
    with catch_full_disk(out):
        num_files = copy_weights(base, out)
        write_sorted_json(out / CONFIG, {**config, **special_token_ids(tokenizer, template)})
        save_tokenizer(tokenizer, template, out)
        carry_model([folder], tokenizer, out)
        tokenizer_config = read_json(out / CONFIG_FILE)
        if (tokenizer_config.get("model_max_length") or settings.context_length) < settings.context_length:
            write_json(out / CONFIG_FILE, {**tokenizer_config, "model_max_length": settings.context_length}, indent=2)
        generation = read_json(out / GENERATION_FILE)
        if generation.get("max_length") == context_length(base.config):  # prompt and answer together: all that it held
            write_sorted_json(out / GENERATION_FILE, {**generation, "max_length": settings.context_length})
    written = check_model_folder(out)
    context.progress.update(1, 3, tr("steps"), force=True)

    rows = [*prompts, _long_row(prompts, settings.context_length)]
    length = original_context_length(base.config)
    short = [prompt for prompt in prompts if len(prompt) <= length]
    expected, before = compute_expected_logits(base, rope, rows, settings.method, short)
    context.progress.update(2, 3, tr("steps"), force=True)
    model = cast(LlamaForCausalLM, load_model(out, dtype=exact_dtype(base)))
    positions = verify_frequencies(model, rope, written.config)
    after = compute_logits(model, short)
    effect = compare_logits(before, after) if short else None
    if settings.method == "dynamic" and not all(map(torch.equal, before, after)):
        raise RuntimeError("dynamic scaling changes the logits of prompts that the old context holds")
    agreement = compare_logits(expected, compute_logits(model, rows))
    if not agreement.mean_kl <= MAX_MEAN_KL:
        raise RuntimeError(f"the written model gives other logits than its method: {agreement}")
    context.progress.update(3, 3, tr("steps"), force=True)
    return {
        "context_length": {"before": context_length(base.config), "after": context_length(written.config)},
        "method": settings.method,
        **{name: value for name, value in rope.items() if name != "rope_type"},
        "attention_factor": attention_factor(rope),
        "positions_checked": positions,
        "files_equal": num_files,
        "max_abs_difference": agreement.max_abs_difference,
        "mean_kl": agreement.mean_kl,
        "positions_compared": sum(map(len, rows)),
        "short_text": _describe(effect),
    }


def _describe(effect: LogitAgreement | None) -> dict[str, float]:
    if effect is None:
        return {}
    return {
        "kl": effect.mean_kl,
        "greedy_agreement": effect.greedy_agreement,
        "max_abs_difference": effect.max_abs_difference,
    }


def scale_rope(settings: ExtendContext, config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings of the model with the longer context.

    Raises:
        UserError: The model has such a context already; the factor does not reach the length or is beyond what any
            method can do; a new base that is not larger; a model that is scaled by another method.
    """
    before, length, now = read_rope(config), original_context_length(config), context_length(config)
    wanted, method = settings.context_length, settings.method
    if wanted <= now:
        what = tr("a context of {wanted:,} tokens is no extension: the model has {now:,} already", wanted=wanted,
                  now=now)  # fmt: skip
        raise UserError(what, "context_length")
    if before["rope_type"] not in ("default", method) or (method == "theta" and before["rope_type"] != "default"):
        what = tr("the model's positions are scaled by {other} already, and {method} would undo that",
                  other=before["rope_type"], method=method)  # fmt: skip
        hint = tr("set method: {other}; its factor is counted from the {length:,} positions of the first training",
                  other=before["rope_type"], length=length)  # fmt: skip
        known = before["rope_type"] in ("yarn", "linear", "dynamic", "llama3")
        raise UserError(what, "method", hint if known else "")
    ratio = wanted / length
    factor = float(settings.factor or ratio)
    if factor < ratio and method != "theta":
        what = tr("a factor of {factor:g} reaches {reached:,} positions, fewer than the {wanted:,} of context_length",
                  factor=factor, reached=int(length * factor), wanted=wanted)  # fmt: skip
        raise UserError(what, "factor", tr("leave factor out, or set it to {ratio:g} or more", ratio=ratio))
    if max(factor, ratio) > MAX_FACTOR:
        what = tr("a context {factor:g} times that of the training makes no sense: no model was extended to more "
                  "than {limit:g} times", factor=max(factor, ratio), limit=MAX_FACTOR)  # fmt: skip
        hint = tr("{most:,} tokens at most; extend in steps, with training between them",
                  most=int(length * MAX_FACTOR))  # fmt: skip
        raise UserError(what, "factor" if factor > ratio else "context_length", hint)
    theta = float(before["rope_theta"])
    if method == "theta":
        size = head_dim(config)
        new_theta = settings.rope_theta or theta * ratio ** (size / (size - 2))
        if new_theta <= theta:
            what = tr("a base of {theta:g} is not larger than the model's, {old:g}", theta=new_theta, old=theta)
            raise UserError(what, "rope_theta", tr("a longer context needs a larger base; leave it out to compute it"))
        return {"rope_type": "default", "rope_theta": new_theta}
    _check_kept(settings, before)
    rope: dict[str, Any] = {"rope_type": method, "rope_theta": theta, "factor": factor}
    if method == "yarn":
        rope |= {"beta_fast": settings.beta_fast, "beta_slow": settings.beta_slow}
    if method == "llama3":
        rope |= {"low_freq_factor": settings.low_freq_factor, "high_freq_factor": settings.high_freq_factor}
    if method in ("yarn", "llama3"):
        rope["original_max_position_embeddings"] = length
    return rope


def _check_kept(settings: ExtendContext, before: Mapping[str, Any]) -> None:
    """Raise UserError if a model that is extended again has rotary settings that the new ones would lose."""
    for name in ("beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"):
        if before.get(name) is not None and float(before[name]) != getattr(settings, name):
            what = tr("the model's {name} is {value:g}, not {other:g}", name=name, value=float(before[name]),
                      other=getattr(settings, name))  # fmt: skip
            raise UserError(what, name, tr("set {name}: {value:g}", name=name, value=float(before[name])))
    lost = [name for name in _OF_ONE_FACTOR if before.get(name) is not None]
    if lost:
        what = tr("the model's rotary settings have {names}, which belong to its factor", names=join_list(lost))
        raise UserError(what, "method", tr("extend the model that it was made from"))


def head_dim(config: Mapping[str, Any]) -> int:
    """The width of an attention head."""
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def rope_frequencies(rope: Mapping[str, Any], size: int, trained_length: int, length: int) -> NDArray[np.float64]:
    """By how much each pair of dimensions turns from one position to the next, in radians.

    With θ_i = base^(-2i/d):

    - linear: θ_i / factor (Chen et al. 2023, arXiv:2306.15595, equation 4);
    - dynamic: θ_i of the base times (factor · n / L - factor + 1)^(d/(d-2)) for n > L tokens, θ_i up to L;
    - yarn: θ_i / factor where the wave turns fewer than beta_slow times over L, θ_i where more than beta_fast times,
      between them linear in i (Peng et al. 2023, arXiv:2309.00071, section 3.2; bounds rounded outward as in its code);
    - llama3: the same idea, linear in the number of turns, between low_freq_factor and high_freq_factor.

    Args:
        rope: The rotary settings, see `read_rope`.
        size: d, the width of a head.
        trained_length: L, the length that the model was trained for.
        length: n, the number of tokens of the row.

    Returns:
        [d / 2].
    """
    base, kind = float(rope["rope_theta"]), rope["rope_type"]
    factor = float(rope.get("factor", 1.0))
    if kind == "dynamic" and length > trained_length:
        base *= (factor * length / trained_length - factor + 1) ** (size / (size - 2))
    index = np.arange(0, size, 2, dtype=np.float64)
    frequencies = base ** (-index / size)
    turns = trained_length * frequencies / (2 * math.pi)
    if kind == "linear":
        return frequencies / factor
    if kind == "yarn":
        # the dimension, not rounded, that turns so often over the trained length
        low, high = (size * math.log(trained_length / (2 * math.pi * float(rope[name]))) / (2 * math.log(base))
                     for name in ("beta_fast", "beta_slow"))  # fmt: skip
        low, high = max(math.floor(low), 0), min(math.ceil(high), size - 1)
        scaled = np.clip((index / 2 - low) / max(high - low, 1e-3), 0, 1)
    elif kind == "llama3":
        low_turns, high_turns = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        scaled = np.clip((high_turns - turns) / (high_turns - low_turns), 0, 1)
    else:
        scaled = np.zeros_like(frequencies)
    return frequencies * (1 - scaled) + frequencies / factor * scaled


def attention_factor(rope: Mapping[str, Any]) -> float:
    """What sines and cosines are multiplied by: 0.1 · ln(factor) + 1 for yarn (section 3.4), else 1."""
    return 0.1 * math.log(float(rope["factor"])) + 1.0 if rope["rope_type"] == "yarn" else 1.0


def copy_weights(base: ModelFiles, out: Path) -> int:
    """Copy the weight files and compare the copies byte by byte; returns how many there are.

    Raises:
        RuntimeError: A copy differs.
    """
    files = sorted({entry.file for entry in base.tensors.values()})
    index = base.folder / INDEX
    is_indexed = index.is_file() and files != [base.folder / WEIGHTS]
    for file in [*files, *([index] if is_indexed else [])]:
        shutil.copyfile(file, out / file.name)
        if not filecmp.cmp(file, out / file.name, shallow=False):
            raise RuntimeError(f"{out / file.name} differs from its source")
    return len(files)


def _long_row(prompts: list[list[int]], limit: int) -> list[int]:
    """The prompts one after the other, again and again, `LONG_ROW` tokens or as many as the context holds."""
    ids = [token_id for prompt in prompts for token_id in prompt]
    length = min(LONG_ROW, limit)
    return (ids * -(-length // len(ids)))[:length]


def compute_expected_logits(
    base: ModelFiles, rope: Mapping[str, Any], rows: list[list[int]], method: str, short: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits of the old weights with the frequencies of the method's equations, and of the old model as it is.

    Args:
        base: The old model.
        rope: The new rotary settings.
        rows: Token ids of each row to compute with the new frequencies.
        method: The method; with `dynamic` each row has its own frequencies.
        short: Token ids of each row to compute with the old model.
    """
    model = cast(LlamaForCausalLM, load_model(base.folder, dtype=exact_dtype(base)))
    before = compute_logits(model, short)
    rotary, size, trained = (
        cast(Any, model.model.rotary_emb),
        head_dim(base.config),
        original_context_length(base.config),
    )
    rotary.rope_type = "default"  # its frequencies stay as they are set
    rotary.attention_scaling = attention_factor(rope)
    expected = []
    for row in rows:
        frequencies = rope_frequencies(rope, size, trained, len(row))
        rotary.inv_freq = torch.from_numpy(frequencies).to(rotary.inv_freq)
        expected += compute_logits(model, [row])
    return expected, before


def verify_frequencies(model: LlamaForCausalLM, rope: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Compare the sines and cosines of a loaded model with the method's equations, from the first position to the last.

    Returns:
        The last position that was compared.

    Raises:
        RuntimeError: A frequency, a sine or a cosine differs by more than rounding can cause.
    """
    length, trained = context_length(config), original_context_length(config)
    positions = sorted(
        {0, 1, trained // 2, trained - 1, min(trained, length - 1), (trained + length) // 2 - 1, length - 1}
    )
    ids = torch.tensor([positions])
    rotary = cast(Any, model.model.rotary_emb)
    cos, sin = (part[0].double().numpy() for part in rotary(torch.zeros(1, dtype=torch.float32), ids))
    expected = rope_frequencies(rope, head_dim(config), trained, length)
    actual = rotary.inv_freq.double().numpy()
    if not np.allclose(actual, expected, rtol=MAX_FREQUENCY_ERROR, atol=0):
        raise RuntimeError("transformers computes other rotary frequencies than the method's equations give")
    angles = np.outer(positions, np.concatenate([actual, actual]))
    scale = attention_factor(rope)
    for values, exact in ((cos, np.cos(angles)), (sin, np.sin(angles))):
        if not (np.abs(values - scale * exact) <= MAX_ANGLE_ERROR * (10 + np.array(positions)[:, None])).all():
            raise RuntimeError("transformers computes other sines and cosines than the method's equations give")
    return positions[-1]
