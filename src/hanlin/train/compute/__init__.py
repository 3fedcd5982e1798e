"""The model that is trained, its layers, kernels and losses."""
