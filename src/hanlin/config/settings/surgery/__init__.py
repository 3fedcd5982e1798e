"""Settings of the kinds that change the shape of a model or compose one from others."""
