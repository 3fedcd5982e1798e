"""Text to token ids and back; training and extending vocabularies."""
