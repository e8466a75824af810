"""A pytest plugin: the time limit of a test grows with the machine's slowness and leaves out what several tests share.

A fixture that several tests share has a time limit of its own, as long as a test's.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import pytest_timeout

from support.patience import SLOWNESS, limited

_LIMIT = pytest.StashKey[float]()


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> object:
    """Start the clock of a test; it is called before the same hook of pytest-timeout, and in its place."""
    limit = settings.timeout * SLOWNESS
    item.config.stash[_LIMIT] = limit
    # Only a signal's alarm can be stopped.
    return pytest_timeout.pytest_timeout_set_timer(item, settings._replace(timeout=limit, method="signal"))


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, object, object]:
    """Make a fixture; one that several tests share does not take the time of the first of them."""
    if fixturedef.scope == "function":
        return (yield)
    with limited(request.config.stash.get(_LIMIT, 0)):
        return (yield)
