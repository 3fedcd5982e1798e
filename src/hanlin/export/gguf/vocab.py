"""A tokenizer as GGUF metadata: tokens, their types, merges or scores, and which ids begin and end a text.

`tokenizer.json` becomes what llama.cpp's two tokenizers of Llama models read; `verify` checks that both give the same
ids.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gguf import GGUFWriter, TokenType

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.tokenizer.file_names import TOKENIZER_FILE
from hanlin.tokenizer.gguf_splitting import GPT_2, LLAMA_3, QWEN_2, SINGLE_DIGITS
from hanlin.tokenizer.gguf_vocabulary import END_TOKEN_NAMES
from hanlin.tokenizer.prefix_space import flatten_steps
from hanlin.tokenizer.tokenizer import Tokenizer

_Rule = Mapping[str, Any]
_WHOLE_WORDS_FIRST: dict[tuple[str, ...], str] = {(LLAMA_3,): "llama-bpe"}
"""llama.cpp's name of a splitting rule where a word that is an entry is taken whole, whatever the merges say."""
_BY_MERGES: dict[tuple[str, ...], str] = {
    (LLAMA_3,): "smaug-bpe",
    (QWEN_2,): "qwen2",
    (GPT_2,): "gpt-2",
    (SINGLE_DIGITS, GPT_2): "smollm",
}
"""Its name of a splitting rule where words are built by merges alone."""

_ADDED_SCORE, _UNUSED_SCORE = -1000.0, -10000.0
"""What llama.cpp's converter gives added tokens, which are matched before scores count, and ids without an entry."""
_SPACE, _SPACES_SCORE = "\u2581", -1e9
"""Llama's SentencePiece models join spaces to spaces last of all."""


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """A tokenizer as GGUF describes it. Byte-level BPE has `merges`, SentencePiece has `scores`."""

    model: str
    pre: str
    tokens: tuple[str, ...]
    types: tuple[TokenType, ...]
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    space_before_text: bool = False
    unreachable_ids: frozenset[int] = frozenset()
    """Entries of several characters that no merge builds: `tokenizer.json` never gives them, SentencePiece and
    llama.cpp do. A merged Chinese vocabulary has such an entry where one of its characters is none itself."""

    def add_to(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(list(self.tokens))
        if self.scores:
            writer.add_token_scores(list(self.scores))
        writer.add_token_types([int(kind) for kind in self.types])
        if self.merges:
            writer.add_token_merges(list(self.merges))
        elif not self.space_before_text:  # llama.cpp sets one unless it is told otherwise
            writer.add_add_space_prefix(False)


def build_vocabulary(tokenizer: Tokenizer, rows: int) -> GgufVocabulary:
    """The vocabulary of `tokenizer`, filled with unused tokens to the `rows` of the embedding matrix.

    Raises UserError when the tokenizer splits or builds words in a way that llama.cpp does not have.
    """
    data = json.loads(tokenizer.backend.to_str())
    model = data["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        kind = model["type"]
        raise _unsupported(tokenizer, tr("its model of type {kind} is not supported", kind=kind))
    steps = _pre_tokenizer_steps(data["pre_tokenizer"])
    if any(step["type"] == "ByteLevel" for step in steps):
        return _byte_level(tokenizer, data, steps, rows)
    if model.get("byte_fallback"):
        if tokenizer.prefix_space == "first":
            raise _unsupported(tokenizer, tr("it sets a space at the beginning of the first text alone"))
        return _sentencepiece(tokenizer, data, rows)
    raise _unsupported(tokenizer, tr("it is neither byte-level BPE nor SentencePiece"))


def _byte_level(tokenizer: Tokenizer, data: Mapping[str, Any], steps: Sequence[_Rule], rows: int) -> GgufVocabulary:
    model = data["model"]
    if data["normalizer"] is not None:
        kind = data["normalizer"]["type"]
        raise _unsupported(tokenizer, tr("it normalizes text ({kind}) first", kind=kind))
    if any(step.get("add_prefix_space") for step in steps):
        raise _unsupported(tokenizer, tr("it adds a space before text"))
    rule = _splitting_rule(steps)
    whole_words = bool(model.get("ignore_merges"))
    names = _WHOLE_WORDS_FIRST if whole_words else _BY_MERGES
    if not whole_words and rule in _WHOLE_WORDS_FIRST and _merges_reach_every_entry(tokenizer, model["vocab"]):
        names = _WHOLE_WORDS_FIRST  # the same ids either way, and this is the name that every program knows
    if rule not in names:
        raise _unsupported(tokenizer, tr("it splits text by another rule"))
    tokens, types = _tokens(tokenizer, model["vocab"], rows)
    merges = tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"])
    return GgufVocabulary("gpt2", names[rule], tokens, types, merges=merges)


def _sentencepiece(tokenizer: Tokenizer, data: Mapping[str, Any], rows: int) -> GgufVocabulary:
    """SentencePiece joins the pair whose piece has the highest score; `tokenizer.json` the pair whose merge comes
    first. So a piece's score is minus its rank, the place of its first merge.
    """
    model = data["model"]
    for step in flatten_steps(data["normalizer"], "normalizers"):
        is_space = step["type"] == "Replace" and step["pattern"] == {"String": " "} and step["content"] == _SPACE
        if not is_space and not (step["type"] == "Prepend" and step["prepend"] == _SPACE):
            raise _unsupported(tokenizer, tr("it normalizes text ({kind}) first", kind=step["type"]))
    if any(
        rule["type"] != "Metaspace" or rule.get("split", True) for rule in _pre_tokenizer_steps(data["pre_tokenizer"])
    ):
        raise _unsupported(tokenizer, tr("it splits text by another rule"))
    for token in tokenizer.added_tokens.values():
        if token.normalized and not token.special and data["normalizer"] is not None:
            what = tr("llama.cpp cannot find the added token {content!r} as this tokenizer does", content=token.content)
            raise UserError(
                what, tokenizer.folder / TOKENIZER_FILE, tr("add it with `normalized=False`, or as special")
            )
    merge_ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        merge_ranks.setdefault(merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge), rank)
    scores = _scores(tokenizer, model["vocab"], merge_ranks, rows)
    tokens, types = _tokens(tokenizer, model["vocab"], rows)
    token_types = list(types)
    for byte in range(256):
        token_id = model["vocab"].get(f"<0x{byte:02X}>")
        if token_id is None:
            raise _unsupported(tokenizer, tr("it lacks tokens for single bytes"))
        token_types[token_id] = TokenType.BYTE
    single_pieces = {*tokenizer.added_tokens, *(f"<0x{byte:02X}>" for byte in range(256))}
    unreachable_ids = {
        token_id
        for text, token_id in model["vocab"].items()
        if len(text) > 1 and text not in merge_ranks and text not in single_pieces
    }
    unknown = model["vocab"].get(model.get("unk_token"))
    if unknown is not None:
        token_types[unknown] = TokenType.UNKNOWN
    return GgufVocabulary(
        "llama",
        "default",
        tokens,
        tuple(token_types),
        scores=tuple(scores),
        space_before_text=tokenizer.prefix_space != "none",
        unreachable_ids=frozenset(unreachable_ids),
    )


def _scores(
    tokenizer: Tokenizer, vocabulary: Mapping[str, int], merge_ranks: Mapping[str, int], rows: int
) -> list[float]:
    """A score for each id: minus a piece's rank, 0 for what no text is built of.

    Where the entries stand in the order of their merges, those of nothing but spaces last, the vocabulary is as a
    trained SentencePiece model of Llama's has it, and so are the scores: an entry's rank is its distance from the
    first piece. A vocabulary that was merged from two has another order, and the rank is the place of the merge.
    """
    unranked_tokens = {*tokenizer.added_tokens, *(f"<0x{byte:02X}>" for byte in range(256))}
    pieces = {text: token_id for text, token_id in vocabulary.items() if text not in unranked_tokens}
    first, last = min(pieces.values(), default=0), len(merge_ranks)
    sort_keys = [(not text.strip(_SPACE), vocabulary[text]) for text in merge_ranks]
    as_trained = all(previous < following for previous, following in pairwise(sort_keys))
    scores = [_UNUSED_SCORE] * rows
    for text, token_id in vocabulary.items():
        if text not in pieces:
            scores[token_id] = 0.0 if token_id < first else _ADDED_SCORE
        elif as_trained:
            scores[token_id] = first - token_id if text.strip(_SPACE) else _SPACES_SCORE
        else:
            scores[token_id] = -float(merge_ranks.get(text, last))
    for token_id in tokenizer.backend.get_added_tokens_decoder():
        if token_id >= first:
            scores[token_id] = _ADDED_SCORE
    return [float(score) for score in scores]


def _tokens(
    tokenizer: Tokenizer, vocabulary: Mapping[str, int], rows: int
) -> tuple[tuple[str, ...], tuple[TokenType, ...]]:
    """Every id's text and type. llama.cpp finds tokens by text and ends the program when two have the same."""
    if len(tokenizer) > rows:
        what = tr(
            "the tokenizer has {count} entries, the model only {rows} embedding rows", count=len(tokenizer), rows=rows
        )
        raise UserError(what, tokenizer.folder, tr("grow the embeddings first"))
    tokens: list[str | None] = [None] * rows
    types = [TokenType.UNUSED] * rows
    for text, token_id in vocabulary.items():
        tokens[token_id], types[token_id] = text, TokenType.NORMAL
    for token_id, added in tokenizer.backend.get_added_tokens_decoder().items():
        tokens[token_id] = added.content
        types[token_id] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
        if not added.special and (added.lstrip or added.rstrip or added.single_word):
            what = tr("its token {content!r} absorbs the spaces beside it", content=added.content)
            raise _unsupported(tokenizer, what)
    padded_tokens = [f"[PAD{token_id}]" if text is None else text for token_id, text in enumerate(tokens)]
    if len(set(padded_tokens)) < rows:
        twice = Counter(padded_tokens).most_common(1)[0][0]
        raise _unsupported(tokenizer, tr("two of its tokens are {twice!r}", twice=twice))
    return tuple(padded_tokens), tuple(types)


def _pre_tokenizer_steps(rule: _Rule | None) -> list[_Rule]:
    if rule is None:
        return []
    return list(rule["pretokenizers"]) if rule["type"] == "Sequence" else [rule]


def _splitting_rule(steps: Sequence[_Rule]) -> tuple[str, ...]:
    """The regular expressions by which text is split into words, one after another; empty if a step is of another kind.

    `Digits` sets each digit apart, and `ByteLevel` splits as GPT-2 does unless it is told not to.
    """
    patterns: list[str] = []
    for step in steps:
        if step["type"] == "Split" and step["behavior"] == "Isolated" and not step.get("invert"):
            patterns.append(step["pattern"].get("Regex", ""))
        elif step["type"] == "Digits" and step.get("individual_digits"):
            patterns.append(SINGLE_DIGITS)
        elif step["type"] != "ByteLevel":
            return ()
        elif step.get("use_regex", True):
            patterns.append(GPT_2)
    return tuple(patterns)


def _merges_reach_every_entry(tokenizer: Tokenizer, vocabulary: Mapping[str, int]) -> bool:
    """Whether the merges build each entry from its letters, so that taking it whole gives the same ids."""
    added = {token.content for token in tokenizer.backend.get_added_tokens_decoder().values()}
    split = tokenizer.backend.model.tokenize
    return all(
        [token.id for token in split(text)] == [token_id] for text, token_id in vocabulary.items() if text not in added
    )


def _unsupported(tokenizer: Tokenizer, why: str) -> UserError:
    what = tr("llama.cpp has no tokenizer like this one: {why}", why=why)
    hint = tr(
        "supported: byte-level BPE that splits as Llama 3, Qwen 2, GPT-2 or SmolLM, and SentencePiece BPE as Llama 2 "
        "has it"
    )
    return UserError(what, tokenizer.folder / TOKENIZER_FILE, hint)


def add_special_ids(
    writer: GGUFWriter, tokenizer: Tokenizer, stop_ids: Sequence[int], answer_end: int | None = None
) -> None:
    """Write which ids begin, end and fill a text. GGUF has three places for ids that end an answer (end of text, of
    turn, of message); llama.cpp knows more ends by their names.

    Args:
        writer: The writer of the file.
        tokenizer: The model's tokenizer.
        stop_ids: Every id that ends an answer.
        answer_end: The id that the chat template ends an answer with: the end of text and of turn of the file.
    """
    if tokenizer.bos_id is not None:
        writer.add_bos_token_id(tokenizer.bos_id)
    for name, token_id in _end_ids(tokenizer, stop_ids, answer_end).items():
        getattr(writer, f"add_{name}_token_id")(token_id)
    for name, add_token_id in (("unk_token", writer.add_unk_token_id), ("pad_token", writer.add_pad_token_id)):
        special_id = tokenizer.token_id(tokenizer.config.get(name) or "")
        if special_id is not None:
            add_token_id(special_id)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_sep_token(False)


def _end_ids(tokenizer: Tokenizer, stop_ids: Sequence[int], answer_end: int | None) -> dict[str, int]:
    """Which stop id stands in which of the places `eos`, `eot`, `eom`."""
    end_ids = list(dict.fromkeys(stop_ids))
    eos = tokenizer.eos_id if tokenizer.eos_id in end_ids else next(iter(end_ids), tokenizer.eos_id)
    eos = eos if answer_end is None else answer_end
    known_ids = {tokenizer.token_id(name) for name in END_TOKEN_NAMES}
    others = [token_id for token_id in end_ids if token_id != eos and token_id not in known_ids]
    if answer_end is not None and len(others) < 2:
        others.insert(0, answer_end)
    return {**({} if eos is None else {"eos": eos}), **dict(zip(("eot", "eom"), others, strict=False))}
