"""The adapter loader: fetches models for a vLLM server, and makes the server serve the adapters of a list."""
