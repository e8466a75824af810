"""Generates the parts of the Helm chart that come from the code."""
