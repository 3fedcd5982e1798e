"""Duplicates and contamination."""
