"""Measurements of a finished model: answers, perplexity, exams. Does not own engines, tokens or what is trained."""
