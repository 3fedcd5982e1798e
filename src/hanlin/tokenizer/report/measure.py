"""Compare tokenizers on texts: characters per token, the curve of an extension, memory and steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from hanlin.core.i18n import tr
from hanlin.core.progress import Progress
from hanlin.tokenizer.compression import batches
from hanlin.tokenizer.report.growth import gains_per_thousand, measure_growth, size_that_pays
from hanlin.tokenizer.tokenizer import Tokenizer

CONTEXT = 8192
"""Tokens of the first tokenizer for whose text the KV caches are stated."""
ALL = "all"
"""The name of all texts together."""


@dataclass(frozen=True, slots=True)
class ModelSizes:
    """What of a model decides the memory of its vocabulary and of its KV cache.

    Attributes:
        tied: Embeddings and output head are one matrix.
        value_bytes: Bytes of a weight, and of a value in the KV cache.
    """

    hidden_size: int
    layers: int
    kv_heads: int
    head_dim: int
    tied: bool
    value_bytes: int = 2

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ModelSizes:
        """Read them from the content of a `config.json`. Raises KeyError or ZeroDivisionError if one is not there."""
        heads = config["num_attention_heads"]
        return cls(
            hidden_size=config["hidden_size"],
            layers=config["num_hidden_layers"],
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            tied=bool(config.get("tie_word_embeddings")),
            value_bytes=4 if (config.get("dtype") or config.get("torch_dtype")) == "float32" else 2,
        )

    def row_bytes(self) -> int:
        """Bytes of an entry: its row in the embeddings and the one in the output head."""
        return self.hidden_size * self.value_bytes * (1 if self.tied else 2)

    def kv_bytes(self) -> int:
        """Bytes that a token has in the KV cache: keys and values of every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.value_bytes


def compare_tokenizers(
    tokenizers: Mapping[str, Tokenizer],
    texts: Mapping[str, Iterable[str]],
    *,
    sizes: ModelSizes | None = None,
    step: int = 1000,
    min_gain: float = 1.0,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Encode texts with each tokenizer; each text is read once.

    Args:
        tokenizers: Tokenizers by name. The first one is what the others are compared with.
        texts: Texts by the name of their genre; a genre without characters has no figures.
        sizes: Sizes of the model for `memory`.
        step: Entries from one point of a curve to the next.
        min_gain: The gain in percent per 1,000 entries that an entry must have to pay for itself.
        progress: Where to report progress.

    Returns:
        For each tokenizer its `name`, `entries`, the figures of each genre and of all texts in `texts`; `growth`, the
        curve of one that extends the first one, otherwise None; `steps_saved_percent` and, with `sizes`, `memory`.
    """
    counts: dict[str, list[Counter[int]]] = {}
    characters: Counter[str] = Counter()
    read = 0
    for genre, lines in texts.items():
        counts[genre] = [Counter() for _ in tokenizers]
        for batch in batches(lines, 1000):
            characters[genre] += sum(map(len, batch))
            for counter, tokenizer in zip(counts[genre], tokenizers.values(), strict=True):
                counter.update(chain.from_iterable(tokenizer.encode_batch(batch)))
            read += len(batch)
            if progress is not None:
                progress.update(read, read, tr("texts"))
    counts[ALL] = [sum(column, Counter()) for column in zip(*counts.values(), strict=True)]
    characters[ALL] = characters.total()
    first: dict[str, Any] | None = None
    base: Tokenizer | None = None
    rows: list[dict[str, Any]] = []
    for index, (name, tokenizer) in enumerate(tokenizers.items()):
        ids = {genre: columns[index] for genre, columns in counts.items()}
        figures = {genre: _figures(tokenizer, ids[genre], characters[genre]) for genre in ids}
        row: dict[str, Any] = {"name": name, "entries": len(tokenizer), "texts": figures, "growth": None}
        if first is None or base is None:
            first, base = row, tokenizer
        else:
            row["growth"] = _growth(base, first, tokenizer, ids, characters, step, min_gain)
        for genre, figure in figures.items():
            figure["gain_percent"] = _percent(first["texts"][genre]["tokens"], figure["tokens"])
        share = figures[ALL]["tokens"] / max(1, first["texts"][ALL]["tokens"])
        row["steps_saved_percent"] = round(100 * (1 - share), 2)
        row["memory"] = None if sizes is None else _memory(sizes, len(tokenizer) - first["entries"], share)
        rows.append(row)
    return rows


def _figures(tokenizer: Tokenizer, ids: Counter[int], characters: int) -> dict[str, Any]:
    tokens = ids.total()
    unknown = tokenizer.token_id(tokenizer.config.get("unk_token") or "")
    return {
        "characters": characters,
        "tokens": tokens,
        "unknown_tokens": 0 if unknown is None else ids[unknown],
        "characters_per_token": round(characters / tokens, 4) if tokens else 0.0,
    }


def _percent(before: int, after: int) -> float:
    """The gain in characters per token, in percent, if `before` tokens become `after`."""
    return round(100 * (before / after - 1), 2) if after else 0.0


def _growth(
    base: Tokenizer,
    first: Mapping[str, Any],
    tokenizer: Tokenizer,
    ids: Mapping[str, Counter[int]],
    characters: Mapping[str, int],
    step: int,
    min_gain: float,
) -> dict[str, Any] | None:
    """The curve of a tokenizer that extends the first one; None unless without new entries it counts as that one."""
    growth = measure_growth(base, tokenizer, ids, step)
    if growth is None or any(tokens != first["texts"][name]["tokens"] for name, tokens in growth.points[0][1].items()):
        return None
    totals = [(entries, tokens[ALL]) for entries, tokens in growth.points]
    return {
        "new_entries": growth.new_entries,
        "min_gain_percent": min_gain,
        "pays": size_that_pays(totals, min_gain),
        "points": [
            {
                "entries": entries,
                "gain_percent_per_thousand": None if gain is None else round(gain, 3),
                "characters_per_token": {
                    name: round(characters[name] / count, 4) if count else 0.0 for name, count in tokens.items()
                },
            }
            for (entries, tokens), gain in zip(growth.points, [None, *gains_per_thousand(totals)], strict=True)
        ],
    }


def _memory(sizes: ModelSizes, more_entries: int, share: float) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the rows that a vocabulary has more, and of the KV cache of an equal text."""
    return {
        "rows_mb": round(more_entries * sizes.row_bytes() / 1e6, 3),
        "kv_cache_mb": round(round(CONTEXT * share) * sizes.kv_bytes() / 1e6, 3),
        "kv_tokens": round(CONTEXT * share),
    }
