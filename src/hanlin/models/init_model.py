"""The stage `init_model`: a Llama model with random weights for a given tokenizer."""

from __future__ import annotations

import gzip
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.model import InitModel
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import open_atomic
from hanlin.core.i18n import tr
from hanlin.models.adapters import count_parameters
from hanlin.models.save import save_model
from hanlin.tokenizer.file_names import CONFIG_FILE, TOKENIZER_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

COMPRESSED_TOKENIZER = TOKENIZER_FILE + ".gz"
CHAT_VARIANT = "instruct"


def run(settings: InitModel, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model folder into `out` and return its sizes.

    The weights depend on `context.seed`, the settings and the size of the tokenizer alone. The chat template is the one
    named in the settings, else the tokenizer folder's own, else none (a base model).

    Raises:
        UserError: There is no tokenizer, or the chat template does not fit it.
    """
    tokenizer = load_tokenizer(inputs.path("tokenizer"), context.scratch_folder(out) / "tokenizer")
    if settings.template is not None:
        template: ChatTemplate | None = ChatTemplate.from_packaged(settings.template, tokenizer)
    else:
        template = find_template(tokenizer)
    model = build_random_model(settings, len(tokenizer), context.seed)
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


def build_random_model(settings: InitModel, vocab_size: int, seed: int) -> LlamaForCausalLM:
    """Build a float32 model whose weights are drawn from `seed`, in the order of the layers.

    Matrices are normal with standard deviation `settings.initializer_range` (0.02); those that write into the residual
    stream have 1/√(2·layers) of it, so that the variance at initialization does not grow with depth (Radford et al.
    2019, "Language Models are Unsupervised Multitask Learners", section 2.3). Norms are one.

    Args:
        settings: Shapes of the model.
        vocab_size: Number of tokens; the matrices have this rounded up to `settings.vocabulary_multiple` rows.
        seed: Seed of the weights.
    """
    rows = -(-vocab_size // settings.vocabulary_multiple) * settings.vocabulary_multiple
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
        bos_token_id=None,  # written with the folder, from its tokenizer
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                nn.init.ones_(weight)
                continue
            is_residual = name.endswith(("o_proj.weight", "down_proj.weight"))
            depth_scale = math.sqrt(2 * settings.layers) if is_residual else 1.0
            weight.normal_(0.0, settings.initializer_range / depth_scale, generator=generator)
    return model.eval()


def load_tokenizer(folder: Path, unpacked: Path) -> Tokenizer:
    """Load the tokenizer of a folder, even if its `tokenizer.json` is compressed with gzip.

    Args:
        folder: Tokenizer or model folder. The small files of a compressed tokenizer may be in a subfolder `instruct`,
            since the two variants of Llama 3 share one vocabulary.
        unpacked: Folder for the decompressed files; unused if nothing is compressed.

    Raises:
        UserError: The compressed file is damaged, or there is no tokenizer.
    """
    compressed = folder / COMPRESSED_TOKENIZER
    if (folder / TOKENIZER_FILE).is_file() or not compressed.is_file():
        return Tokenizer.load(folder)
    unpacked.mkdir(parents=True, exist_ok=True)
    config_folder = folder if (folder / CONFIG_FILE).is_file() else folder / CHAT_VARIANT
    for file in sorted(config_folder.glob("*")):
        if file.suffix in (".json", ".jinja"):
            shutil.copyfile(file, unpacked / file.name)
    try:
        with gzip.open(compressed, "rb") as source, open_atomic(unpacked / TOKENIZER_FILE, "wb") as target:
            shutil.copyfileobj(source, target)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(
            tr("the compressed tokenizer is damaged"),
            compressed,
            tr("copy or download it again"),
        ) from error
    return Tokenizer.load(unpacked)
