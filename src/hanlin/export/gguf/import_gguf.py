"""The stage `import_gguf`: a model folder from a GGUF file, compared with what llama.cpp makes of the file."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hanlin.chat.template import ChatTemplate
from hanlin.chat.tokenizer_files import find_template
from hanlin.config.settings.surgery.import_gguf import ImportGguf
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.files import catch_full_disk, check_free_space
from hanlin.core.i18n import tr
from hanlin.core.process import BoundsExceededError, run_bounded
from hanlin.export.gguf import verify
from hanlin.inference.backends.llama_cpp import quants
from hanlin.inference.loading import check_tokenizer_beside, find_tokenizer
from hanlin.models.dtypes import exact_dtype, torch_dtype
from hanlin.models.folder.checks import check_vocabulary_size
from hanlin.models.folder.gguf import choose_gguf, find_gguf_files, list_gguf_parts, total_bytes
from hanlin.models.folder.layout import ModelFiles
from hanlin.models.folder.shapes import llama_shapes
from hanlin.models.layouts.gguf import ROPE_FACTORS, GgufTensorEntry, GgufWeights, read_gguf_tensors
from hanlin.models.layouts.gguf_config import build_gguf_config
from hanlin.models.load import load_model
from hanlin.models.merge import LogitAgreement, compare_logits, compute_logits
from hanlin.models.save import describe_config, keep_generation_settings, remove_files_on_failure, save_stored
from hanlin.parity import check as parity
from hanlin.parity.cases import make_cases
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.generation_config import GREEDY, read_sampling_params, write_sampling_params
from hanlin.tokenizer.gguf_metadata import read_gguf_metadata
from hanlin.tokenizer.tokenizer import Tokenizer

_LOG = logging.getLogger(__name__)
_PLAIN_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_MAX_KL, _MAX_RELATIVE_DIFFERENCE = 0.1, 0.25
"""How far logits may be from those of llama.cpp in a file of few bits, for which it rounds activations too: the mean
divergence in nats, and the root mean square of the difference relative to the logits. SmolLM2-135M in Q4_1: 0.008 and
0.046."""
_MAX_RELATIVE_DIFFERENCES = {"F32": 1e-4, "F16": 1e-2, "BF16": 5e-2, "Q8_0": 5e-2}
_BFLOAT16_KL, _BFLOAT16_DIFFERENCE = 2e-2, 5e-2
"""What rounding the weights to bfloat16 may add. With experts both limits are twice as high: where two are nearly as
likely, rounding chooses the other (four experts of random weights in Q8_0: a relative difference of 0.084)."""
_MAX_DIFFERING_SHARE = 0.1
"""Of the texts, how many llama.cpp may read otherwise than a tokenizer that lies beside the file: entries that one of
both cannot build."""
_MEMORY, _SECONDS, _BYTES_PER_SECOND = 8 << 30, 300, 5_000_000
"""What llama.cpp gets for the reference: address space besides that of the file, and time for a slow disk and core."""


def run(settings: ImportGguf, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Write the model folder into `out`, reload it, and compare ids and logits with those of llama.cpp.

    Args:
        settings: Which file, and the dtype.
        inputs: `gguf`, the file or the folder that it is in.
        out: An empty folder.
        context: Reports progress.

    Returns:
        The types and bits per weight of the file, what rounding to the dtype changed, and how the model that was
        written agrees with the file in llama.cpp.

    Raises:
        UserError: The file is not of a Llama model, is damaged, or its tokenizer cannot be rebuilt.
        RuntimeError: The model that was written gives other logits than the file; the files are removed.
    """
    location = inputs.path("gguf")
    candidates = find_gguf_files(location)
    if not candidates:
        raise UserError(tr("there is no GGUF file here"), location, tr("name a .gguf file or a folder of .gguf files"))
    path = choose_gguf(candidates, location, settings.file)
    if location.is_file() and len(list_gguf_parts(location)) > 1:  # the others would not be hashed with it
        what = tr("this is one of {count} files of a model", count=len(list_gguf_parts(location)))
        raise UserError(what, location, tr("name the folder that holds them all"))
    source = open_gguf(path, settings.dtype)
    description, dtype, tokenizer = source.description, source.dtype, Tokenizer.load(find_tokenizer(path))
    if tokenizer.folder != path:
        check_tokenizer_beside(path, tokenizer)
    check_vocabulary_size(len(tokenizer), description["vocab_size"], tokenizer.folder)

    reference = _Reference.compute(path, tokenizer, int(description["max_position_embeddings"]), out, context)
    _report(context, 1)
    check_free_space(out, source.num_weights * torch_dtype(dtype).itemsize)
    with remove_files_on_failure(out):
        with catch_full_disk(out):
            files = save_stored(
                {**description, "dtype": dtype, "torch_dtype": dtype},
                source.weights,
                out,
                dtype=dtype,
                tokenizer=tokenizer,
                template=find_template(tokenizer),
            )
            if not (tokenizer.folder / GENERATION_FILE).is_file():  # which else counts, as for every engine
                keep_generation_settings(path, out, tokenizer)
                if (sampling := read_sampling_params(path)) != GREEDY:
                    write_sampling_params(out, sampling)
        _report(context, 2)
        tokenizer_metrics = reference.compare_ids(Tokenizer.load(out), tokenizer.folder)
        agreement = reference.compare_logits(files, source.file_type, dtype)
        _report(context, 3)
        parity_metrics = _check_template(out, path)
        _report(context, 4)
    if source.file_type not in _PLAIN_TYPES:
        what = tr(
            "{type}, {bits:.2f} bits per weight: the weights are what the file holds, not what the original model had",
            type=source.file_type,
            bits=source.bits_per_weight,
        )
        _LOG.warning("%s: %s", path, what)
    return {
        "type": source.file_type,
        "bits_per_weight": round(source.bits_per_weight, 3),
        "tensors": dict(Counter(entry.kind for entry in source.entries.values()).most_common()),
        "weights": source.num_weights,
        "dtype": dtype,
        "rounding_loss": source.weights.rounding_loss,
        "kl": agreement.mean_kl,
        "same_top_token": agreement.greedy_agreement,
        "max_abs_difference": agreement.max_abs_difference,
        "relative_difference": agreement.relative_difference,
        "positions": sum(map(len, reference.prompts)),
        "tied_embeddings": bool(description["tie_word_embeddings"]),
        "tokenizer": tokenizer_metrics,
        **parity_metrics,
    }


@dataclass(frozen=True, slots=True)
class GgufModel:
    """The model in a GGUF file.

    Attributes:
        entries: The tensors of the file.
        description: What its `config.json` will say.
        weights: Its weights by the names of a model folder.
        file_type: The type of most of them.
        dtype: What they are rounded to.
    """

    entries: Mapping[str, GgufTensorEntry]
    description: dict[str, Any]
    weights: GgufWeights
    file_type: str
    dtype: str

    @property
    def bits_per_weight(self) -> float:
        """How many bits of the file a weight takes."""
        entries = self.entries.values()
        return 8 * sum(entry.size for entry in entries) / sum(entry.weights for entry in entries)

    @property
    def num_weights(self) -> int:
        """How many weights the model has."""
        return sum(math.prod(shape) for shape in llama_shapes(self.description).values())


def open_gguf(path: Path, dtype: str = "auto") -> GgufModel:
    """Read all of a GGUF file but its weights, and check that these are those of a Llama model.

    Args:
        path: The file.
        dtype: What the weights are rounded to; `auto` as in `ImportGguf`.

    Raises:
        UserError: It is damaged, or of another kind of model.
    """
    metadata = read_gguf_metadata(path)
    entries = read_gguf_tensors(metadata)
    config = build_gguf_config(metadata, entries, _read_row)
    description = describe_config(config, tied=bool(config.tie_word_embeddings))
    file_type = _main_type(entries)
    dtype = _PLAIN_TYPES.get(file_type, "bfloat16") if dtype == "auto" else dtype
    shapes = llama_shapes(description)
    weights = GgufWeights(path, entries, shapes, description, torch_dtype(dtype), quants.dequantize_rows)
    return GgufModel(entries, description, weights, file_type, dtype)


def _report(context: StageContext, done: int) -> None:
    context.progress.update(done, 4, tr("steps"), force=True)


def _read_row(entry: GgufTensorEntry) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A tensor of one row as float32."""
    stored = np.fromfile(entry.file, np.uint8, entry.size, offset=entry.start)
    return quants.dequantize_rows(entry.kind_id, stored.reshape(1, -1), entry.weights)[0]


def _main_type(entries: Mapping[str, GgufTensorEntry]) -> str:
    """The type of most of the weights."""
    sizes: Counter[str] = Counter()
    for name, entry in entries.items():
        if name != ROPE_FACTORS:
            sizes[entry.kind] += entry.weights
    return sizes.most_common(1)[0][0]


def _check_template(folder: Path, path: Path) -> dict[str, Any]:
    """Compare what every program makes of conversations with the folder and the file; a difference is a warning, since
    it is in the file.
    """
    if find_template(Tokenizer.load(folder)) is None:
        return {}
    template = ChatTemplate.load(folder)
    try:
        results = parity.check(template, parity.backends_for(folder, [path]), make_cases())
    except UserError as error:  # it takes none of the conversations
        _LOG.warning("%s", error)
        return {}
    for result in results:
        if not result.passed:
            _LOG.warning("%s", parity.parity_error(result, path))
    return {"parity": parity.summarize(results)}


class _Reference:
    """What llama.cpp makes of texts with the file: the ids of all, the logits of some."""

    def __init__(self, texts: Sequence[str], reply: Mapping[str, Any], logits: list[torch.Tensor]) -> None:
        self._texts, self._ids, self._logits = texts, reply["ids"], logits
        self.prompts: list[list[int]] = reply["prompts"]

    @classmethod
    def compute(
        cls, path: Path, tokenizer: Tokenizer, context_length: int, out: Path, context: StageContext
    ) -> _Reference:
        """Ask llama.cpp in a child process. Raises UserError if it cannot load the file, or ends over it."""
        texts = [*verify.TEXTS, *verify.vocabulary_as_text(tokenizer)]
        logits_file = context.scratch_folder(out) / "reference.npy"
        request = {
            "file": str(path),
            "texts": texts,
            "compared": verify.COMPARED_TEXTS,
            "begin": [] if tokenizer.bos_id is None else [tokenizer.bos_id],
            "length": min(verify.COMPARED_TOKENS, context_length),
            "logits": str(logits_file),
        }
        size = total_bytes(path)
        try:
            reply = run_bounded(
                "hanlin.inference.backends.llama_cpp.reference:compute_reference",
                request,
                seconds=_SECONDS + size // _BYTES_PER_SECOND,
                memory=_MEMORY + 3 * size,
            )
        except (BoundsExceededError, RuntimeError) as error:
            what = tr("llama.cpp ended over this file: {error}", error=error)
            hint = tr("the file may be damaged or of a model that llama.cpp does not know, or memory ran out")
            raise UserError(what, path, hint) from error
        if "refusal" in reply:
            raise UserError(reply["refusal"], path, tr("copy it again from its source"))
        rows = torch.from_numpy(np.load(logits_file))
        logits_file.unlink()
        return cls(texts, reply, list(rows.split([len(prompt) for prompt in reply["prompts"]])))

    def compare_ids(self, tokenizer: Tokenizer, origin: Path) -> dict[str, int]:
        """Compare the ids of every text.

        Args:
            tokenizer: As it was written.
            origin: Where it comes from: the GGUF file, or the folder that it is in.

        Raises:
            UserError: A text gets other ids: any, if the tokenizer is the file's own; more than a few, if it is not.
        """
        pairs = zip(self._texts, tokenizer.encode_batch(self._texts), self._ids, strict=True)
        differing = [text for text, ids, reference_ids in pairs if ids != reference_ids]
        if differing and (origin.is_file() or len(differing) > _MAX_DIFFERING_SHARE * len(self._texts)):
            what = tr(
                "{count} of {total} texts get other ids than in llama.cpp, such as {text!r}",
                count=len(differing),
                total=len(self._texts),
                text=differing[0][:40],
            )
            raise UserError(what, origin, tr("put the tokenizer.json of the model beside the GGUF file"))
        if differing:
            what = tr("{count} of {total} texts get other ids", count=len(differing), total=len(self._texts))
            _LOG.warning("%s: %s", origin, what)
        return {
            "texts": len(self._texts),
            "ids": sum(map(len, self._ids)),
            "texts_tokenized_differently": len(differing),
            "vocabulary": len(tokenizer),
        }

    def compare_logits(self, files: ModelFiles, file_type: str, dtype: str) -> LogitAgreement:
        """Compare the logits of the written model. Raises RuntimeError if they differ by more than rounding."""
        model = load_model(files.folder, dtype=exact_dtype(files))
        agreement = compare_logits(self._logits, compute_logits(model, self.prompts))
        max_kl = verify.MAX_KL.get(file_type, _MAX_KL)
        max_difference = _MAX_RELATIVE_DIFFERENCES.get(file_type, _MAX_RELATIVE_DIFFERENCE)
        if dtype != _PLAIN_TYPES.get(file_type, "float32"):
            max_kl, max_difference = max_kl + _BFLOAT16_KL, max_difference + _BFLOAT16_DIFFERENCE
        if files.config.get("num_local_experts"):
            max_kl, max_difference = 2 * max_kl, 2 * max_difference
        if not (agreement.mean_kl <= max_kl and agreement.relative_difference <= max_difference):
            raise RuntimeError(f"the imported model gives other logits than the file in llama.cpp: {agreement}")
        return agreement
