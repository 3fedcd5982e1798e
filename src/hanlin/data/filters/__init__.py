"""Rules that mend or drop a record."""
