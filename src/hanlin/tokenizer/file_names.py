"""File names of a tokenizer."""

from __future__ import annotations

TOKENIZER_FILE = "tokenizer.json"


CONFIG_FILE = "tokenizer_config.json"


SENTENCEPIECE_FILE = "tokenizer.model"


TEMPLATE_FILE = "chat_template.jinja"


GENERATION_FILE = "generation_config.json"
