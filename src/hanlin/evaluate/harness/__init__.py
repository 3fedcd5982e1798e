"""lm-evaluation-harness's own task files, asked of Hanlin's engines and of servers, over local data."""
