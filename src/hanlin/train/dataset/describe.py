"""What became of the records of a data set, in sentences for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from hanlin.config.reasons import describe_training_reason
from hanlin.core.i18n import join_list, mark, tr
from hanlin.train.dataset.encoded import EncodedRecords

_NOTES = {
    "several_examples": mark(
        "{count:,} conversations became several examples, each with the prompt that is served: the chat template "
        "rewrites earlier turns"
    ),
    "reasoning_dropped": mark("{count:,} records are learned without their reasoning, as the settings or the rows say"),
    "spells_thinking_tags": mark(
        "{count:,} records have an answer that spells a thinking tag such as <think> in its text: it is learned as "
        "plain text, not as the tag of the chat template"
    ),
    "ends_with_end_token": mark(
        "{count:,} records have an answer whose text ends with a spelled end token of some chat template: it is "
        "learned as plain text before the end token of this one; take it off the data"
    ),
}


def describe_encoding(encoded: EncodedRecords) -> Iterator[str]:
    """Sentences on the records that were refused or changed, and on what should be known before training."""
    total = encoded.record_count + sum(encoded.refused.values())
    if encoded.refused:
        dropped = sum(encoded.refused.values())
        reasons = join_list(_count(reason, count) for reason, count in _largest_first(encoded.refused))
        yield tr(
            "{dropped:,} of {total:,} records are not learned from: {reasons}",
            dropped=dropped,
            total=total,
            reasons=reasons,
        )
        for detail in encoded.details.values():
            yield tr("the first: {detail}", detail=detail)
    if encoded.changed:
        changed = sum(encoded.changed.values())
        reasons = join_list(_count(reason, count) for reason, count in _largest_first(encoded.changed))
        yield tr(
            "{changed:,} of {total:,} records are changed: {reasons}", changed=changed, total=total, reasons=reasons
        )
    for note, count in _largest_first(encoded.notes):
        yield tr(_NOTES[note], count=count)


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _count(reason: str, count: int) -> str:
    return f"{describe_training_reason(reason) or reason} ({count:,})"
