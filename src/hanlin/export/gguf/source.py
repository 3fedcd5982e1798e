"""The model folder that a GGUF file is made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Ggml
from numpy.typing import NDArray

from hanlin.chat.packaged import pin_past_reasoning, without_generation_blocks
from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.core.i18n import tr
from hanlin.core.records import Message
from hanlin.export.gguf.imatrix_file import IMATRIX_FILES, ImportanceMatrix, read_imatrix
from hanlin.export.gguf.quant_types import QuantShape, requires_imatrix, tensor_type
from hanlin.export.gguf.quantize import tensor_bytes
from hanlin.export.gguf.tensors import GgufTensor, list_tensors, rope_parameters
from hanlin.export.gguf.vocab import GgufVocabulary, build_vocabulary
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.gguf import find_gguf_files
from hanlin.models.folder.layout import CONFIG, ModelFiles
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class GgufSource:
    """A model folder, read and checked: all that its GGUF files are made from."""

    files: ModelFiles
    tokenizer: Tokenizer
    imatrix: ImportanceMatrix | None = None

    @cached_property
    def vocabulary(self) -> GgufVocabulary:
        return build_vocabulary(self.tokenizer, self.files.vocabulary_rows)

    @cached_property
    def tensors(self) -> tuple[GgufTensor, ...]:
        return tuple(list_tensors(self.files))

    @property
    def experts(self) -> int:
        return int(self.files.config.get("num_local_experts") or 0)

    @cached_property
    def shape(self) -> QuantShape:
        config = self.files.config
        heads = int(config["num_attention_heads"])
        shared = int(config.get("num_key_value_heads") or heads)
        tied = bool(config.get("tie_word_embeddings"))
        return QuantShape(int(config["num_hidden_layers"]), heads, shared, tied, self.experts)

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: those of generation_config.json, else of config.json, the tokenizer's and the
        template's.
        """
        eos_ids = read_json(self.files.folder / GENERATION_FILE).get("eos_token_id")
        if eos_ids is None:
            eos_ids = self.files.config.get("eos_token_id")
        eos_ids = eos_ids if isinstance(eos_ids, list) else [eos_ids]
        end_ids = [int(token_id) for token_id in [self.tokenizer.eos_id, *eos_ids] if token_id is not None]
        return tuple(dict.fromkeys([*end_ids, *(self.template.stop_ids if self.template else ())]))

    @cached_property
    def template(self) -> ChatTemplate | None:
        return find_template(self.tokenizer)

    @cached_property
    def answer_end(self) -> int | None:
        """The id that the chat template ends an answer with; None without a template, and if the template writes
        `eos_token` elsewhere, which must stay what it is.
        """
        if self.template is None:
            return None
        end = answer_end(self.template)
        return None if end != self.tokenizer.eos_id and "eos_token" in self.template.source else end

    @cached_property
    def chat_template(self) -> str | None:
        """The folder's chat template in the Jinja that every program knows."""
        if self.template is None:
            return None
        source, form = without_generation_blocks(self.template.source), self.template.reasoning_form
        return pin_past_reasoning(source, form.keeps_past) if form.is_known else source

    def tensor_types(self, file_type: str) -> list[Ggml]:
        """The type of each tensor in a file of this type."""
        return [
            tensor_type(
                tensor.name,
                file_type,
                self.shape,
                tensor.shape[-1],
                len(tensor.shape),
                has_imatrix=self.imatrix is not None,
            )
            for tensor in self.tensors
        ]

    def imatrix_weights(self, tensor: GgufTensor) -> NDArray[np.float32] | None:
        """The importance of the columns of each part of a tensor [parts, columns]; None without a matrix."""
        if self.imatrix is None:
            return None
        return self.imatrix.weights(tensor.name, tensor.shape[-1], len(tensor.parts))

    def bits_per_weight(self, file_type: str) -> float:
        return round(8 * sum(self.tensor_sizes(file_type)) / self.weights, 3)

    def tensor_sizes(self, file_type: str) -> list[int]:
        """The bytes of each tensor in a file of this type."""
        pairs = zip(self.tensors, self.tensor_types(file_type), strict=True)
        return [tensor_bytes(kind, tensor.shape) for tensor, kind in pairs]


def answer_end(template: ChatTemplate) -> int | None:
    """The id that ends a plain answer of a template."""
    try:
        rendered = template.render([Message("user", "?"), Message("assistant", "!")])
    except UserError:
        return next(iter(template.turn_end_ids), None)
    return rendered.ids[rendered.loss_mask.rindex(1)]


def load_source(folder: Path, imatrix: Path | None = None) -> GgufSource:
    """Read and check a model folder.

    Args:
        folder: The model.
        imatrix: An importance matrix: a file, or an artifact of kind `imatrix`.

    Raises:
        UserError: It is no Llama model or one that llama.cpp cannot compute; the importance matrix cannot be read or
            belongs to another model.
    """
    if find_gguf_files(folder):
        what = tr("this is a GGUF file already")
        raise UserError(what, folder, tr("give the model folder that it was made from"))
    refuse_adapter(folder)
    files = check_model_folder(folder, experts=True)
    activation = files.config.get("hidden_act") or "silu"
    if activation != "silu":
        what = tr("llama.cpp's Llama has no activation {activation!r}", activation=activation)
        raise UserError(what, folder / CONFIG, tr("supported: silu"))
    matrix = None if imatrix is None else read_imatrix(_imatrix_file(imatrix))
    source = GgufSource(files, Tokenizer.load(folder), matrix)
    rope_parameters(files.config)
    source.vocabulary  # noqa: B018 an unknown tokenizer must show before anything is written
    if matrix is not None and not any(source.imatrix_weights(tensor) is not None for tensor in source.tensors):
        what = tr("the importance matrix has no tensor of this model")
        raise UserError(what, imatrix, tr("it was collected on another model"))
    return source


def _imatrix_file(path: Path) -> Path:
    """The matrix in an artifact of kind `imatrix`, or the file itself."""
    inside = [path / name for name in IMATRIX_FILES] if path.is_dir() else [path]
    return next((file for file in inside if file.is_file()), inside[0])


def check_imatrix(source: GgufSource, file_type: str) -> None:
    """Raise UserError if a tensor of a file of this type needs an importance matrix and has none."""
    for tensor, kind in zip(source.tensors, source.tensor_types(file_type), strict=True):
        if requires_imatrix(tensor.name, kind, file_type) and source.imatrix_weights(tensor) is None:
            what = tr(
                "{file_type} needs an importance matrix: '{name}' would be garbage without one",
                file_type=file_type,
                name=tensor.name,
            )
            raise UserError(what, "importance", tr("make one with `imatrix`"))


def count_names(names: Iterator[str]) -> dict[str, int]:
    """Count how often each name occurs; sorted by name."""
    return dict(sorted(Counter(names).items()))
