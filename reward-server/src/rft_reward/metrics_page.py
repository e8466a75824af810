"""Makes the page with the metrics as often as there is time for it: whoever reaches the port may ask for it."""

from __future__ import annotations

import time
from collections.abc import Callable

from rft_api.foreign import server_limits


class MetricsPage:
    """A page that is sent again while making it has taken its share of the processor's time.

    Args:
        make: makes the page.
        clock: returns the time in seconds.
        processor_clock: returns the processor time of the calling thread, in seconds.
    """

    def __init__(
        self,
        make: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
        processor_clock: Callable[[], float] = time.thread_time,
    ):
        self._make = make
        self._clock = clock
        self._processor_clock = processor_clock
        self._left = server_limits.PAGE_SECONDS
        self._counted_at = clock()
        self._content = b""

    def content(self) -> bytes:
        """Return the page, or the last one that was made while there is no time to make another."""
        now = self._clock()
        earned = (now - self._counted_at) * server_limits.PAGE_SHARE
        self._left, self._counted_at = min(server_limits.PAGE_SECONDS, self._left + earned), now
        if self._left > 0 or not self._content:
            start = self._processor_clock()
            self._content = self._make()
            self._left -= self._processor_clock() - start
        return self._content
