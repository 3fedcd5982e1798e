"""A finished model in the forms that other programs run, each proven against its source. Does not own running it."""
