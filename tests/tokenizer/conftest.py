"""Tokenizer folders that the tests of this package share."""

from tokenizer_folders import llama2, llama3, template, tiny_sentencepiece, tokenizer

__all__ = ["llama2", "llama3", "template", "tiny_sentencepiece", "tokenizer"]
