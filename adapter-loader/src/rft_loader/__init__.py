"""The adapter loader: fetches models for a vLLM server and keeps its adapters as a list says."""
