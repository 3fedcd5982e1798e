"""Messages on rows of their own, ranked replies in trees of them, and answers with a verdict."""
