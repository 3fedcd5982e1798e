"""The stage `merge`: merge an adapter into its base weights, and verify the saved model against the adapter.

The merged weights are computed from the files, tensor by tensor (`hanlin.models.adapter_tensors`); PEFT, which has code
of its own for the same, is what the saved model is compared with.
"""

from __future__ import annotations

import math
import random
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.model import Merge
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.models.adapter_tensors import AdapterTensors, MergePlan, grow_base
from hanlin.models.adapters import has_tokenizer, load_adapter, load_adapter_tokenizer, warn_of_unknown_settings
from hanlin.models.dtypes import torch_dtype
from hanlin.models.folder.adapter import (
    check_adapter_folder,
    check_base,
    refuse_repeated,
    resolve_base,
    warn_of_other_base,
)
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import EMBEDDINGS, HEAD, ModelFiles
from hanlin.models.layerwise import can_be_layerwise, compute_logits_together, open_layerwise
from hanlin.models.load import load_model
from hanlin.models.safetensors import read_rows
from hanlin.models.save import keep_generation_settings, remove_files_on_failure, save_streamed
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

PROMPTS = (
    "你好，请介绍一下你自己。",
    "三加四等于几？请一步一步地算。",
    "用一句话说明什么是光合作用。",
    "把“春天来了，花都开了”译成英文。",
    "Who are you, and what can you do?",
    "What is seven times eight?",
    "Name three rivers and the countries they flow through.",
    "请写一个 Python 函数，返回列表中最大的数。",
)
"""Prompts whose logits are compared."""
TEXTS_THAT_RULES_CHANGE = (
    "Ｈａｎｌｉｎ　１２３４５６７，①㈱ﬁ ½",
    "  Äpfel, cafe\u0301 ÀÉ\u00a0IT'S  \n\n   done\t",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？人不知而不愠，不亦君子乎？",
    "臺灣的圖書館裡有許多舊書，每天早上九點開門。",
)
"""What normalizers change (width, case, accents, white space), and Chinese that a vocabulary has merges for."""
MAX_LOGIT_ERROR = 1e-4
"""Largest difference of logits, relative to the largest logit, that another summation order in float32 may cause."""
MAX_MEAN_KL = 0.02
"""Largest mean KL divergence, in nats per token, that rounding to 16 bits may cause; a wrong merge causes tenths. Twice
as much with experts: where two are nearly as likely, rounding chooses the other."""
LARGE_ROUNDING_LOSS = 0.5
"""From this on the rounding is told. After 12 small steps of DPO it was 0.92 in bfloat16: the merged model's mean KL
from the adapter was 0.0009 nats, where the adapter's whole effect was 0.0037."""
CHECKED_ROWS = 64
"""Rows of a tensor that are computed a second time."""


@dataclass(frozen=True, slots=True)
class LogitAgreement:
    """How closely the logits of two models agree for the same token ids, over all positions.

    Attributes:
        max_abs_difference: Largest absolute difference of two logits.
        greedy_agreement: Fraction of positions with the same most likely token.
        mean_kl: Mean of KL(expected ‖ actual), in nats per position.
        largest_logit: Largest absolute value of an expected logit.
        relative_difference: Root mean square of the differences, relative to that of the expected logits; each position
            is centered, since softmax takes no note of what all its logits share.
    """

    max_abs_difference: float
    greedy_agreement: float
    mean_kl: float
    largest_logit: float
    relative_difference: float = 0.0


def run(settings: Merge, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the merged model into `out` and verify it.

    Weights are read, changed and written piece by piece, so that memory does not depend on the size of the model. Two
    checks: a tensor of each kind, as read back, is what a second computation in float64 gives, rounded to the dtype of
    the file; and the model loaded from the file has the logits of the adapters in PEFT within rounding.

    Args:
        settings: The base, the factors, the dtype to save in, what is checked.
        inputs: `adapter`, the folders of the adapters, and `model`, if the base is named.
        out: An empty folder.
        context: Reports progress.

    Returns:
        The metrics of the stage: the agreement with the adapters after rounding, and the part of their change that
        rounding removed.

    Raises:
        UserError: Adapters, base and tokenizer do not fit together, or the dtype would round the adapters away.
        RuntimeError: A check failed; the files are removed.
    """
    folders = inputs.paths("adapter")
    files = [check_adapter_folder(folder) for folder in folders]
    refuse_repeated(files)
    named = inputs.optional_path("model")
    base = check_model_folder(_resolve(folders[0]) if named is None else named, experts=True)
    for folder in folders:
        check_base(folder, base)
        if named is not None:
            warn_of_other_base(folder, base)
    dtype = base.dtype if settings.dtype == "base" else settings.dtype
    if len(files) == 1 and settings.weights is None and settings.quantization is None:
        base = grow_base(base, files[0])
    tokenizer = choose_tokenizer(folders, base)
    template = find_template(tokenizer)
    tensors = [AdapterTensors(adapter, base) for adapter in files]
    plan = MergePlan(base, tensors, settings.weights, torch_dtype(dtype), settings.dtype == "base")
    total = sum(torch.Size(plan.shape(name)).numel() for name in plan.names)
    done, counting, unit = 0, threading.Lock(), tr("parameters")

    def make(name: str) -> Iterator[torch.Tensor]:
        nonlocal done
        for piece in plan.pieces(name):
            yield piece
            with counting:
                done += piece.numel()
                context.progress.update(done, total, unit)

    with remove_files_on_failure(out):
        written = save_streamed(
            base,
            out,
            make,
            tokenizer=tokenizer,
            template=template,
            dtype=dtype,
            dtypes={name: plan.dtype_of(name) for name in plan.names},
            tied=plan.tied,
            threads=torch.get_num_threads(),
            is_checked=True,
        )
        if tokenizer.folder != base.folder and not (tokenizer.folder / GENERATION_FILE).is_file():
            keep_generation_settings(base.folder, out, tokenizer)
        if plan.is_changed and plan.equals_base:
            what = tr(
                "rounding to {dtype} removes the whole adapter: the merged model would equal its base", dtype=dtype
            )
            raise UserError(what, "dtype", tr("set dtype: float32, or train longer"))
        if plan.rounding_loss > LARGE_ROUNDING_LOSS:
            share = f"{plan.rounding_loss:.0%}"
            context.progress.log(
                tr(
                    "rounding to {dtype} is {share} as large as what the adapter changes: dtype: float32 keeps it",
                    dtype=dtype,
                    share=share,
                )
            )
        for what in _describe_what_has_no_effect(plan):
            context.progress.log(what)
        checked = verify_weights(plan, written, context.seed)
        if settings.check == "logits":
            agreement = _compare_logits(settings, base, folders, out, render_prompts(tokenizer, template))
        else:
            agreement = {}
            for adapter in files:  # loading it into PEFT would
                warn_of_unknown_settings(adapter)
    return {
        "dtype": dtype,
        "adapters": len(files),
        "adapter_tensors": sum(len(adapter.tensors) for adapter in files),
        **agreement,
        "rounding_loss": plan.rounding_loss,
        "tensors_checked": checked,
        "tied_embeddings": bool(written.config["tie_word_embeddings"]),
    }


def _resolve(folder: Path) -> Path:
    try:
        return resolve_base(folder)
    except UserError as error:
        raise UserError(error.what, error.where, tr("name the base: model: FOLDER")) from error


def _describe_what_has_no_effect(plan: MergePlan) -> Iterator[str]:
    """A sentence for each adapter whose weight is 0, and one if the merged model is its base."""
    for adapter, factor in zip(plan.adapters, plan.factors or (), strict=False):
        if factor == 0:
            yield tr("{name} has the weight 0 and changes nothing", name=adapter.files.folder.name)
    if not plan.is_changed:
        yield tr("the merged model equals its base: no number was changed by what was merged (was it trained?)")


def choose_tokenizer(folders: Sequence[Path], base: ModelFiles) -> Tokenizer:
    """Load the tokenizer of several adapters together: that of the last one that has its own, or that of the base.

    Raises:
        UserError: An earlier adapter has a tokenizer with an entry that this one does not have under its id.
    """
    folders = [folder for folder in folders if has_tokenizer(folder)] or list(folders[-1:])
    tokenizer = load_adapter_tokenizer(folders[-1], base)
    for folder in folders[:-1]:
        entries = Tokenizer.load(folder).backend.get_vocab(with_added_tokens=True).items()
        differing = [(token_id, entry) for entry, token_id in entries if tokenizer.token_id(entry) != token_id]
        if differing:
            token_id, entry = min(differing)
            what = tr(
                "the tokenizers of {name} and {other} differ, first in '{entry}' (id {token_id})",
                name=folder.name,
                other=folders[-1].name,
                entry=entry,
                token_id=token_id,
            )
            raise UserError(what, folder, tr("name the adapter last whose tokenizer has all entries"))
    return tokenizer


def _compare_logits(
    settings: Merge, base: ModelFiles, folders: Sequence[Path], out: Path, prompts: list[list[int]]
) -> dict[str, Any]:
    """Compare the saved model with the adapters in PEFT."""
    before, expected = compute_adapter_logits(base, folders, settings.weights, prompts)
    effect, rounded = compare_logits(expected, before), verify_logits(expected, out, prompts)
    metrics: dict[str, Any] = {
        "max_abs_difference": rounded.max_abs_difference,
        "greedy_agreement": rounded.greedy_agreement,
        "mean_kl": rounded.mean_kl,
        "adapter_kl": effect.mean_kl,
        "positions_compared": sum(len(prompt) for prompt in prompts),
    }
    if settings.quantization is not None:
        quantized = load_model(base.folder, dtype="float32", quantization=settings.quantization)
        over_quantized = compute_logits(load_adapter(quantized, folders[0]), prompts)
        difference = compare_logits(over_quantized, expected)
        metrics["quantized_base"] = {
            "quantization": settings.quantization,
            "max_abs_difference": difference.max_abs_difference,
            "greedy_agreement": difference.greedy_agreement,
            "mean_kl": difference.mean_kl,
        }
    return metrics


def compute_adapter_logits(
    base: ModelFiles, folders: Sequence[Path], weights: Sequence[float] | None, prompts: list[list[int]]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Compute with PEFT the logits of the base, and those with the adapters.

    One adapter without a factor runs beside a dense base, block by block. Several are merged by PEFT, one after the
    other, or each into the base, of which the changes are added; the base is in memory in float32 then, as is one of
    experts.
    """
    paths = [path for folder in folders for path in check_adapter_folder(folder).config.get("modules_to_save") or ()]
    whole = {path.rpartition(".")[2] for path in paths}
    if len(folders) == 1 and weights is None and not can_be_layerwise(base, whole):
        model = load_model(base.folder, dtype="float32")
        before = compute_logits(model, prompts)
        return before, compute_logits(load_adapter(model, folders[0]), prompts)
    if len(folders) == 1 and weights is None:
        layerwise = open_layerwise(base, whole)
        before = compute_logits_together(layerwise, prompts)
        return before, compute_logits_together(load_adapter(layerwise, folders[0]), prompts)
    model = load_model(base.folder, dtype="float32")
    before = compute_logits(model, prompts)
    if weights is None:
        for folder in folders:
            model = merge_adapter(load_adapter(model, folder))
        return before, compute_logits(model, prompts)
    origin = {name: weight.clone() for name, weight in _with_head(model).items()}
    total = {name: weight.clone() for name, weight in origin.items()}
    for folder, factor in zip(folders, weights, strict=True):
        merged = _with_head(merge_adapter(load_adapter(load_model(base.folder, dtype="float32"), folder)))
        for name, weight in merged.items():
            total[name] += factor * (weight - origin[name])
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(total["lm_head.weight"].clone(), requires_grad=False)
    model.load_state_dict(total)
    return before, compute_logits(model, prompts)


def _with_head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    weights = {name: weight.detach() for name, weight in model.state_dict().items()}
    return {HEAD: weights[EMBEDDINGS], **weights}


def merge_adapter(adapted: PeftModel) -> PreTrainedModel:
    """Add the adapter to the base weights and remove it.

    The weights become `W + scaling · B A` for LoRA (with the magnitudes of DoRA, if it is used), in the dtype of W. An
    output head that was trained separately from tied embeddings stays a separate matrix.

    Raises:
        RuntimeError: PEFT left a tensor of the adapter unmerged.
    """
    with warnings.catch_warnings():
        # PEFT warns if a head was untied from its embeddings; saving compares the matrices themselves
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        merged = adapted.merge_and_unload(safe_merge=True)
    unmerged = [name for name, _ in merged.named_parameters() if "lora_" in name or "modules_to_save" in name]
    if unmerged:
        raise RuntimeError(f"not merged: {unmerged[:3]}")
    return cast(PreTrainedModel, merged).eval()


def render_prompts(tokenizer: Tokenizer, template: ChatTemplate | None) -> list[list[int]]:
    """Render `PROMPTS` to token ids: as chat prompts, or as plain text after the begin token without a template."""
    if template is not None:
        return [template.render([Message("user", question)], prompt=True).ids for question in PROMPTS]
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [begin + tokenizer.encode(question) for question in PROMPTS]


@torch.no_grad()
def compute_logits(model: PreTrainedModel | PeftModel, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Compute the logits of each prompt.

    Args:
        model: The model.
        prompts: Token ids of each prompt.

    Returns:
        For each prompt, float32 [length, vocab_size].

    Raises:
        RuntimeError: A logit is NaN or infinite.
    """
    logits = [model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].float() for prompt in prompts]
    if not all(torch.isfinite(prompt_logits).all() for prompt_logits in logits):
        raise RuntimeError("the model gives logits that are not finite")
    return logits


def compare_logits(expected: list[torch.Tensor], actual: list[torch.Tensor]) -> LogitAgreement:
    """Compare the logits of two models for the same prompts.

    Args:
        expected: For each prompt, [length, vocab_size].
        actual: The same of the other model.
    """
    max_difference = largest_logit = total_kl = squared_difference = squared_norm = 0.0
    same_tokens = positions = 0
    for expected_logits, actual_logits in zip(expected, actual, strict=True):
        logprobs = expected_logits.log_softmax(-1)
        total_kl += (logprobs.exp() * (logprobs - actual_logits.log_softmax(-1))).sum().item()
        difference = expected_logits - actual_logits
        max_difference = max(max_difference, difference.abs().max().item())
        squared_difference += difference.var(-1, correction=0).double().sum().item()
        squared_norm += expected_logits.var(-1, correction=0).double().sum().item()
        largest_logit = max(largest_logit, expected_logits.abs().max().item())
        same_tokens += int((expected_logits.argmax(-1) == actual_logits.argmax(-1)).sum())
        positions += len(expected_logits)
    return LogitAgreement(
        max_difference,
        same_tokens / positions,
        max(0.0, total_kl / positions),
        largest_logit,
        math.sqrt(squared_difference / squared_norm) if squared_norm else 0.0,
    )


def verify_weights(plan: MergePlan, written: ModelFiles, seed: int) -> int:
    """Verify that saved tensors are what a second computation gives: one of each kind, from a random block.

    Args:
        plan: What was merged.
        written: The saved folder.
        seed: Chooses the blocks.

    Returns:
        The number of tensors.

    Raises:
        RuntimeError: A saved tensor differs by more than rounding to its dtype can cause.
    """
    kinds: dict[str, list[str]] = {}
    for name in plan.names:
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    draw = random.Random(seed)
    for names in kinds.values():
        name = draw.choice(names)
        entry = plan.entry(name)
        start = draw.randrange(max(1, entry.shape[0] - CHECKED_ROWS + 1))
        stored = read_rows(written.tensors[name], start, start + CHECKED_ROWS).double()
        expected = _merge_in_float64(plan, name, start, start + len(stored))
        allowed = torch.finfo(plan.dtype_of(name)).eps * expected.abs() + 1e-6 * (float(expected.abs().max()) or 1.0)
        if not bool(((stored - expected).abs() <= allowed).all()):
            raise RuntimeError(f"{name} was saved with other values than merging gives")
    return len(kinds)


def _merge_in_float64(plan: MergePlan, name: str, start: int, stop: int) -> torch.Tensor:
    """Rows of a merged weight from the files alone: outer products of A and B, added one after the other."""
    origin = read_rows(plan.entry(name), start, stop).double()
    current, total = origin, origin.clone()
    for index, adapter in enumerate(plan.adapters):
        before = current if plan.factors is None else origin
        weight = before
        if name in adapter.whole:
            weight = read_rows(adapter.whole[name], start, stop).double()
        part = adapter.lora.get(name)
        if part is not None and part.a is not None and part.b is not None:
            a, b = part.select(read_rows(part.a).double(), read_rows(part.b).double(), plan.shape(name)[0])
            left, right = (a.T, b.T) if part.is_embedding else (b, a)
            weight = weight.clone()
            for column in range(left.shape[1]):
                weight.addr_(left[start:stop, column], right[column], alpha=part.scaling)
            if part.magnitude is not None:
                length = weight.square().sum(dim=1).sqrt()
                weight = weight / length[:, None] * read_rows(part.magnitude).double().view(-1)[start:stop, None]
        if name in adapter.biases:
            scaling = adapter.lora[name.removesuffix("bias") + "weight"].scaling
            weight = weight + scaling * read_rows(adapter.biases[name]).double()[start:stop]
        if name in adapter.rows:
            weight = weight.clone()
            ids, entry = adapter.rows[name]
            for row, values in zip(ids.tolist(), read_rows(entry).double(), strict=True):
                if start <= row < stop:
                    weight[row - start] = values
        current = weight
        total += (weight - origin) * (1.0 if plan.factors is None else plan.factors[index])
    return current if plan.factors is None else total


def verify_logits(expected: list[torch.Tensor], folder: Path, prompts: list[list[int]]) -> LogitAgreement:
    """Compute the saved model block by block and compare its logits with those of the adapter.

    Args:
        expected: Logits of the adapter, for each prompt [length, vocab_size].
        folder: The saved model.
        prompts: Token ids of each prompt.

    Returns:
        The agreement of both.

    Raises:
        RuntimeError: They differ by more than rounding to the dtype of the file can cause.
    """
    files = check_model_folder(folder, experts=True)
    has_experts = bool(files.config.get("num_local_experts"))
    if has_experts:
        actual = compute_logits(load_model(folder, dtype="float32"), prompts)
    else:
        actual = compute_logits_together(open_layerwise(files), prompts)
    agreement = compare_logits(expected, actual)
    if files.dtype == "float32":
        matches = agreement.max_abs_difference <= MAX_LOGIT_ERROR * agreement.largest_logit
    else:
        matches = agreement.mean_kl <= MAX_MEAN_KL * (2 if has_experts else 1)
    if not matches:
        raise RuntimeError(f"the saved model gives other logits than the adapter: {agreement}")
    return agreement
