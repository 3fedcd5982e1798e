"""Limits on model files of others: sizes and counts that no real model comes near.

Each is checked before memory is taken or anything is looped. `docs/en/model_files.md` lists them; a test compares.
"""

from __future__ import annotations

MIB = 1 << 20

MAX_SETTINGS_BYTES = 16 * MIB
"""A JSON file of settings (`config.json`, `tokenizer_config.json`, an index). The largest known is 3 MB."""
MAX_TOKENIZER_BYTES = 64 * MIB
"""`tokenizer.json`: Gemma 3's, of 262,144 tokens, has 33 MB."""
MAX_SENTENCEPIECE_BYTES = 32 * MIB
"""`tokenizer.model`: Gemma 3's has 4.7 MB."""
MAX_JSON_DEPTH = 64
"""Objects and lists within each other."""
MAX_JSON_BITS = 128
"""Bits of an integer: `model_max_length` is 10**30 in many files, which has 100."""
MAX_HEADER_BYTES = 8 * MIB
"""The header of a safetensors file: 100 bytes for each tensor. One of 90 MB took 20 s and 1.8 GB."""
MAX_TENSORS = 65_536
"""Tensors of a model in all its files: Mixtral 8x22B has 1,739."""
MAX_DIMENSIONS = 8
"""Dimensions of a tensor."""
MAX_SIZE = (1 << 31) - 1
"""A size of a model: width, heads, layers, positions."""
MAX_SHARDS = 4_096
"""Weight files that an index names."""
MAX_VOCABULARY = 1_048_576
"""Tokens: Gemma 3 has 262,144."""
MAX_ADDED_TOKENS = 65_536
"""Tokens outside the model's own vocabulary: Llama 3 has 256."""
MAX_TOKEN_CHARACTERS = 1_024
"""A token: the longest of Llama 3 has 128."""
MAX_VOCABULARY_CHARACTERS = 16 * MIB
"""All tokens together: Gemma 3's have 2 million."""
MAX_GGUF_BYTES = 256 * MIB
"""The metadata of a GGUF file: 15 MB for 262,144 tokens."""
MAX_GGUF_KEYS = 65_536
"""Keys of a GGUF file's metadata: usual are 30."""
MAX_GGUF_ITEMS = 4 * MAX_VOCABULARY
"""Items of a list in a GGUF file: merges, which are somewhat more than tokens."""
MAX_RANK = 16_384
"""The rank of a LoRA: usual are 8 to 256."""
MAX_PATTERN_CHARACTERS = 8_192
"""A regular expression of a tokenizer or an adapter: the longest known has 600."""
MAX_PATTERNS = 256
"""Regular expressions of one file."""
MAX_TEMPLATE_CHARACTERS = 65_536
"""A chat template: gpt-oss's, one of the longest known, has 16,000. One of this length takes 5 s at most to compile."""
MAX_TEXT_GROWTH = 64
"""How many bytes a tokenizer's normalizers may make of one byte of text."""
