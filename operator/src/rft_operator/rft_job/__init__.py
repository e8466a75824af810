"""RFTJob: a training run, as one Job after another."""
