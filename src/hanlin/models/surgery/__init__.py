"""Stages that change the shape of a model, each verified against the model that it was made from."""
