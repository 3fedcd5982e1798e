"""What all APIs share (HTTP, streaming, request fields, tool calls, embeddings), and the plain API."""
