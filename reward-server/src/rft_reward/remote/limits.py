"""Bounds of what a service is asked: requests at once, requests and tokens a minute, and pauses that it asks for."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

WINDOW_SECONDS = 60.0


@dataclass
class Use:
    """One request's share of the limits."""

    started: float
    tokens: int
    """An estimate, until the caller puts the true number here."""


class Limiter:
    """Lets requests through in the order in which they came, as fast as the limits allow.

    Args:
        concurrency: requests at the same time.
        requests_per_minute: requests in any window of 60 seconds; as many as there are when absent.
        tokens_per_minute: tokens in any such window; a request that is larger than this waits for an empty one.
    """

    def __init__(self, concurrency: int, requests_per_minute: int | None = None, tokens_per_minute: int | None = None):
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._slots = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._uses: deque[Use] = deque()
        self._held_until = 0.0

    @asynccontextmanager
    async def slot(self, tokens: int = 0) -> AsyncIterator[Use]:
        """Waits until a request of about so many tokens may start; holds its place among those at the same time."""
        async with self._slots:
            async with self._turn:  # one waits for the window, the others behind it
                while (pause := self._pause(tokens)) > 0:
                    await asyncio.sleep(pause)
                use = Use(time.monotonic(), tokens)
                if self._requests is not None or self._tokens is not None:
                    self._uses.append(use)
            yield use

    def hold(self, seconds: float) -> None:
        """Lets no request start for a while."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def _pause(self, tokens: int) -> float:
        now = time.monotonic()
        while self._uses and self._uses[0].started <= now - WINDOW_SECONDS:
            self._uses.popleft()
        held = self._held_until - now
        full = self._requests is not None and len(self._uses) >= self._requests
        spent = sum(use.tokens for use in self._uses)
        if self._uses and self._tokens is not None and spent + tokens > self._tokens:
            full = True
        return max(held, self._uses[0].started + WINDOW_SECONDS - now if full else 0.0)
