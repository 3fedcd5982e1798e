"""Hanlin (翰林) makes Llama models good at Chinese: from raw text to a served chat model, one recipe, one command."""

from hanlin.core.version import __version__

__all__ = ["__version__"]
