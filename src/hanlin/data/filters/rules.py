"""The table of text rules, and applying them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from hanlin.config.settings.quality import Quality
from hanlin.config.settings.rules import ANSWER_RULES, Rule
from hanlin.core.context import Inputs
from hanlin.data.filters.boilerplate import advertisement_lines, advertorials
from hanlin.data.filters.html import html
from hanlin.data.filters.language import chinese_share, language
from hanlin.data.filters.mojibake import mojibake
from hanlin.data.filters.ocr import markdown, ocr_debris
from hanlin.data.filters.pii import personal_data
from hanlin.data.filters.repetition import (
    ellipsis_lines,
    keyword_lists,
    repeated_characters,
    repeated_lines,
    repeated_phrases,
)
from hanlin.data.filters.text import (
    advertisements,
    chinese_or_english,
    control_characters,
    replacement_characters,
    symbols,
    unicode,
    whitespace,
)
from hanlin.data.ledger import Drop
from hanlin.data.text.quality_model import QualityModel

TextRule = Callable[[str], str | Drop]
"""Returns a text, perhaps changed, or the reason to drop it."""


def build_text_rules(rules: Iterable[Rule], *, chats: bool = False) -> list[tuple[str, TextRule]]:
    """Build the functions of the rules on text among `rules`, each with its parameters, as (name, function).

    Args:
        rules: Rules of a stage.
        chats: Leave out those that judge only answers in chats (`hanlin.data.filters.answers`).
    """
    return [
        (rule.name, partial(RULE_FUNCTIONS[rule.name], **rule.parameters))
        for rule in rules
        if rule.name in RULE_FUNCTIONS and not (chats and rule.name in ANSWER_RULES)
    ]


def build_quality_rules(settings: Quality | None, inputs: Inputs) -> list[tuple[str, TextRule]]:
    """Build the rule of the setting `quality`, as (name, function). Raises UserError if there is no model."""
    if settings is None:
        return []
    model = QualityModel.load(inputs.path("quality.model"))
    return [("quality", partial(quality, model=model, min_score=settings.min_score))]


def quality(text: str, model: QualityModel, min_score: float) -> str | Drop:
    """Drop a text that a model of the user's good and bad texts scores below `min_score`."""
    score = model.score(text)
    return Drop("low_quality", f"score {score:.2f}") if score < min_score else text


def clean_text(text: str, rules: Sequence[tuple[str, TextRule]]) -> tuple[str, tuple[str, ...]] | Drop:
    r"""Apply rules to a text in order.

    Lone surrogates (from `\ud83d` in JSON) are no text and are dropped whatever the rules.

    Returns:
        (text, names of the rules that changed it), or the first Drop.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return Drop("broken_characters", f"U+{ord(text[error.start]):04X}")
    changed = []
    for name, rule in rules:
        after = rule(text)
        if isinstance(after, Drop):
            return after
        if after != text:
            changed.append(name)
            text = after
    return text, tuple(changed)


RULE_FUNCTIONS: dict[str, Callable[..., str | Drop]] = {
    rule.__name__: rule
    for rule in (
        mojibake,
        html,
        unicode,
        control_characters,
        whitespace,
        replacement_characters,
        advertisement_lines,
        ellipsis_lines,
        keyword_lists,
        repeated_lines,
        repeated_phrases,
        repeated_characters,
        symbols,
        chinese_or_english,
        advertisements,
        markdown,
        ocr_debris,
        personal_data,
        chinese_share,
        language,
        advertorials,
    )
}
