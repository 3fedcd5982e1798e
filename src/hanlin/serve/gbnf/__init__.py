"""GBNF, the grammars of llama.cpp: read, and written as Lark of the same language."""
