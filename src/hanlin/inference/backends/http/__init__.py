"""Decoding with a server over HTTP: llama-server, vLLM, replicas."""
