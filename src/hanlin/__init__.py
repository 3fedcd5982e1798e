"""Hanlin (翰林) makes Llama models good at Chinese: from raw text to a served chat model, one recipe, one command."""

__version__ = "0.1.0"
