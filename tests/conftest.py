"""What all tests may use: the test cluster's parts, built and started only for tests that ask for them."""

import gc

from hypothesis import HealthCheck, settings

pytest_plugins = ["support.limits", "support.running", "support.postgres", "cluster.fixtures"]

# Examples have no time limit: a busy machine may stand still for longer than the default, a fifth of a second.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# What tests import stays: to look through it for garbage, again and again, takes longer than many a test.
gc.disable()


def pytest_collection_finish() -> None:
    """From here on, there is garbage."""
    gc.freeze()
    gc.enable()
