"""Optimizers, learning-rate schedules, what is trainable."""
