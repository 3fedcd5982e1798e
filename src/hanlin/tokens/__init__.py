"""Text and conversations as token ids: tokenizers, vocabularies, chat templates and the packing of rows.

Owns every way from text to ids and back. Knows nothing of weights, losses or files of data.
"""
