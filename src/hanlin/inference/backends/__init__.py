"""The programs that decode: transformers, llama.cpp, and servers over HTTP."""
