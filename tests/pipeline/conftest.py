"""Fixtures of the tests of the pipeline."""

from tokenizer_folders import llama2, llama3

__all__ = ["llama2", "llama3"]
