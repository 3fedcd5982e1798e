"""Commands to begin with: the catalog, and a first recipe."""
