"""Optimizers, the learning-rate schedule, and which weights are trained."""
