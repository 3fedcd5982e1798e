"""Commands that serve: the APIs of models, and the page."""
