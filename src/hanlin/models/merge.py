"""An adapter is added into its base, and what was written is read again and compared. Work of the stage `Merge`.

Owns the proof. The sums themselves are PEFT's.
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
from hanlin.chat.tokenizer_files import template_of
from hanlin.config.settings.model import Merge
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.core.records import Message
from hanlin.models.folder.adapter import base_of, check_adapter_folder
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.load import load_model
from hanlin.models.save import save_model
from hanlin.tokenizer.file_names import TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

QUESTIONS = (
    "你好，请介绍一下你自己。",
    "三加四等于几？请一步一步地算。",
    "用一句话说明什么是光合作用。",
    "把“春天来了，花都开了”译成英文。",
    "Who are you, and what can you do?",
    "What is seven times eight?",
    "Name three rivers and the countries they flow through.",
    "请写一个 Python 函数，返回列表中最大的数。",
)
EXACT = 1e-4
"""Largest difference of logits, as a share of the largest logit, that float32 sums in another order make."""
ROUNDED = 0.02
"""Largest mean divergence, in nats a token, that weights rounded to 16 bits may make; a wrong merge makes tenths."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike two models answer: logits of the same ids, over all positions."""

    max_abs_difference: float
    same_top_token_share: float
    mean_kl: float
    largest_logit: float


def run(settings: Merge, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the merged model into `out` and prove it: in float32 the merged weights answer as the adapter does, the
    file holds exactly those weights in its number format, and the model that is read from the file answers alike.

    Raises UserError when adapter, base or tokenizer do not fit together, or when the number format would round the
    adapter away; RuntimeError when a proof fails.
    """
    folder = inputs.path("adapter")
    files = check_adapter_folder(folder)
    base = check_model_folder(base_of(folder))
    dtype = base.dtype if settings.dtype == "base" else settings.dtype
    tokenizer = Tokenizer.load(folder if (folder / TOKENIZER_FILE).is_file() else base.folder)
    _check_vocabulary(tokenizer, base, folder)
    template = template_of(tokenizer)
    prompts = rendered_prompts(tokenizer, template)

    done = _Steps(context)
    adapted = load_model(folder, dtype="float32")
    expected = logits_of(adapted, prompts)
    with cast(PeftModel, adapted).disable_adapter():
        effect = compare(expected, logits_of(adapted, prompts))
    done.step()
    merged = merge(cast(PeftModel, adapted))
    exact = compare(expected, logits_of(merged, prompts))
    if not exact.max_abs_difference <= EXACT * exact.largest_logit:
        raise RuntimeError(f"merged weights answer otherwise than the adapter: {exact}")
    done.step()
    written = save_model(merged, out, tokenizer=tokenizer, template=template, dtype=dtype)
    try:
        lost = prove_written(merged, written, base)
        del adapted, merged  # nothing else holds them: at no time are two whole models in memory
        done.step()
        rounded = prove_read(expected, out, prompts)
    except Exception:
        for file in out.iterdir():  # what failed its proof is not left for anyone to pick up
            if file.is_file():
                file.unlink()
        raise
    done.step()
    return {
        "dtype": dtype,
        "adapter_tensors": len(files.tensors),
        "max_abs_difference": rounded.max_abs_difference,
        "same_top_token_share": rounded.same_top_token_share,
        "mean_kl": rounded.mean_kl,
        "max_abs_difference_before_rounding": exact.max_abs_difference,
        "adapter_kl": effect.mean_kl,
        "change_lost_in_rounding": lost,
        "positions_compared": sum(len(prompt) for prompt in prompts),
        "tied_embeddings": bool(written.config["tie_word_embeddings"]),
    }


def merge(adapted: PeftModel) -> PreTrainedModel:
    """The base with the adapter added into its weights; no trace of the adapter is left.

    `W + scale · B A` for LoRA, with DoRA's magnitudes where it has them, in the number format of the weights. An output
    head trained away from tied embeddings stays a matrix of its own.
    """
    with warnings.catch_warnings():
        # PEFT says so when a head leaves its tied embeddings; saving looks at the matrices themselves
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        merged = adapted.merge_and_unload(safe_merge=True)
    left = [name for name, _ in merged.named_parameters() if "lora_" in name or "modules_to_save" in name]
    if left:
        raise RuntimeError(f"not merged: {left[:3]}")
    return cast(PreTrainedModel, merged).eval()


def rendered_prompts(tokenizer: Tokenizer, template: ChatTemplate | None) -> list[list[int]]:
    """Ids of a few prompts in both languages: as a conversation begins, or as plain text where there is no template."""
    if template is not None:
        return [template.render([Message("user", question)], prompt=True).ids for question in QUESTIONS]
    begin = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    return [begin + tokenizer.encode(question) for question in QUESTIONS]


@torch.no_grad()
def logits_of(model: PreTrainedModel, prompts: list[list[int]]) -> list[torch.Tensor]:
    """Logits [length, vocabulary] of each prompt, in float32. Raises RuntimeError when one is not finite."""
    found = [model(input_ids=torch.tensor([prompt]), use_cache=False).logits[0].float() for prompt in prompts]
    if not all(torch.isfinite(logits).all() for logits in found):
        raise RuntimeError("the model gives logits that are not finite")
    return found


def compare(expected: list[torch.Tensor], found: list[torch.Tensor]) -> Agreement:
    """Largest difference, share of equal top tokens, and mean KL(expected ‖ found) in nats over all positions."""
    difference = largest = divergence = 0.0
    same = positions = 0
    for one, other in zip(expected, found, strict=True):
        told = one.log_softmax(-1)
        divergence += (told.exp() * (told - other.log_softmax(-1))).sum().item()
        difference = max(difference, (one - other).abs().max().item())
        largest = max(largest, one.abs().max().item())
        same += int((one.argmax(-1) == other.argmax(-1)).sum())
        positions += len(one)
    return Agreement(difference, same / positions, max(0.0, divergence / positions), largest)


def prove_written(merged: PreTrainedModel, written: ModelFiles, base: ModelFiles) -> float:
    """Check that the file holds the merged weights, rounded once to its number format, and return how much of the
    adapter's change that rounding lost: |rounding| / |change|, root sums of squares over the changed tensors.

    Raises RuntimeError when a tensor differs, and UserError when every change was rounded away: then the file would be
    the base again.
    """
    state = merged.state_dict()
    lost = changed = 0.0
    base_again = True
    for name, entry in written.tensors.items():
        with safe_open(str(entry.file), framework="pt") as file:
            stored = cast(torch.Tensor, file.get_tensor(name))
        exact, origin = state[name].detach().cpu(), _base_tensor(base, name).float()
        if not torch.equal(stored, exact.to(stored.dtype)):
            raise RuntimeError(f"{name} was not written as it was merged")
        if torch.equal(exact, origin):
            continue
        base_again = base_again and torch.equal(stored, origin.to(stored.dtype))
        lost += (stored.float() - exact).double().square().sum().item()
        changed += (exact - origin).double().square().sum().item()
    if changed and base_again:
        raise UserError(
            say(
                f"{written.dtype} rounds the whole adapter away: the merged model would be its base",
                f"{written.dtype} 会把适配器的改动全部舍入掉：合并结果等于底座",
            ),
            "dtype",
            say("set dtype: float32, or train longer", "请设 dtype: float32，或继续训练"),
        )
    return math.sqrt(lost / changed) if changed else 0.0


def prove_read(expected: list[torch.Tensor], folder: Path, prompts: list[list[int]]) -> Agreement:
    """Read the merged model from its file and compare its logits with the adapter's. Raises RuntimeError."""
    model = load_model(folder, dtype="float32")
    agreement = compare(expected, logits_of(model, prompts))
    if check_model_folder(folder).dtype == "float32":
        alike = agreement.max_abs_difference <= EXACT * agreement.largest_logit
    else:
        alike = agreement.mean_kl <= ROUNDED
    if not alike:
        raise RuntimeError(f"the model read from the file answers otherwise than the adapter: {agreement}")
    return agreement


def _base_tensor(base: ModelFiles, name: str) -> torch.Tensor:
    """A tensor of the base; the output head of a tied base is its embeddings."""
    entry = base.tensors.get(name) or base.tensors["model.embed_tokens.weight"]
    with safe_open(str(entry.file), framework="pt") as file:
        return cast(torch.Tensor, file.get_tensor(name if name in base.tensors else "model.embed_tokens.weight"))


def _check_vocabulary(tokenizer: Tokenizer, base: ModelFiles, adapter: Path) -> None:
    if len(tokenizer) > base.vocabulary_rows:
        raise UserError(
            say(
                f"the adapter's tokenizer has {len(tokenizer)} entries, its base only {base.vocabulary_rows} rows",
                f"适配器的分词器有 {len(tokenizer)} 个词条，而底座只有 {base.vocabulary_rows} 行",
            ),
            adapter,
            say("extend the base's vocabulary first, then train on the result", "请先扩展底座词表，再在其上训练"),
        )


class _Steps:
    """Tells how far a merge is: adapter read, merged, written, read again."""

    def __init__(self, context: StageContext) -> None:
        self._context = context
        self._done = 0

    def step(self) -> None:
        self._done += 1
        self._context.progress.update(self._done, 4, say("steps", "步"), force=True)
