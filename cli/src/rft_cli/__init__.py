"""rft, the command line: run, validate, score, report and prepare data on this machine."""
