"""What all tests may use: the test cluster's parts, built and started only for tests that ask for them."""

pytest_plugins = ["cluster.fixtures"]
