"""Generating and scoring from token ids, whatever the backend."""
