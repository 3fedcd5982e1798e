"""How sources and rules are written in a recipe."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hanlin.config.settings import rules as rules_module
from hanlin.config.settings import sources as sources_module
from hanlin.config.settings.base import key_settings, references
from hanlin.config.settings.data import Conversations, Corpus, Preferences, UnpairedPreferences
from hanlin.config.settings.rules import CORPUS_RULES
from hanlin.data.filters import conversation
from hanlin.data.formats import chats, documents, preferences, unpaired_preferences


@pytest.mark.parametrize("sources", ["./a", ["./a"], {"path": "./a"}, [{"path": "./a"}]])
def test_one_source_needs_no_list_and_no_mapping(sources: Any) -> None:
    assert [reference.text for reference in references(Corpus(sources=sources))] == ["./a"]
    assert [reference.field for reference in references(Corpus(sources=sources))] == ["sources.0.path"]


def test_settings_survive_their_own_json() -> None:
    for kind in (Corpus, Conversations, Preferences, UnpairedPreferences):
        settings = kind(sources=["./a", {"path": "./b", "license": "MIT"}])
        assert kind.model_validate_json(settings.model_dump_json()) == settings


def test_every_parameter_of_every_rule_counts_in_the_key() -> None:
    rules = key_settings(Corpus(sources="./a"))["rules"]
    assert [rule["name"] for rule in rules] == list(CORPUS_RULES)
    assert {"name": "symbols", "parameters": {"share": 0.4}} in rules


def test_a_rule_named_again_replaces_the_first() -> None:
    rules = Corpus(sources="./a", rules=["default", {"symbols": {"share": 1}}]).rules
    assert [rule.name for rule in rules] == list(CORPUS_RULES)
    assert next(rule for rule in rules if rule.name == "symbols").parameters == {"share": 1.0}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rules": ["symbol"]}, "did you mean symbols"),
        ({"rules": [{"symbols": {"shares": 1}}]}, "did you mean share"),
        ({"rules": [{"symbols": {"share": "much"}}]}, "type float"),
        ({"rules": [{"symbols": {"share": -1}}]}, "negative"),
        ({"rules": [{"symbols": 3}]}, "mapping"),
        ({"rules": 7}, "list of rules"),
        ({"rules": ["turn_order"]}, "no rule 'turn_order'"),
        ({"sources": [{"path": "./a", "format": "jsonn"}]}, "known: auto, text"),
        ({"sources": [{"path": "./a", "fields": {"body": "x"}}]}, "no field 'body'"),
        ({"sources": []}, "at least 1"),
        ({"min_chars": 9, "max_chars": 3}, "less than"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_reason(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Corpus(**{"sources": "./a", **settings})


def test_the_names_of_formats_and_rules_are_those_of_their_functions() -> None:
    assert {known.name for known in documents.DOCUMENT_FORMATS} == set(sources_module.DOCUMENT_FORMAT_NAMES)
    assert [known.name for known in chats.CHAT_FORMATS] == list(sources_module.CHAT_FORMAT_NAMES)
    assert [known.name for known in preferences.PREFERENCE_FORMATS] == list(sources_module.PREFERENCE_FORMAT_NAMES)
    assert [known.name for known in unpaired_preferences.UNPAIRED_FORMATS] == list(sources_module.UNPAIRED_FORMAT_NAMES)
    assert set(conversation.TURN_RULES) == set(rules_module.TURN_RULES)
