"""The command `hanlin`."""
