"""How long tests wait: as long as anything moves; and what does not count against a test's time limit.

No test knows how fast its machine is. A wait ends in failure only when nothing that it watches has changed for
PATIENCE_SECONDS, and a program that cannot be watched gets PATIENCE_SECONDS as its time limit. Both grow on a machine
whose processors are slower than those for which they were chosen. That other programs are busy is allowed for already.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Result = TypeVar("Result")

_VARIABLE = "RFT_TEST_SLOWNESS"
_REFERENCE_SECONDS = 0.05
"""What `_measure` returned on an idle machine of those for which the numbers here were chosen."""


def _measure() -> float:
    """Seconds of processor time that a fixed piece of work takes."""
    started = time.process_time()
    sum(number * number % 7 for number in range(600_000))
    return time.process_time() - started


def _slowness() -> float:
    """How many times slower this machine is than the reference, at least 1.

    The first process measures it. Those that it starts, pytest's workers among them, inherit the result.
    """
    if _VARIABLE not in os.environ:
        median = sorted(_measure() for _ in range(5))[2]
        os.environ[_VARIABLE] = f"{max(1.0, median / _REFERENCE_SECONDS):.2f}"
    return float(os.environ[_VARIABLE])


SLOWNESS = _slowness()
PATIENCE_SECONDS = 600.0 * SLOWNESS
"""For what takes seconds where it has a processor of its own: other tests may take nearly all of them."""


def wait_until(
    holds: Callable[[], Result],
    watch: Callable[[], object] | None = None,
    explain: Callable[[], object] = lambda: "",
    pause: float = 0.1,
) -> Result:
    """Wait until `holds()` is true, and return what it returned.

    Args:
        holds: called again and again; raises an error where it can no longer become true.
        watch: what moves meanwhile, by default what `holds` returned. While this changes, the wait goes on. It must
            not contain what changes without any progress, such as the time.
        explain: called when the wait fails, for the message.
        pause: seconds between two calls.

    Raises:
        AssertionError: nothing has changed for PATIENCE_SECONDS; with what was seen last.
    """
    last: object = None
    changed = time.monotonic()
    while not (result := holds()):
        seen = watch() if watch else result
        if seen != last:
            last, changed = seen, time.monotonic()
        if time.monotonic() - changed > PATIENCE_SECONDS:
            raise AssertionError(f"nothing has changed for {PATIENCE_SECONDS:.0f} s:\n{last}\n{explain()}")
        time.sleep(pause)
    return result


@contextmanager
def uncounted() -> Iterator[None]:
    """Stop the running test's clock: for waiting for what several tests share, and for builds."""
    with limited(0):
        yield


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop the running test's clock, and give what is done meanwhile a time limit of its own; 0 is none.

    The clock is the alarm that pytest-timeout has set. Where it is not set, nothing is limited.
    """
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    if left:
        signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        if left:
            signal.setitimer(signal.ITIMER_REAL, left)
