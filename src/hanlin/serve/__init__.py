"""The HTTP server of trained models: OpenAI's, Ollama's and a plain API over one generation service."""
