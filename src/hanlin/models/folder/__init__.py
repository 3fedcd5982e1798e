"""What a model folder holds, read from headers, without torch."""
