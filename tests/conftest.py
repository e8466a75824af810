"""What all tests may use: the test cluster's parts, built and started only for tests that ask for them."""

import gc

pytest_plugins = ["support.limits", "support.running", "cluster.fixtures"]

# What tests import stays: to look through it for garbage, again and again, takes longer than many a test.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on, there is garbage."""
    gc.freeze()
    gc.enable()
