"""GGUF: source, header, tensors, quantization, verification."""
