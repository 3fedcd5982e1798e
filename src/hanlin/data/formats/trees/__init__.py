"""Messages on rows of their own, joined to conversations, and the ranked replies in trees of them."""
