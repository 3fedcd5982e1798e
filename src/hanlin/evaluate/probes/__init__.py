"""Probes of chat behavior: prompts whose answers show a habit (its language, where it ends, what it refuses)."""
