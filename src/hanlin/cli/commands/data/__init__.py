"""`hanlin data ...`."""
