"""Decoding with transformers."""
