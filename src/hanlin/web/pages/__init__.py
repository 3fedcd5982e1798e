"""Pages that are written as files."""
