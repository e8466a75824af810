"""The gateway in a cluster: follows endpoints, their servers and keys at the API server, and wakes endpoints there."""
