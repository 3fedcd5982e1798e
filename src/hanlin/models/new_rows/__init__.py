"""How the rows of new tokens begin: from the rows of old tokens, or fitted to what the model does with the old ids."""
