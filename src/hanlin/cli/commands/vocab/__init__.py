"""`hanlin vocab ...`."""
