"""The rewards that other services compute: judges, AWS Lambdas and HTTP servers. The server's process asks them."""
