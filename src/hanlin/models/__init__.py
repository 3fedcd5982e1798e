"""Models as weights: loading, saving, adapters, and the stages that change a model."""
