"""rft, the command line: run, validate, score and report on this machine."""
