"""The error for a conversation that a chat template has no form for."""

from __future__ import annotations

from hanlin.core.errors import UnsupportedToolsError, UserError


class TemplateRefusal(UserError):
    """A chat template cannot render a conversation, or would lose a part of it.

    Attributes:
        reason: Its short name in `config.reasons.REFUSAL_REASONS`, by which such records are counted.
    """

    def __init__(self, reason: str, what: str, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what, where, hint)
        self.reason = reason

    def __reduce__(self) -> tuple[type[TemplateRefusal], tuple[str, str, str | None, str | None]]:  # type: ignore[override]
        return (type(self), (self.reason, self.what, self.where, self.hint))


class ToolsRefusal(TemplateRefusal, UnsupportedToolsError):
    """A chat template has no form for tools and their calls."""
