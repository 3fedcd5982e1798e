"""The data stages."""
