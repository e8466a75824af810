"""Sends what a run has written to its trackers: one process for each, which the trainer never waits for."""
