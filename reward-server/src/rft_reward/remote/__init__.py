"""Rewards that other services compute: judges, AWS Lambdas and HTTP servers; asked from the server's own process."""
