"""One rendering of a chat template: Jinja, special tokens, the texts that answers are learned from."""
