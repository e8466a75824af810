"""What the pods of all resources have in common: how they are built, and how their state is read."""
