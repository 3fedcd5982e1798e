"""Filter rules: their names, parameters and default sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hanlin.config.settings.base import Settings, setting
from hanlin.core.errors import did_you_mean
from hanlin.core.i18n import tr

Parameter = bool | int | float | str

PERSONAL_DATA = ("email", "id_card", "bank_card", "mobile", "network", "qq", "wechat")
"""The kinds of data that the rule `personal_data` finds."""

KEPT_LANGUAGES = ("zh-Hans", "zh-Hant", "yue", "en", "other")
"""The languages that the rule `language` tells apart."""

CHOICES: dict[tuple[str, str], tuple[str, ...]] = {
    ("personal_data", "of"): PERSONAL_DATA,
    ("language", "keep"): KEPT_LANGUAGES,
}
"""The words that a parameter takes which lists words, by rule and parameter."""

TEXT_RULES: dict[str, dict[str, Parameter]] = {
    "mojibake": {"tolerated": 0.005},
    "html": {},
    "unicode": {},
    "control_characters": {},
    "whitespace": {},
    "replacement_characters": {"most_cut": 0.2, "allowed": 5},
    "advertisement_lines": {"longest": 80, "share": 0.5},
    "ellipsis_lines": {"share": 0.3, "least": 3},
    "keyword_lists": {"least": 12},
    "repeated_lines": {"share": 0.5},
    "repeated_characters": {"share": 0.2, "run": 10},
    "repeated_phrases": {"share": 0.6, "length": 15},
    "symbols": {"share": 0.4},
    "chinese_or_english": {"share": 0.7},
    "advertisements": {"per_thousand": 5.0, "different": 3},
    "advertorials": {"min_probability": 0.5},
}
"""The rules on text of the default set with their default parameters, in the order in which they apply."""

CHOSEN_TEXT_RULES: dict[str, dict[str, Parameter]] = {
    "markdown": {},
    "ocr_debris": {"share": 0.02},
    "personal_data": {"action": "mask", "of": " ".join(PERSONAL_DATA)},
    "chinese_share": {"share": 0.3},
    "language": {"keep": "zh-Hans zh-Hant yue en", "shortest": 10},
}
"""Further rules on text, which apply if they are named."""

ANSWER_RULES: dict[str, dict[str, Parameter]] = {
    "repeated_lines": {"share": 0.5},
    "repeated_characters": {"share": 0.2, "run": 10},
    "repeated_phrases": {"share": 0.75, "length": 15, "copied": 0.45},
    "symbols": {"share": 0.5},
}
"""The rules on text that judge only answers in chats, with their default parameters there; same names as above."""

TURN_RULES: dict[str, dict[str, Parameter]] = {
    "end_marks": {},
    "placeholders": {},
    "refusals": {},
    "unanswered_end": {},
    "empty_turns": {},
    "turn_order": {},
    "truncated_answers": {"longest_open": 40},
    "answer_language": {"share": 0.8, "shortest": 20},
    "answer_length": {"longest": 300, "shortest": 1},
}
"""The rules on turns and whole conversations with their default parameters."""

CORPUS_RULES = tuple(TEXT_RULES)

ALL_TEXT_RULES = TEXT_RULES | CHOSEN_TEXT_RULES

ALL_CHAT_RULES = ALL_TEXT_RULES | ANSWER_RULES | TURN_RULES

CHAT_RULES = (
    "mojibake",
    "unicode",
    "control_characters",
    "end_marks",
    "placeholders",
    "unanswered_end",
    "empty_turns",
    "turn_order",
)

ALL_PREFERENCE_RULES = ALL_TEXT_RULES | ANSWER_RULES | {"end_marks": TURN_RULES["end_marks"]}

PREFERENCE_RULES = ("mojibake", "unicode", "control_characters", "end_marks")


class Rule(Settings):
    """A rule with all its parameters."""

    name: str = setting(..., "name of the rule")
    parameters: dict[str, Parameter] = setting({}, "its parameters")


def read_rules(value: Any, known: Mapping[str, Mapping[str, Parameter]], default: tuple[str, ...]) -> list[Any]:
    """The rules that a list in a recipe means, each with all its parameters.

    A name takes the default parameters, `default` means the default set, `{name: {parameter: value}}` sets some
    parameters (of the rule that is there already, if so), and `{name: false}` removes the rule.

    Args:
        value: The list.
        known: All rules that the stage has, with their default parameters.
        default: The names of the default set.

    Returns:
        A list of `{name, parameters}`.

    Raises:
        ValueError: A rule or parameter is not known, or a value has the wrong type.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(tr("a list of rules is expected"))
    chosen: dict[str, dict[str, Parameter]] = {}
    for item in value:
        for name, options in _rule_items(item, default):
            if name not in known:
                near = did_you_mean(name, known)
                raise ValueError(tr("no rule '{name}' ({near})", name=name, near=near))
            if options is False:
                chosen.pop(name, None)
                continue
            options = {} if options in (None, True) else options
            if not isinstance(options, Mapping):
                raise ValueError(tr("rule '{name}' takes a mapping of parameters, or false", name=name))
            parameters = chosen.setdefault(name, dict(known[name]))
            for key, parameter in options.items():
                parameters[key] = _parameter(name, key, parameter, known[name])
    return [{"name": name, "parameters": parameters} for name, parameters in chosen.items()]


def _rule_items(item: Any, default: tuple[str, ...]) -> list[tuple[str, Any]]:
    if isinstance(item, Rule):
        return [(item.name, item.parameters)]
    if item == "default":
        return [(name, None) for name in default]
    if isinstance(item, str):
        return [(item, None)]
    if isinstance(item, Mapping) and "name" in item:
        return [(str(item["name"]), item.get("parameters"))]
    if isinstance(item, Mapping):
        return [(str(name), options) for name, options in item.items()]
    raise ValueError(tr("a rule is a name or {name: {parameter: value}}"))


def _parameter(rule: str, key: str, value: Any, known: Mapping[str, Parameter]) -> Parameter:
    if key not in known:
        near = did_you_mean(key, known) or tr("it takes none")
        raise ValueError(tr("rule '{rule}' has no parameter '{key}' ({near})", rule=rule, key=key, near=near))
    default = known[key]
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise ValueError(tr("parameter '{key}' of rule '{rule}' is of type {kind}", key=key, rule=rule, kind=kind))
    if isinstance(value, str):
        _check_choices(rule, key, value)
    if isinstance(value, int | float) and value < 0:
        raise ValueError(tr("parameter '{key}' of rule '{rule}' must not be negative", key=key, rule=rule))
    return value  # type: ignore[no-any-return]


def _check_choices(rule: str, key: str, value: str) -> None:
    """Raise ValueError for a word that a parameter does not take."""
    known = CHOICES.get((rule, key)) or (("mask", "drop") if key == "action" else ())
    chosen = value.replace(",", " ").split()
    for word in chosen:
        if word not in known:
            near = did_you_mean(word, known)
            raise ValueError(
                tr("'{key}' of rule '{rule}' does not take '{word}' ({near})", key=key, rule=rule, word=word, near=near)
            )
    choices = " ".join(known)
    if not chosen or (key == "action" and len(chosen) > 1):
        raise ValueError(tr("'{key}' of rule '{rule}' takes {choices}", key=key, rule=rule, choices=choices))
