"""The chat contract: whether other programs give a conversation the ids that it was trained with."""
