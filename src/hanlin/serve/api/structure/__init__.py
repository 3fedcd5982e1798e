"""What an answer must fit: a schema, pattern or grammar, calls of tools in the form of the model's template."""
