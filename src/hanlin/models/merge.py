"""The stage `merge`: add an adapter to its base weights, and verify the saved model against the adapter.

PEFT computes the merged weights; this file verifies them, in memory and read back from disk.
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
from hanlin.models.folder.adapter import check_adapter_folder, resolve_base
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.file_names import TOKENIZER_FILE
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
MAX_LOGIT_ERROR = 1e-4
"""Largest difference of logits, relative to the largest logit, that float32 sums in another order can cause."""
MAX_MEAN_KL = 0.02
"""Largest mean KL divergence, in nats per token, that rounding to 16 bits may cause; a wrong merge causes tenths."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How closely two models agree: their logits for the same ids, over all positions."""

    max_abs_difference: float
    greedy_agreement: float
    mean_kl: float
    largest_logit: float


def run(settings: Merge, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the merged model into `out` and verify it.

    Three checks: in float32 the merged weights give the logits of the adapter; the file holds exactly those weights in
    its dtype; the model loaded from the file gives the logits of the adapter within rounding.

    Raises:
        UserError: Adapter, base and tokenizer do not fit together, or the dtype would round the adapter away.
        RuntimeError: A check failed; the files are removed.
    """
    folder = inputs.path("adapter")
    files = check_adapter_folder(folder)
    base = check_model_folder(resolve_base(folder))
    dtype = base.dtype if settings.dtype == "base" else settings.dtype
    tokenizer = Tokenizer.load(folder if (folder / TOKENIZER_FILE).is_file() else base.folder)
    _check_vocabulary(tokenizer, base, folder)
    template = find_template(tokenizer)
    prompts = render_prompts(tokenizer, template)

    progress = _StepProgress(context)
    adapted = load_model(folder, dtype="float32")
    expected = compute_logits(adapted, prompts)
    with cast(PeftModel, adapted).disable_adapter():
        effect = compare(expected, compute_logits(adapted, prompts))
    progress.step()
    merged = merge(cast(PeftModel, adapted))
    exact = compare(expected, compute_logits(merged, prompts))
    if not exact.max_abs_difference <= MAX_LOGIT_ERROR * exact.largest_logit:
        raise RuntimeError(f"the merged weights give other logits than the adapter: {exact}")
    progress.step()
    written = save_model(merged, out, tokenizer=tokenizer, template=template, dtype=dtype)
    try:
        lost = verify_weights(merged, written, base)
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
        "rounding_loss": lost,
        "positions_compared": sum(len(prompt) for prompt in prompts),
        "tied_embeddings": bool(written.config["tie_word_embeddings"]),
    }


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Add the adapter to the base weights and remove it.

    The weights become `W + scale · B A` for LoRA (with the magnitudes of DoRA, if it is used), in the dtype of W. An
    output head that was trained apart from tied embeddings stays a separate matrix.
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
    """Render a few prompts in both languages to ids: as chat prompts, or as plain text if there is no template."""
    if template is not None:
        return [template.render([Message("user", question)], prompt=True).ids for question in PROMPTS]
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [begin + tokenizer.encode(question) for question in PROMPTS]


@torch.no_grad()
def compute_logits(model: PreTrainedModel, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Compute the logits [length, vocabulary] of each prompt in float32. Raises RuntimeError if one is not finite."""
    logits = [model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].float() for prompt in prompts]
    if not all(torch.isfinite(matrix).all() for matrix in logits):
        raise RuntimeError("the model gives logits that are not finite")
    return logits


def compare(expected: list[torch.Tensor], actual: list[torch.Tensor]) -> Agreement:
    """Compare logits [length, vocabulary] of several prompts, over all positions.

    Returns:
        The largest difference, the share of positions with the same greedy token, the mean KL(expected ‖ actual) in
        nats, and the largest expected logit.
    """
    difference = largest = kl = 0.0
    same = positions = 0
    for logits, other in zip(expected, actual, strict=True):
        logprobs = logits.log_softmax(-1)
        kl += (logprobs.exp() * (logprobs - other.log_softmax(-1))).sum().item()
        difference = max(difference, (logits - other).abs().max().item())
        largest = max(largest, logits.abs().max().item())
        same += int((logits.argmax(-1) == other.argmax(-1)).sum())
        positions += len(logits)
    return Agreement(difference, same / positions, max(0.0, kl / positions), largest)


def verify_weights(merged: PreTrainedModel, written: ModelFiles, base: ModelFiles) -> float:
    """Verify that the saved tensors are the merged weights, rounded once to the dtype of the file.

    Args:
        merged: The merged model in float32.
        written: The saved folder.
        base: The folder of the base model.

    Returns:
        How much of the adapter's change was lost by rounding: |rounding| / |change|, with root sums of squares over the
        changed tensors.

    Raises:
        RuntimeError: A saved tensor differs from its rounded merged weights.
        UserError: Every change was rounded away, so that the file would be the base again.
    """
    state = merged.state_dict()
    lost = changed = 0.0
    equals_base = True
    for name, entry in written.tensors.items():
        with safe_open(str(entry.file), framework="pt") as file:
            stored = cast(torch.Tensor, file.get_tensor(name))
        exact, origin = state[name].detach().cpu(), _base_tensor(base, name).float()
        if not torch.equal(stored, exact.to(stored.dtype)):
            raise RuntimeError(f"{name} was saved with other values than it has in memory")
        if torch.equal(exact, origin):
            continue
        equals_base = equals_base and torch.equal(stored, origin.to(stored.dtype))
        lost += (stored.float() - exact).double().square().sum().item()
        changed += (exact - origin).double().square().sum().item()
    if changed and equals_base:
        raise UserError(
            tr(
                "rounding to {dtype} removes the whole adapter: the merged model would equal its base",
                dtype=written.dtype,
            ),
            "dtype",
            tr("set dtype: float32, or train longer"),
        )
    return math.sqrt(lost / changed) if changed else 0.0


def verify_logits(expected: list[torch.Tensor], folder: Path, prompts: list[list[int]]) -> Agreement:
    """Load the saved model and compare its logits with those of the adapter. Raises RuntimeError if they differ."""
    model = load_model(folder, dtype="float32")
    agreement = compare(expected, compute_logits(model, prompts))
    if check_model_folder(folder).dtype == "float32":
        matches = agreement.max_abs_difference <= MAX_LOGIT_ERROR * agreement.largest_logit
    else:
        matches = agreement.mean_kl <= MAX_MEAN_KL
    if not matches:
        raise RuntimeError(f"the saved model gives other logits than the adapter: {agreement}")
    return agreement


def _base_tensor(base: ModelFiles, name: str) -> torch.Tensor:
    """Read a tensor of the base; the output head of a tied base is its embeddings."""
    entry = base.tensors.get(name) or base.tensors["model.embed_tokens.weight"]
    with safe_open(str(entry.file), framework="pt") as file:
        return cast(torch.Tensor, file.get_tensor(name if name in base.tensors else "model.embed_tokens.weight"))


def _check_vocabulary(tokenizer: Tokenizer, base: ModelFiles, adapter: Path) -> None:
    if len(tokenizer) > base.vocabulary_rows:
        raise UserError(
            tr(
                "the adapter's tokenizer has {count} entries, its base only {vocabulary_rows} rows",
                count=len(tokenizer),
                vocabulary_rows=base.vocabulary_rows,
            ),
            adapter,
            tr("extend the vocabulary of the base first, then train on the result"),
        )


class _StepProgress:
    """Reports the four steps of a merge: adapter loaded, merged, saved, loaded again."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._done = 0

    def step(self) -> None:
        self._done += 1
        self._context.progress.update(self._done, 4, tr("steps"), force=True)
