"""Models as weights: loading and saving them whole, birth, vocabulary growth, adapters and merging.

Owns what happens to weights outside of training. Does not own token ids (`tokens/`) or the loop (`train/`).
"""
