"""Trim a vocabulary to the entries that some texts need, and number the rest anew in the old order.

Byte pair encoding applies, of all merges that are possible, the first one of its list. If every merge that a text's
encoding applies is kept, it finds the same one at each step, since what is kept is a part of the list in its old
order: the text keeps its tokens. A token of a text was made of its own characters alone, in the order in which they
would be merged without the rest of the text, so the merges that lead to each kept entry are all that is needed. What
no kept entry spells is written in single bytes, which all stay. The rows of the model are `models/trim_vocab`.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tokenizers

from hanlin.core.errors import UserError
from hanlin.core.files import write_sorted_json
from hanlin.core.i18n import tr
from hanlin.tokenizer.byte_alphabet import BYTE_TOKEN_PATTERN, CHAR_TO_BYTE, SENTENCEPIECE_SPACE
from hanlin.tokenizer.extend import is_known_bpe
from hanlin.tokenizer.file_names import GENERATION_FILE
from hanlin.tokenizer.tokenizer import Tokenizer
from hanlin.tokenizer.trim.generation_ids import read_generation, renumber_generation

MergePair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class KeptEntries:
    """The ids of a tokenizer that are kept, in rising order, and why.

    Attributes:
        ids: Old ids; the index of each is its new id.
        used: How many the texts use.
        merge_parts: How many others lie on the way of merges to a used entry.
        always: How many are kept whatever the texts are: single bytes, special and other added tokens, and runs of
            spaces of a SentencePiece vocabulary.
    """

    ids: tuple[int, ...]
    used: int
    merge_parts: int
    always: int

    @property
    def new_ids(self) -> dict[int, int]:
        """The new id of each old one."""
        return {old: new for new, old in enumerate(self.ids)}


class TrimmableVocabulary:
    """The entries and merges of a tokenizer.

    Args:
        tokenizer: Byte-level BPE (Llama 3) or SentencePiece BPE with byte fallback in `tokenizer.json` (Llama 2).

    Raises:
        UserError: The tokenizer is of another kind, or lacks a single byte that an entry holds.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.data: dict[str, Any] = json.loads(tokenizer.backend.to_str())
        model = self.data["model"]
        if not is_known_bpe(tokenizer, model):
            raise UserError(
                tr("this kind of vocabulary cannot be trimmed"),
                tokenizer.folder,
                tr("supported: byte-level BPE and SentencePiece BPE"),
            )
        self.entries: dict[str, int] = model["vocab"]
        self.added: dict[str, int] = {token["content"]: token["id"] for token in self.data["added_tokens"]}
        pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
        self.merges: list[MergePair] = [(left, right) for left, right in pairs]
        self._ranks: dict[MergePair, int] = {}
        for rank, pair in enumerate(self.merges):
            self._ranks[pair] = rank  # of a merge that stands twice, the library takes the later place
        self._tokens = {token_id: token for token, token_id in self.entries.items()}
        self._is_byte_level = not model.get("byte_fallback")
        spelled = CHAR_TO_BYTE.items() if self._is_byte_level else ((f"<0x{byte:02X}>", byte) for byte in range(256))
        self._byte_entries = {byte: self.entries[token] for token, byte in spelled if token in self.entries}
        # All runs have one score in Llama 2's `tokenizer.model`, which then joins from the left; without some of them
        # `tokenizer.json`, which joins pairs first, splits other runs otherwise.
        runs = [] if self._is_byte_level else [token for token in self.entries if not token.strip(SENTENCEPIECE_SPACE)]
        self._runs_of_spaces = [self.entries[token] for token in runs]
        self._check_bytes()

    def choose(self, used: Iterable[int], named: Iterable[int] = ()) -> KeptEntries:
        """Which entries stay if texts use the ids `used`; `named` are ids that settings of the model name."""
        always = {*self._byte_entries.values(), *self.added.values(), *self._runs_of_spaces}
        always |= {token_id for token_id in named if self.tokenizer.backend.id_to_token(token_id) is not None}
        always |= {self.entries[token] for token in (self.data["model"].get("unk_token"),) if token in self.entries}
        used = {token_id for token_id in used if token_id in self._tokens or token_id in always}
        kept = always | used
        pending = [self._tokens[token_id] for token_id in kept if token_id in self._tokens]
        while pending:
            for part in self._last_merge(pending.pop()):
                if self.entries[part] not in kept:
                    kept.add(self.entries[part])
                    pending.append(part)
        ids = tuple(sorted(kept))
        return KeptEntries(ids, len(used), len(ids) - len(used | always), len(always))

    def build(self, kept: KeptEntries, folder: Path) -> Tokenizer:
        """The tokenizer with these entries alone, for files in `folder`."""
        new_ids = kept.new_ids
        model = dict(self.data["model"])
        vocabulary = {token: new_ids[token_id] for token, token_id in self.entries.items() if token_id in new_ids}
        if any(
            new_ids[token_id] < len(vocabulary) for token, token_id in self.added.items() if token not in vocabulary
        ):
            # the library numbers added tokens that are no entries behind all entries
            vocabulary |= {token: new_ids[token_id] for token, token_id in self.added.items()}
        as_lists = not model["merges"] or isinstance(model["merges"][0], list)
        model["vocab"] = vocabulary
        model["merges"] = [
            list(pair) if as_lists else " ".join(pair)
            for pair in self.merges
            if pair[0] in vocabulary and pair[1] in vocabulary and "".join(pair) in vocabulary
        ]
        data = {
            **self.data,
            "model": model,
            "added_tokens": [{**token, "id": new_ids[token["id"]]} for token in self.data["added_tokens"]],
            "post_processor": _renumber_processor(self.data["post_processor"], new_ids),
        }
        backend = tokenizers.Tokenizer.from_str(json.dumps(data, ensure_ascii=False))
        config = {name: value for name, value in self.tokenizer.config.items() if name != "added_tokens_decoder"}
        return Tokenizer(backend, config, folder)

    def _check_bytes(self) -> None:
        """Raise UserError if an entry holds a byte that no entry is by itself: without the entry it could not be
        written. A byte that no entry holds (21 of SmolLM2's vocabulary) cannot be written now either.
        """
        missing = set(range(256)) - self._byte_entries.keys()
        for token in self.entries if missing else ():
            if token in self.added or BYTE_TOKEN_PATTERN.fullmatch(token):
                continue
            used = {CHAR_TO_BYTE.get(letter) for letter in token} if self._is_byte_level else set(token.encode())
            if not used.isdisjoint(missing):
                what = tr("{token!r} holds a byte that is no entry by itself", token=token)
                hint = tr("without the entry this byte could not be written; the vocabulary cannot be trimmed")
                raise UserError(what, self.tokenizer.folder, hint)

    def _last_merge(self, token: str) -> Sequence[str]:
        """The two entries whose merge makes an entry out of its own characters; empty if no merge arrives at it."""
        if len(token) < 2:
            return ()
        parts: list[str] = list(token)
        following, previous = [*range(1, len(parts)), -1], list(range(-1, len(parts) - 1))
        heap = [
            (rank, index, "".join(pair))
            for index, pair in enumerate(pairwise(parts))
            if (rank := self._ranks.get(pair)) is not None
        ]
        heapq.heapify(heap)
        last: MergePair | None = None
        while heap:
            rank, left, made = heapq.heappop(heap)
            right = following[left]
            if not parts[left] or right < 0 or self._ranks.get((parts[left], parts[right])) != rank:
                continue  # one of the two was merged with another by now
            last = (parts[left], parts[right])
            parts[left], parts[right] = made, ""
            following[left] = following[right]
            if following[left] >= 0:
                previous[following[left]] = left
            for first in (previous[left], left):
                second = following[first] if first >= 0 else -1
                if second >= 0 and (rank := self._ranks.get((parts[first], parts[second]), -1)) >= 0:
                    heapq.heappush(heap, (rank, first, parts[first] + parts[second]))
        return last if last is not None and "".join(last) == token else ()


def save_trimmed(vocabulary: TrimmableVocabulary, kept: KeptEntries, out: Path) -> Tokenizer:
    """Write the trimmed tokenizer with its chat template and generation settings into `out`, and read it again.

    Raises:
        UserError: Generation settings name an id that has no entry.
        RuntimeError: An entry did not get its new id.
    """
    source = vocabulary.tokenizer.folder
    new_ids = kept.new_ids

    def renumber(token_id: int) -> int:
        if token_id not in new_ids:
            what = tr("token id {token_id} is named, but the tokenizer has no such entry", token_id=token_id)
            raise UserError(what, source / GENERATION_FILE, tr("correct it in a copy of the model"))
        return new_ids[token_id]

    generation = renumber_generation(read_generation(source), renumber, source / GENERATION_FILE)
    vocabulary.build(kept, source).save(out)
    if generation:
        write_sorted_json(out / GENERATION_FILE, generation)
    trimmed = Tokenizer.load(out)
    _check_ids(vocabulary.tokenizer, trimmed, kept)
    return trimmed


def _check_ids(before: Tokenizer, after: Tokenizer, kept: KeptEntries) -> None:
    for new, old in enumerate(kept.ids):
        if after.backend.id_to_token(new) != before.backend.id_to_token(old):
            raise RuntimeError(f"entry {old} did not become {new}: {before.backend.id_to_token(old)!r}")
    if len(after) != len(kept.ids):
        raise RuntimeError(f"the trimmed tokenizer has {len(after)} entries instead of {len(kept.ids)}")


def _renumber_processor(rule: Mapping[str, Any] | None, new_ids: Mapping[int, int]) -> dict[str, Any] | None:
    """The rule that adds special tokens around a text, with new ids."""
    if rule is None:
        return None
    renumbered = dict(rule)
    if "processors" in rule:
        renumbered["processors"] = [_renumber_processor(step, new_ids) for step in rule["processors"]]
    if rule["type"] == "TemplateProcessing":
        renumbered["special_tokens"] = {
            name: {**token, "ids": [new_ids[token_id] for token_id in token["ids"]]}
            for name, token in rule["special_tokens"].items()
        }
    for name in ("sep", "cls"):  # of BertProcessing and RobertaProcessing: a token and its id
        if name in rule:
            renumbered[name] = [rule[name][0], new_ids[rule[name][1]]]
    return renumbered
