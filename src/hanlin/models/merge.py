"""The stage `merge`: merge an adapter into its base weights, and verify the saved model against the adapter.

PEFT computes the merged weights; this module verifies them, in memory and as read back from disk.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import PreTrainedModel

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.model import Merge
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.models.adapters import load_adapter_tokenizer
from hanlin.models.folder.adapter import check_adapter_folder, resolve_base
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.save import save_model
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
MAX_LOGIT_ERROR = 1e-4
"""Largest difference of logits, relative to the largest logit, that another summation order in float32 may cause."""
MAX_MEAN_KL = 0.02
"""Largest mean KL divergence, in nats per token, that rounding to 16 bits may cause; a wrong merge causes tenths."""


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

    Three checks: in float32 the merged weights have the logits of the adapter; the file holds exactly these weights,
    rounded to its dtype; the model loaded from the file has the logits of the adapter within rounding.

    Args:
        settings: The dtype to save in.
        inputs: `adapter`, the folder of the adapter.
        out: An empty folder.
        context: Reports progress.

    Returns:
        The metrics of the stage: the agreement with the adapter before and after rounding, and the part of the
        adapter's change that rounding removed.

    Raises:
        UserError: Adapter, base and tokenizer do not fit together, or the dtype would round the adapter away.
        RuntimeError: A check failed; the files are removed.
    """
    folder = inputs.path("adapter")
    files = check_adapter_folder(folder)
    base = check_model_folder(resolve_base(folder))
    dtype = base.dtype if settings.dtype == "base" else settings.dtype
    tokenizer = load_adapter_tokenizer(folder, base)
    template = find_template(tokenizer)
    prompts = render_prompts(tokenizer, template)

    progress = _StepProgress(context)
    adapted = load_model(folder, dtype="float32")
    expected = compute_logits(adapted, prompts)
    with cast(PeftModel, adapted).disable_adapter():
        effect = compare_logits(expected, compute_logits(adapted, prompts))
    progress.step()
    merged = merge_adapter(cast(PeftModel, adapted))
    exact = compare_logits(expected, compute_logits(merged, prompts))
    if not exact.max_abs_difference <= MAX_LOGIT_ERROR * exact.largest_logit:
        raise RuntimeError(f"the merged weights give other logits than the adapter: {exact}")
    progress.step()
    written = save_model(merged, out, tokenizer=tokenizer, template=template, dtype=dtype)
    try:
        rounding_loss = verify_weights(merged, written, base)
        del adapted, merged  # frees the memory before the saved model is loaded
        progress.step()
        rounded = verify_logits(expected, out, prompts)
    except Exception:
        for file in out.iterdir():  # a model that failed a check must not be used
            if file.is_file():
                file.unlink()
        raise
    progress.step()
    return {
        "dtype": dtype,
        "adapter_tensors": len(files.tensors),
        "max_abs_difference": rounded.max_abs_difference,
        "greedy_agreement": rounded.greedy_agreement,
        "mean_kl": rounded.mean_kl,
        "max_abs_difference_before_rounding": exact.max_abs_difference,
        "adapter_kl": effect.mean_kl,
        "rounding_loss": rounding_loss,
        "positions_compared": sum(len(prompt) for prompt in prompts),
        "tied_embeddings": bool(written.config["tie_word_embeddings"]),
    }


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
def compute_logits(model: PreTrainedModel, prompts: list[list[int]]) -> list[torch.Tensor]:
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


def verify_weights(merged: PreTrainedModel, written: ModelFiles, base: ModelFiles) -> float:
    """Verify that the saved tensors are the merged weights, rounded once to the dtype of the file.

    Args:
        merged: The merged model in float32.
        written: The saved folder.
        base: The folder of the base model.

    Returns:
        The rounding error relative to the adapter's change: the Frobenius norm of saved minus merged weights divided by
        that of merged minus base weights, over all tensors that the adapter changes.

    Raises:
        RuntimeError: A saved tensor differs from its rounded merged weights.
        UserError: Every change was rounded away, so that the file would be the base again.
    """
    state = merged.state_dict()
    squared_error = squared_change = 0.0
    equals_base = True
    for name, entry in written.tensors.items():
        with safe_open(str(entry.file), framework="pt") as file:
            stored = cast(torch.Tensor, file.get_tensor(name))
        exact, base_weight = state[name].detach().cpu(), _read_base_tensor(base, name).float()
        if not torch.equal(stored, exact.to(stored.dtype)):
            raise RuntimeError(f"{name} was saved with other values than it has in memory")
        if torch.equal(exact, base_weight):
            continue
        equals_base = equals_base and torch.equal(stored, base_weight.to(stored.dtype))
        squared_error += (stored.float() - exact).double().square().sum().item()
        squared_change += (exact - base_weight).double().square().sum().item()
    if squared_change and equals_base:
        raise UserError(
            tr(
                "rounding to {dtype} removes the whole adapter: the merged model would equal its base",
                dtype=written.dtype,
            ),
            "dtype",
            tr("set dtype: float32, or train longer"),
        )
    return math.sqrt(squared_error / squared_change) if squared_change else 0.0


def verify_logits(expected: list[torch.Tensor], folder: Path, prompts: list[list[int]]) -> LogitAgreement:
    """Load the saved model and compare its logits with those of the adapter.

    Args:
        expected: Logits of the adapter, for each prompt [length, vocab_size].
        folder: The saved model.
        prompts: Token ids of each prompt.

    Returns:
        The agreement of both.

    Raises:
        RuntimeError: They differ by more than rounding to the dtype of the file can cause.
    """
    model = load_model(folder, dtype="float32")
    agreement = compare_logits(expected, compute_logits(model, prompts))
    if check_model_folder(folder).dtype == "float32":
        matches = agreement.max_abs_difference <= MAX_LOGIT_ERROR * agreement.largest_logit
    else:
        matches = agreement.mean_kl <= MAX_MEAN_KL
    if not matches:
        raise RuntimeError(f"the saved model gives other logits than the adapter: {agreement}")
    return agreement


def _read_base_tensor(base: ModelFiles, name: str) -> torch.Tensor:
    """Read a tensor of the base; if it has no output head (tied embeddings), that is its embedding matrix."""
    entry = base.tensors.get(name) or base.tensors["model.embed_tokens.weight"]
    with safe_open(str(entry.file), framework="pt") as file:
        return cast(torch.Tensor, file.get_tensor(name if name in base.tensors else "model.embed_tokens.weight"))


class _StepProgress:
    """Reports the four steps of a merge: adapter loaded, merged, saved, loaded again."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._done = 0

    def step(self) -> None:
        self._done += 1
        self._context.progress.update(self._done, 4, tr("steps"), force=True)
