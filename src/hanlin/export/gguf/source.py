"""The model folder that a GGUF file is made from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType as Ggml
from numpy.typing import NDArray

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.core.errors import UserError
from hanlin.core.files import read_json
from hanlin.core.i18n import say
from hanlin.export.gguf.imatrix_file import MATRIX_FILES, Importance, read_importance
from hanlin.export.gguf.quant_types import Shape, needs_importance, tensor_type
from hanlin.export.gguf.quantize import stored_bytes
from hanlin.export.gguf.tensors import Tensor, rope_of, tensors_of
from hanlin.export.gguf.vocab import Vocabulary, read_vocabulary
from hanlin.models.folder.adapter import refuse_adapter
from hanlin.models.folder.checks import check_model_folder
from hanlin.models.folder.gguf import find_gguf_files
from hanlin.models.folder.layout import CONFIG, ModelFiles
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.tokenizer import Tokenizer

_GENERATION = re.compile(r"(?P<open>\{%[-+]?\s*)(?P<end>end)?generation(?P<close>\s*[-+]?%\})")


@dataclass(frozen=True)
class Source:
    """A model folder, read and checked: all that its GGUF files are made of."""

    files: ModelFiles
    tokenizer: Tokenizer
    importance: Importance | None = None

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return read_vocabulary(self.tokenizer, self.files.vocabulary_rows)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(tensors_of(self.files))

    @property
    def experts(self) -> int:
        return int(self.files.config.get("num_local_experts") or 0)

    @cached_property
    def shape(self) -> Shape:
        config = self.files.config
        heads = int(config["num_attention_heads"])
        shared = int(config.get("num_key_value_heads") or heads)
        tied = bool(config.get("tie_word_embeddings"))
        return Shape(int(config["num_hidden_layers"]), heads, shared, tied, self.experts)

    @property
    def weights(self) -> int:
        return sum(tensor.weights for tensor in self.tensors)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Every id that ends an answer: those of generation_config.json, else of config.json, the tokenizer's and the
        template's."""
        named = read_json(self.files.folder / GENERATION_FILE).get("eos_token_id")
        if named is None:
            named = self.files.config.get("eos_token_id")
        listed = named if isinstance(named, list) else [named]
        found = [int(number) for number in [self.tokenizer.eos_id, *listed] if number is not None]
        return tuple(dict.fromkeys([*found, *(self.template.stop_ids if self.template else ())]))

    @cached_property
    def template(self) -> ChatTemplate | None:
        return find_template(self.tokenizer)

    @cached_property
    def chat_template(self) -> str | None:
        """The folder's chat template without transformers' own `generation` block, which not every program knows.

        An `if true` takes its place: it writes the same text and trims the same white space around it.
        """
        if self.template is None:
            return None
        return _GENERATION.sub(
            lambda block: block["open"] + ("endif" if block["end"] else "if true") + block["close"],
            self.template.source,
        )

    def kinds(self, file_type: str) -> list[Ggml]:
        """The type of each tensor in a file of this type."""
        return [
            tensor_type(
                tensor.name,
                file_type,
                self.shape,
                tensor.shape[-1],
                len(tensor.shape),
                calibrated=self.importance is not None,
            )
            for tensor in self.tensors
        ]

    def weights_of(self, tensor: Tensor) -> NDArray[np.float32] | None:
        """What the importance matrix, where there is one, says of the columns of each of a tensor's parts."""
        if self.importance is None:
            return None
        return self.importance.weights(tensor.name, tensor.shape[-1], len(tensor.parts))

    def bits_per_weight(self, file_type: str) -> float:
        return round(8 * sum(self.sizes(file_type)) / self.weights, 3)

    def sizes(self, file_type: str) -> list[int]:
        """The bytes of each tensor in a file of this type."""
        pairs = zip(self.tensors, self.kinds(file_type), strict=True)
        return [stored_bytes(kind, tensor.shape) for tensor, kind in pairs]


def read_source(folder: Path, importance: Path | None = None) -> Source:
    """Raises UserError for a folder that is no Llama model, or one that llama.cpp has no equal of, and for an
    importance matrix that cannot be read or belongs to another model."""
    if find_gguf_files(folder):
        what = say("this is a GGUF file already", "这已经是 GGUF 文件")
        raise UserError(what, folder, say("name the model folder it was made from", "请指定转换前的模型目录"))
    refuse_adapter(folder)
    files = check_model_folder(folder, experts=True)
    activation = files.config.get("hidden_act", "silu")
    if activation != "silu":
        what = say(
            f"llama.cpp's Llama has no activation {activation!r}", f"llama.cpp 的 Llama 没有激活函数 {activation!r}"
        )
        raise UserError(what, folder / CONFIG, say("supported: silu", "支持：silu"))
    matrix = None if importance is None else read_importance(_matrix_file(importance))
    source = Source(files, Tokenizer.load(folder), matrix)
    rope_of(files.config)
    source.vocabulary  # noqa: B018 an unknown tokenizer must show before anything is written
    if matrix is not None and not any(source.weights_of(tensor) is not None for tensor in source.tensors):
        what = say("the importance matrix names no tensor of this model", "重要性矩阵中没有该模型的任何张量")
        raise UserError(what, importance, say("it was collected on another model", "它来自另一个模型"))
    return source


def _matrix_file(path: Path) -> Path:
    """The matrix in an artifact of kind `imatrix`, or the file itself."""
    inside = [path / name for name in MATRIX_FILES] if path.is_dir() else [path]
    return next((file for file in inside if file.is_file()), inside[0])


def check_importance(source: Source, file_type: str) -> None:
    """Raises UserError when a tensor of a file of this type needs an importance matrix and has none."""
    for tensor, kind in zip(source.tensors, source.kinds(file_type), strict=True):
        if needs_importance(tensor.name, kind, file_type) and source.weights_of(tensor) is None:
            what = say(
                f"{file_type} needs an importance matrix: '{tensor.name}' would be garbage without",
                f"{file_type} 需要重要性矩阵：否则“{tensor.name}”将失真严重",
            )
            raise UserError(what, "importance", say("make one with `imatrix`", "请先用 imatrix 阶段制作"))


def key_settings(names: Iterator[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))
