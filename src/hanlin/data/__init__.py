"""From files as they are found to records: reading, cleaning, removing copies, and an account of every row.

Owns documents, conversations, preferences and unpaired_preferences up to their text. Does not own token ids (`hanlin.tokens`).
"""
