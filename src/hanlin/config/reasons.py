"""Why rows are dropped and records are refused: the codes that files hold, and their words for people.

A ledger, a manifest and `dropped.jsonl` hold the code alone, so that programs can count by it; whoever reads a summary
or a page sees the words beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from hanlin.core.i18n import mark, tr

DROP_REASONS: dict[str, str] = {
    "broken_json": mark("the line is not JSON"),
    "undecodable": mark("the bytes are not text in the file's encoding"),
    "line_too_long": mark("the line is too long to be a record"),
    "broken_csv": mark("the row has more or fewer columns than the header"),
    "broken_characters": mark("it contains a lone surrogate, which is no character"),
    "other_format": mark("its format differs from the rest of the file"),
    "no_text": mark("it has no text"),
    "no_question": mark("it has no question"),
    "no_answer": mark("it has no answer"),
    "empty_turn": mark("a turn is empty"),
    "no_parent": mark("the message that it answers is not beside it"),
    "turn_order": mark("its turns are not in order"),
    "unknown_role": mark("a turn has an unknown role; name it with `roles` of a source, or --role NAME=user"),
    "broken_tool_call": mark("a tool call is not JSON with a name and arguments"),
    "missing_result": mark("a tool call has no result, though a later one has"),
    "broken_tools": mark("the list of tools is not JSON, or a tool has no name"),
    "not_text": mark("a turn holds something other than text"),
    "media": mark("it needs a picture, sound or video"),
    "unclosed_reasoning": mark("the reasoning of an answer has no end"),
    "broken_history": mark("the turns before the question are in no known form"),
    "loss_weight": mark("a turn has a loss weight other than 0 and 1"),
    "other_loss_mask": mark("its list of loss flags is not as long as its turns"),
    "low_rating": mark("its rating is below `min_rating`"),
    "broken_rating": mark("its rating is no number"),
    "marked_wrong": mark("the data marks its answer as wrong"),
    "nothing_to_learn": mark("none of its answers is to be learned"),
    "placeholder": mark("{{name}} or {{author}} is not filled in"),
    "refusal": mark("an answer begins with a refusal"),
    "unparsed_tags": mark("there is text outside the tags of the turns"),
    "tie": mark("both answers have the same score"),
    "chosen_scores_lower": mark("the chosen answer has the lower score"),
    "identical_answers": mark("the two answers are the same"),
    "no_label": mark("it has no label that says whether the answer is good"),
    "truncated_cells": mark("the viewer that exported it cut some of its cells"),
    "labeled": mark("it is an answer labeled good or bad, which `unpaired_preferences` reads"),
    "different_prompts": mark("the two answers have different prompts"),
    "mojibake": mark("it was decoded with the wrong encoding and cannot be repaired"),
    "replacement_characters": mark("it has too many replacement characters (U+FFFD)"),
    "too_short": mark("it is too short"),
    "too_long": mark("it is too long"),
    "repeated_lines": mark("too much of it is repeated lines"),
    "ellipsis_lines": mark("too many of its lines break off with an ellipsis"),
    "keyword_list": mark("it is a list of keywords or addresses"),
    "repeated_phrases": mark("too much of it is repeated phrases"),
    "repeated_characters": mark("too much of it repeats one character"),
    "symbols": mark("too much of it is symbols"),
    "other_language": mark("it is neither Chinese nor English"),
    "advertisement": mark("it is an advertisement"),
    "advertorial": mark("a company or clinic advertises itself in it"),
    "no_turns": mark("it has no turns"),
    "tool_turns": mark("the output format has no tool calls or tool results"),
    "system_not_first": mark("the output format allows one system turn, at the start"),
    "not_alternating": mark("the output format only has question and answer pairs"),
    "turn_flags": mark("the output format cannot say which turns are learned"),
    "empty_question_or_answer": mark("the output format treats an empty turn as missing"),
    "round_trip_mismatch": mark("reading it back would give another record"),
    "unwanted_language": mark("its language is not in the list to keep"),
    "little_chinese": mark("too little of it is Chinese"),
    "personal_data": mark("it contains personal data"),
    "blocklist": mark("it contains words of a blocklist"),
    "low_quality": mark("the quality model scores it low"),
    "ocr_debris": mark("it has too many OCR errors"),
    "truncated_answer": mark("an answer is truncated"),
    "answer_language": mark("an answer is in another language than the question"),
    "answer_too_long": mark("an answer is longer than the rule answer_length allows"),
    "answer_too_short": mark("an answer is shorter than the rule answer_length allows"),
    "contaminated": mark("it contains questions of an evaluation set"),
    "over_budget": mark("the token budget of the mix was used up"),
    "duplicate": mark("it is a duplicate"),
    "near_duplicate": mark("it is a near-duplicate"),
    "contained": mark("most of it is in a longer document"),
    "overlay": mark("a person dropped it in the overlay"),
}
"""Why a data stage drops a row."""

REFUSAL_REASONS: dict[str, str] = {
    "template_lacks_tools": mark("the chat template has no form for tools and their calls"),
    "template_lacks_reasoning": mark("the chat template has no form for reasoning"),
    "template_loses_text": mark("the chat template leaves out the text beside a tool call"),
    "template_refuses": mark("the chat template refuses the turns"),
    "template_rewrites_turns": mark("the chat template renders the turns otherwise in a prompt"),
}
"""What the short names of refusals mean."""

TRAINING_REASONS: dict[str, str] = {
    **REFUSAL_REASONS,
    "too_long": mark("longer than max_seq_length"),
    "empty": mark("without a token"),
    "empty_answer": mark("the answer is empty"),
    "identical_answers": mark("both answers are the same"),
    "one_answer_thinks": mark("only one of two answers has reasoning, and the template writes another prompt for it"),
    "nothing_to_learn": mark("no answer is learned"),
    "truncate_turns": mark("last turns dropped, for max_seq_length"),
}
"""Why training does not learn from a record, or what it changed in it."""

_REASONS_OF_METRICS: dict[str, Mapping[str, str]] = {
    "dropped": DROP_REASONS,
    "refused": TRAINING_REASONS,
    "changed": TRAINING_REASONS,
}
"""The metrics of stages that count by reason; what a data stage changed is counted by rule, whose name is no reason."""


def describe_reason(reason: str) -> str:
    """Describe a reason of `DROP_REASONS` in the user's language."""
    return tr(DROP_REASONS[reason])


def describe_training_reason(reason: str) -> str:
    """Describe a reason of `TRAINING_REASONS` in the user's language; empty if it is none."""
    return tr(TRAINING_REASONS[reason]) if reason in TRAINING_REASONS else ""


def name_count(metric: str, name: str) -> str:
    """What a part of a metric that counts is called: a reason by its code and its words, all else by its name."""
    why = _REASONS_OF_METRICS.get(metric, {}).get(name)
    return name if why is None else tr("{reason} ({why})", reason=name, why=tr(why))
