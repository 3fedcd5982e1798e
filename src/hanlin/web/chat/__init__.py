"""The chat of the page: routes, the store of conversations, their export as training data."""
