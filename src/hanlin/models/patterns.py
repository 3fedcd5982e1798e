"""Regular expressions in an adapter's configuration, tried in a child process before PEFT matches layers with them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.core.limits import MAX_PATTERN_CHARACTERS, MAX_PATTERNS
from hanlin.core.process import BoundsExceededError, run_bounded

_NAME = re.compile(r"[\w.\-]+")
_MATCH_SECONDS = 5.0


def check_patterns(config: Mapping[str, Any], names: Sequence[str], where: Path) -> None:
    """Match every pattern of an adapter with every layer in a child process, which can be ended.

    PEFT takes `target_modules` and `exclude_modules` as patterns if they are texts, and names in `modules_to_save`,
    `layers_pattern`, `rank_pattern` and `alpha_pattern` always.

    Args:
        config: Content of `adapter_config.json`, checked by `check_adapter_config`.
        names: The names of the model's layers.
        where: The file, for messages.

    Raises:
        UserError: A pattern is no regular expression, too long, or takes too long to match.
    """
    patterns = []
    for name in ("target_modules", "exclude_modules"):
        patterns += [config[name]] if isinstance(config.get(name), str) else []
    for name in ("modules_to_save", "layers_pattern", "rank_pattern", "alpha_pattern"):
        value = config.get(name) or []
        patterns += [value] if isinstance(value, str) else list(value)
    patterns = [pattern for pattern in patterns if not _NAME.fullmatch(pattern)]
    if not patterns:
        return
    if len(patterns) > MAX_PATTERNS or max(map(len, patterns)) > MAX_PATTERN_CHARACTERS:
        what = tr(
            "more than {count} regular expressions, or one of more than {limit:,} characters",
            count=MAX_PATTERNS,
            limit=MAX_PATTERN_CHARACTERS,
        )
        raise UserError(what, where)
    hint = tr("write the names of the layers as a list: target_modules: [q_proj, v_proj]")
    try:
        run_bounded("hanlin.models.patterns:match_all", [patterns, list(names)], seconds=_MATCH_SECONDS)
    except BoundsExceededError as error:
        what = tr("a regular expression takes too long to match the layers' names")
        raise UserError(what, where, hint) from error
    except RuntimeError as error:
        raise UserError(tr("not a regular expression: {error}", error=error), where, hint) from error


def match_all(argument: tuple[list[str], list[str]]) -> int:
    """Match patterns with names in the ways that PEFT does; the child's work."""
    patterns, names = argument
    found = 0
    for pattern in patterns:
        for form in (
            pattern,
            rf"(.*\.)?({pattern})$",
            rf"(^|.*\.){pattern}($|\..*)",
            rf"(?:^|.*?\.){pattern}\.(\d+)\.",
        ):
            compiled = re.compile(form)
            found += sum(compiled.match(name) is not None for name in names)
            found += sum(compiled.fullmatch(name) is not None for name in names)
    return found
