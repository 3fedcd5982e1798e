"""Commands on hubs: `hanlin pull`, `hanlin upload` and `hanlin cache ...`."""
