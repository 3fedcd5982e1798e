"""Fixtures of the tests of training."""

from training_data import encoded, inputs, make_model, template

__all__ = ["encoded", "inputs", "make_model", "template"]
