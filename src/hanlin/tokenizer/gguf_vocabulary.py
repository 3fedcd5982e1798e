"""The tokenizer in a GGUF file, as a tokenizer of the `tokenizers` library that gives the ids of llama.cpp.

The other direction, a tokenizer as GGUF metadata, is `export/gguf/vocab`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_ADDED_TOKENS, MAX_TOKEN_CHARACTERS, MAX_VOCABULARY, MAX_VOCABULARY_CHARACTERS
from hanlin.tokenizer.byte_alphabet import SENTENCEPIECE_SPACE
from hanlin.tokenizer.gguf_metadata import GgufMetadata, read_gguf_metadata
from hanlin.tokenizer.gguf_splitting import SPLITTING_RULES
from hanlin.tokenizer.sentencepiece_encoder import SentencePieceEncoder

_LOG = logging.getLogger(__name__)
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""Types of tokens (`tokenizer.ggml.token_type`)."""

END_TOKEN_NAMES = (
    *("<|end_of_text|>", "<|endoftext|>", "</s>", "<|end|>", "<end_of_turn>"),
    *("<|eot_id|>", "<|im_end|>", "<|eom_id|>"),
)
"""Tokens that llama.cpp takes as ends by their names alone."""
_FURTHER_END_TOKEN_NAMES = (
    *("<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<eos>", "<end_of_utterance>", "<｜end▁of▁sentence｜>"),
    *("<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<turn|>", "<|tool_response>", "[e~[", "<|ifm|im_end|>"),
)
"""The same, of newer llama.cpp: a file that is written here does not rely on them."""
_END_KEYS = {
    **dict.fromkeys(("eos", "eot", "eom"), ()),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>", "<|plamo:file_separator|>"),
}
"""Keys of ends (`tokenizer.ggml.KEY_token_id`), with the names that take the place of a key that is missing."""
_NOT_ENDS = (
    ({"<|return|>", "<|call|>"}, "<|end|>"),
    ({"<|call|>", "<|flush|>"}, "<|end|>"),
    ({"<|calls|>", "<|flush|>"}, "<|end|>"),
    ({"<|tool_response>"}, "</s>"),
)
"""Names that are no end in a vocabulary with these others."""
_SENTENCEPIECE_IDS = {"unk": 0, "bos": 1, "eos": 2}
"""Ids of a SentencePiece vocabulary whose file does not name them."""


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """The tokens of a file in order of ids, the type of each, and which are ends by their names."""

    metadata: GgufMetadata
    tokens: Sequence[str]
    types: Sequence[int]
    ends: tuple[int, ...]

    @property
    def scores(self) -> Sequence[float]:
        """The scores of a SentencePiece vocabulary; all are 0 if the file has none."""
        scores = self.metadata.get("tokenizer.ggml.scores", list, [])
        return scores if len(scores) == len(self.tokens) else [0.0] * len(self.tokens)

    @property
    def adds_space(self) -> bool:
        """Whether a space is set before a text of a SentencePiece vocabulary."""
        return bool(self.metadata.get("tokenizer.ggml.add_space_prefix", bool, True))

    def ids(self, *types: int) -> list[int]:
        return [token_id for token_id, kind in enumerate(self.types) if kind in types]

    def special_id(self, name: str) -> int | None:
        """The id of `bos`, `eos`, `unk`, `pad`..., if the file has it."""
        default = _SENTENCEPIECE_IDS.get(name) if self.kind == "llama" else None
        key = "unknown" if name == "unk" else "padding" if name == "pad" else name
        token_id: int | None = self.metadata.get(f"tokenizer.ggml.{key}_token_id", int, default)
        return token_id if token_id is not None and 0 <= token_id < len(self.tokens) else None

    @property
    def kind(self) -> str:
        """`gpt2`: byte-level BPE, `llama`: SentencePiece, or another that llama.cpp has."""
        return str(self.metadata.get("tokenizer.ggml.model", str, ""))

    @property
    def model_size(self) -> int:
        """How many ids belong to the model: those before the tokens that were added at the end."""
        added = (_CONTROL, _USER_DEFINED, _UNUSED)
        return next((i + 1 for i in range(len(self.types) - 1, -1, -1) if self.types[i] not in added), 0)


class GgufTokenizer(NamedTuple):
    """The tokenizer of a GGUF file.

    Attributes:
        backend: The tokenizer of the library.
        config: What `tokenizer_config.json` would say: special tokens, chat template.
        encoder: Encodes text in place of `backend` if pieces share a score, which no list of merges can say.
    """

    backend: tokenizers.Tokenizer
    config: dict[str, Any]
    encoder: SentencePieceEncoder | None


def read_gguf_tokenizer(path: Path) -> GgufTokenizer:
    """Read the tokenizer of a GGUF file.

    Raises:
        UserError: It is no GGUF file, or its tokenizer is of a kind that is not read here.
    """
    vocabulary = _read_vocabulary(path)
    try:
        backend = _byte_level(vocabulary) if vocabulary.kind == "gpt2" else _sentencepiece(vocabulary)
    except UserError:
        raise
    except Exception as error:  # the library raises plain Exception
        what = tr("the tokenizer in this GGUF file is broken: {error}", error=error)
        raise UserError(what, path, tr("copy it again from its source")) from error
    _add_tokens(backend, vocabulary)
    special_ids = {name: vocabulary.special_id(name) for name in ("bos", "eos", "unk", "pad")}
    _warn_of_missing_tokens(vocabulary)
    config: dict[str, Any] = {
        f"{name}_token": None if token_id is None else vocabulary.tokens[token_id]
        for name, token_id in special_ids.items()
    }
    bos_id = special_ids["bos"]
    if bos_id is not None and _adds_bos(vocabulary):
        bos = config["bos_token"]
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B:1"], special_tokens=[(bos, bos_id)]
        )
    template = vocabulary.metadata.get("tokenizer.chat_template", str)
    encoder = _exact_encoder(vocabulary) if vocabulary.kind == "llama" else None
    return GgufTokenizer(backend, config | ({"chat_template": template} if template else {}), encoder)


def _warn_of_missing_tokens(vocabulary: _Vocabulary) -> None:
    for name in ("bos", "eos", "unknown", "padding"):
        token_id = vocabulary.metadata.get(f"tokenizer.ggml.{name}_token_id", int, 0)
        if not 0 <= token_id < len(vocabulary.tokens):
            what = tr(
                "{key} is {token_id:,}, and there are {count:,} tokens: it is left out",
                key=f"{name}_token_id",
                token_id=token_id,
                count=len(vocabulary.tokens),
            )
            _LOG.warning("%s: %s", vocabulary.metadata.path, what)


def read_gguf_end_ids(path: Path) -> tuple[int, ...]:
    """The ids at which llama.cpp ends an answer: those that the file names, and tokens that it knows by their names."""
    vocabulary = _read_vocabulary(path)
    named = [vocabulary.special_id(key) for key in _END_KEYS]
    return tuple(dict.fromkeys(token_id for token_id in (*named, *vocabulary.ends) if token_id is not None))


def count_other_tokens(path: Path, tokens: Sequence[str | None]) -> tuple[int, int]:
    """How many tokens of a GGUF file a list of tokens has not, or has otherwise, and how many there are to compare.

    Args:
        path: The file.
        tokens: The tokens of a tokenizer by id.

    Returns:
        (0, 0) if the file has no tokens. What fills the rows of its embeddings up counts for none.
    """
    metadata = read_gguf_metadata(path)
    own: list[str | None] = metadata.get("tokenizer.ggml.tokens", list, [])
    types = metadata.get("tokenizer.ggml.token_type", list, [])
    if not own:
        return 0, 0
    beyond = [kind for kind in types[len(tokens) :] if kind != _UNUSED]
    differing = sum(token != other for token, other in zip(own, tokens, strict=False))
    return differing + max(0, len(tokens) - len(own)) + len(beyond), max(len(tokens), len(own))


def _read_vocabulary(path: Path) -> _Vocabulary:
    metadata = read_gguf_metadata(path)
    tokens = metadata.get("tokenizer.ggml.tokens", list, [])
    kind = metadata.get("tokenizer.ggml.model", str, "")
    if not tokens or kind not in ("gpt2", "llama"):
        what = tr("the tokenizer in this GGUF file ({kind}) is not read here", kind=kind or "-")
        raise UserError(what, path, tr("put the tokenizer.json of the model beside it"))
    types = metadata.get("tokenizer.ggml.token_type", list, [])
    _check_limits(tokens, types, path)
    if types and len(types) != len(tokens):
        what = tr("this GGUF file has {count:,} tokens and the types of {types:,}", count=len(tokens), types=len(types))
        raise UserError(what, path, tr("copy it again from its source"))
    types = list(types) or [_NORMAL] * len(tokens)
    ends = _find_ends(metadata, tokens)
    for token_id in ends:
        types[token_id] = _CONTROL  # whatever the file says: so that a typed one stays text
    return _Vocabulary(metadata, tokens, types, ends)


def _check_limits(tokens: Sequence[str], types: Sequence[int], path: Path) -> None:
    """Raise UserError for more or longer tokens than any model has, before anything is built of them."""
    if not all(isinstance(token, str) for token in tokens):
        raise UserError(tr("the tokens of this GGUF file are no texts"), path, tr("copy it again from its source"))
    lengths = list(map(len, tokens))
    if len(tokens) > MAX_VOCABULARY or sum(lengths) > MAX_VOCABULARY_CHARACTERS or max(lengths) > MAX_TOKEN_CHARACTERS:
        what = tr(
            "the tokenizer in this GGUF file has more than {count:,} tokens, or one of more than {length:,} characters",
            count=MAX_VOCABULARY,
            length=MAX_TOKEN_CHARACTERS,
        )
        raise UserError(what, path)
    if sum(kind in (_CONTROL, _USER_DEFINED, _UNKNOWN) for kind in types) > MAX_ADDED_TOKENS:
        what = tr("the tokenizer in this GGUF file has more than {count:,} added tokens", count=MAX_ADDED_TOKENS)
        raise UserError(what, path)


def _find_ends(metadata: GgufMetadata, tokens: Sequence[str]) -> tuple[int, ...]:
    """The ids of tokens that llama.cpp takes as ends by their names, in order."""
    names = {*END_TOKEN_NAMES, *_FURTHER_END_TOKEN_NAMES}
    for key, stand_ins in _END_KEYS.items():
        if f"tokenizer.ggml.{key}_token_id" not in metadata.values:
            names.update(stand_ins)
    found = {token: token_id for token_id, token in enumerate(tokens) if token in names}
    for others, name in _NOT_ENDS:
        if others <= found.keys():
            found.pop(name, None)
    return tuple(sorted(found.values()))


def _adds_bos(vocabulary: _Vocabulary) -> bool:
    default = vocabulary.kind == "llama" or SPLITTING_RULES[_rule_name(vocabulary)].adds_bos
    return bool(vocabulary.metadata.get("tokenizer.ggml.add_bos_token", bool, default))


def _rule_name(vocabulary: _Vocabulary) -> str:
    return str(vocabulary.metadata.get("tokenizer.ggml.pre", str, "default"))


def _byte_level(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    name = _rule_name(vocabulary)
    rule = SPLITTING_RULES.get(name)
    if rule is None:
        what = tr("the tokenizer in this GGUF file splits text by a rule that is not known here: {name}", name=name)
        raise UserError(what, vocabulary.metadata.path, tr("put the tokenizer.json of the model beside it"))
    if "tokenizer.ggml.pre" not in vocabulary.metadata.values:
        what = tr("this GGUF file does not say how its tokenizer splits text: ids may differ from those of training")
        _LOG.warning("%s: %s", vocabulary.metadata.path, what)
    size = vocabulary.model_size
    entries = {token: token_id for token_id, token in enumerate(vocabulary.tokens[:size])}
    merges = []
    for line in vocabulary.metadata.get("tokenizer.ggml.merges", list, []):
        left, _, right = line.partition(" ")
        if left in entries and right in entries and left + right in entries:
            merges.append((left, right))
    model = models.BPE(entries, merges, ignore_merges=rule.whole_words)
    backend = tokenizers.Tokenizer(model)
    steps: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in rule.patterns
    ]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(vocabulary: _Vocabulary) -> tokenizers.Tokenizer:
    """SentencePiece joins the pair whose piece has the highest score; `tokenizers` the pair whose merge comes first. So
    the merges are all pairs of pieces that make a piece, in the order of scores.
    """
    size = vocabulary.model_size
    entries = {token: token_id for token_id, token in enumerate(vocabulary.tokens[:size])}
    scores = vocabulary.scores
    pieces = {token_id for token_id in vocabulary.ids(_NORMAL, _USER_DEFINED) if token_id < size}
    merges = []
    for token_id in sorted(pieces, key=lambda token_id: -scores[token_id]):
        piece = vocabulary.tokens[token_id]
        pairs = ((piece[:index], piece[index:]) for index in range(1, len(piece)))
        found = [(left, right) for left, right in pairs if entries.get(left) in pieces and entries.get(right) in pieces]
        merges += sorted(found, key=lambda pair: (entries[pair[0]], entries[pair[1]]))
    unknown = vocabulary.special_id("unk")
    model = models.BPE(
        entries,
        merges,
        unk_token=None if unknown is None else vocabulary.tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    before = [normalizers.Prepend(SENTENCEPIECE_SPACE)] if vocabulary.adds_space else []
    backend.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", SENTENCEPIECE_SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if vocabulary.adds_space else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SENTENCEPIECE_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return backend


def _exact_encoder(vocabulary: _Vocabulary) -> SentencePieceEncoder | None:
    """The encoder of a vocabulary in which pieces of several characters share a score; None if `backend` does.

    Pieces of nothing but spaces always do, in Llama's own vocabularies; merges give the right ids of them.
    """
    pieces = vocabulary.ids(_NORMAL, _USER_DEFINED)
    scores = {vocabulary.tokens[token_id]: vocabulary.scores[token_id] for token_id in pieces}
    counts = Counter(score for piece, score in scores.items() if len(piece) > 1 and piece.strip(SENTENCEPIECE_SPACE))
    ids: dict[str, int] = {vocabulary.tokens[token_id]: token_id for token_id in pieces}
    byte_ids = {vocabulary.tokens[token_id]: token_id for token_id in vocabulary.ids(_BYTE)}
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    if max(counts.values(), default=1) == 1:
        return None
    if not byte_ids.keys() >= set(names):
        what = tr("pieces share a score and there are no tokens for bytes: ids may differ from those of llama.cpp")
        _LOG.warning("%s: %s", vocabulary.metadata.path, what)
        return None
    whole = {vocabulary.tokens[token_id]: token_id for token_id in vocabulary.ids(_USER_DEFINED)}
    return SentencePieceEncoder(scores, ids, [byte_ids[name] for name in names], whole, vocabulary.adds_space)


def _add_tokens(backend: tokenizers.Tokenizer, vocabulary: _Vocabulary) -> None:
    """Add the tokens that are matched before words are built, each with its id; unused ones at the end are left out.

    Raises:
        UserError: A token cannot have its id.
    """
    added = set(vocabulary.ids(_CONTROL, _USER_DEFINED, _UNKNOWN))
    last = max(added, default=-1)
    added |= {token_id for token_id in vocabulary.ids(_UNUSED) if vocabulary.model_size <= token_id < last}
    rows = [
        tokenizers.AddedToken(
            vocabulary.tokens[token_id], special=vocabulary.types[token_id] != _USER_DEFINED, normalized=False
        )
        for token_id in sorted(added)
    ]
    backend.add_tokens(rows)
    for token_id, row in zip(sorted(added), rows, strict=True):
        if backend.token_to_id(row.content) != token_id:
            what = tr("two tokens of this GGUF file are {content!r}, or one of them has no place", content=row.content)
            raise UserError(what, vocabulary.metadata.path, tr("copy it again from its source"))
