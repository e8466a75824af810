"""The graders: what computes scores inside a worker."""
