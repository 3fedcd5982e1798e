"""GGUF: source, header, tensors, quantization, verification; and the way back to a model folder."""
