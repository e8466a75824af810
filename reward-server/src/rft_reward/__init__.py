"""The reward server: scores completions over HTTP."""
