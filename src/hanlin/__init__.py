"""Hanlin (翰林) makes Llama models good at Chinese: from raw text to a served chat model, one recipe, one command."""

from __future__ import annotations

from hanlin.core.version import __version__

TYPE_CHECKING = False  # `typing` takes most of the time in which Ctrl-C still ends the command with a traceback
if TYPE_CHECKING:
    from typing import Any

    from hanlin.api import Engine, Plan, Recipe, RunResult, convert, load_engine, plan, read_records, run
    from hanlin.chat.template import ChatTemplate
    from hanlin.core.errors import UserError
    from hanlin.core.records import Conversation, Document, Message
    from hanlin.pipeline.artifacts import Store
    from hanlin.tokenizer.tokenizer import Tokenizer

__all__ = [
    "ChatTemplate",
    "Conversation",
    "Document",
    "Engine",
    "Message",
    "Plan",
    "Recipe",
    "RunResult",
    "Store",
    "Tokenizer",
    "UserError",
    "__version__",
    "convert",
    "load_engine",
    "plan",
    "read_records",
    "run",
]

_MODULES = {
    "ChatTemplate": "hanlin.chat.template",
    "Conversation": "hanlin.core.records",
    "Document": "hanlin.core.records",
    "Message": "hanlin.core.records",
    "Store": "hanlin.pipeline.artifacts",
    "Tokenizer": "hanlin.tokenizer.tokenizer",
    "UserError": "hanlin.core.errors",
}
"""Where public names are, if not in `hanlin.api`."""


def __getattr__(name: str) -> Any:
    """Fetch a public name when it is first used, so that `import hanlin` loads nothing heavy."""
    if name not in __all__:
        raise AttributeError(f"module 'hanlin' has no attribute '{name}'")
    import importlib

    value = getattr(importlib.import_module(_MODULES.get(name, "hanlin.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
