"""The chat contract: one conversation, the same token ids in every program that serves the model."""
