"""The chat contract, checked: what Hanlin trains and serves is what every other program reads, id by id."""
