"""A Llama model with random weights over a given tokenizer: work of the stage `InitModel`.

Owns the shapes and the draw of the first weights. Does not own training a tokenizer (`tokens/vocabulary`).
"""

from __future__ import annotations

import gzip
import math
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import template_of
from hanlin.config.settings.model import InitModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import say
from hanlin.models.adapters import count_parameters
from hanlin.models.save import save_model
from hanlin.tokenizer.file_names import CONFIG_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

PACKED_TOKENIZER = TOKENIZER_FILE + ".gz"
CHAT_VARIANT = "instruct"


def run(settings: InitModel, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Make the model folder in `out`. The weights depend on `job.seed`, the settings and the size of the tokenizer.

    The chat template is the one named in the settings, else the tokenizer folder's own, else none (a base model).
    Raises UserError when there is no tokenizer, or when the chat template does not fit it.
    """
    tokenizer = load_tokenizer(inputs.path("tokenizer"), context.scratch_folder(out) / "tokenizer")
    if settings.template is not None:
        template: ChatTemplate | None = ChatTemplate.named(settings.template, tokenizer)
    else:
        template = template_of(tokenizer)
    model = newborn(settings, len(tokenizer), context.seed)
    files = save_model(model, out, tokenizer=tokenizer, template=template, dtype=settings.dtype)
    matrices = 1 if settings.tie_embeddings else 2
    return {
        "parameters": count_parameters(model).total,
        "embedding_parameters": matrices * files.vocabulary_rows * settings.hidden_size,
        "vocabulary_entries": len(tokenizer),
        "vocabulary_rows": files.vocabulary_rows,
        "intermediate_size": settings.feed_forward,
        "stop_ids": list(template.stop_ids) if template is not None else [tokenizer.eos_id],
    }


def newborn(settings: InitModel, entries: int, seed: int) -> LlamaForCausalLM:
    """A model for `entries` tokens in float32, its weights drawn from `seed` alone in the order of the layers.

    Matrices are normal with deviation 0.02; those that write into the residual stream 1/√(2·layers) of it, so that its
    variance at birth does not grow with depth (Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners", section 2.3). Norms are one.
    """
    rows = -(-entries // settings.vocabulary_multiple) * settings.vocabulary_multiple
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=settings.hidden_size,
        intermediate_size=settings.feed_forward,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads or settings.heads,
        max_position_embeddings=settings.context_length,
        rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
        rms_norm_eps=1e-5,
        initializer_range=settings.initializer_range,
        tie_word_embeddings=settings.tie_embeddings,
        bos_token_id=None,  # the folder names them, from its tokenizer
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                nn.init.ones_(weight)
                continue
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            depth = math.sqrt(2 * settings.layers) if writes else 1.0
            weight.normal_(0.0, settings.initializer_range / depth, generator=source)
    return model.eval()


def load_tokenizer(folder: Path, unpacked: Path) -> Tokenizer:
    """The tokenizer of a folder, also where `tokenizer.json` is packed with gzip: it is unpacked into `unpacked` then.

    A packed tokenizer's small files may lie in a subfolder `instruct`, as Llama 3's two variants share one vocabulary.
    """
    packed = folder / PACKED_TOKENIZER
    if (folder / TOKENIZER_FILE).is_file() or not packed.is_file():
        return Tokenizer.load(folder)
    unpacked.mkdir(parents=True, exist_ok=True)
    beside = folder if (folder / CONFIG_FILE).is_file() else folder / CHAT_VARIANT
    for file in sorted(beside.glob("*")):
        if file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, unpacked / file.name)
    aside = unpacked / (TOKENIZER_FILE + ".writing")
    try:
        with gzip.open(packed, "rb") as source, aside.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            say("the packed tokenizer cannot be unpacked", "打包的分词器无法解压"),
            packed,
            say("copy or download it again", "请重新拷贝或下载"),
        ) from error
    os.replace(aside, unpacked / TOKENIZER_FILE)
    return Tokenizer.load(unpacked)
