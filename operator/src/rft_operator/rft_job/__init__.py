"""RFTJob: a training run, attempt after attempt."""
