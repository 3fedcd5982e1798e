"""Whether a tokenizer of others can be used within bounds: sizes, the growth of texts, regular expressions."""
