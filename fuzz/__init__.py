"""Fuzzers of what others give to Hanlin: model files, templates, adapters, manifests, recipes, data, requests."""
