"""Training: one loop over objectives given as values.

Owns how records become rows, what is optimized, and that a run which was killed ends as if it had not been. Knows
nothing of recipes, keys or manifests.
"""
