"""A real Kubernetes on this machine for tests and for playing: see README.md."""
