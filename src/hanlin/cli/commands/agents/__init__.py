"""What a coding agent sees: `hanlin mcp`, a server of read-only tools over the Model Context Protocol."""
