"""Faces of a finished model: an HTTP server that speaks OpenAI's language, and a chat in the terminal."""
