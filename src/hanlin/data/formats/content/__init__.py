"""What a turn holds besides plain text: its role, reasoning, tool calls, tools, pictures, and whether it is learned."""
