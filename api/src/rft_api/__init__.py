"""The vocabulary that all parts share: resources, the reward protocol, a training run's configuration and files."""
