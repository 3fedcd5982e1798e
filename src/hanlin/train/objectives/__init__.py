"""Losses: next token, pairwise preferences, KTO."""
