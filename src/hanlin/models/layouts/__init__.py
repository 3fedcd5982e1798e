"""Other layouts of weights than a folder of safetensors: GGUF files, Meta's checkpoints, pickles."""
