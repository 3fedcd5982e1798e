"""Recipes and settings: what a user may write, checked before anything runs."""
