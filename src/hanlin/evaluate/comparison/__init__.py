"""Comparison of models by the answers that evaluations kept: paired intervals, forgetting, questions won and lost."""
