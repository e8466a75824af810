"""Limits on the requests to a service: simultaneous requests, requests and tokens per minute, and pauses."""

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
    """The use of the limits by one request."""

    started: float
    tokens: int
    """Number of tokens: an estimate, until the caller sets the actual number."""


class Limiter:
    """Lets requests start in their order, as soon as the limits allow.

    Args:
        concurrency: maximum number of requests at the same time.
        requests_per_minute: maximum number of requests in any window of 60 seconds; None is no limit.
        tokens_per_minute: maximum number of tokens in any such window. A larger request waits for an empty window.
        window_seconds: another length of the window than a minute.
    """

    def __init__(
        self,
        concurrency: int,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        window_seconds: float = WINDOW_SECONDS,
    ):
        self._requests = requests_per_minute
        self._tokens = tokens_per_minute
        self._slots = asyncio.Semaphore(concurrency)
        self._turn = asyncio.Lock()
        self._uses: deque[Use] = deque()
        self._held_until = 0.0
        self._window = window_seconds

    @asynccontextmanager
    async def slot(self, tokens: int = 0) -> AsyncIterator[Use]:
        """Wait until a request of about so many tokens may start. It counts as a simultaneous request until the end."""
        async with self._slots:
            async with self._turn:  # only the first request waits for the window, and the others wait for it
                while (pause := self._pause(tokens)) > 0:
                    await asyncio.sleep(pause)
                use = Use(time.monotonic(), tokens)
                if self._requests is not None or self._tokens is not None:
                    self._uses.append(use)
            yield use

    def hold(self, seconds: float) -> None:
        """Let no request start for some seconds."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    def _pause(self, tokens: int) -> float:
        now = time.monotonic()
        while self._uses and self._uses[0].started <= now - self._window:
            self._uses.popleft()
        held = self._held_until - now
        full = self._requests is not None and len(self._uses) >= self._requests
        spent = sum(use.tokens for use in self._uses)
        if self._uses and self._tokens is not None and spent + tokens > self._tokens:
            full = True
        return max(held, self._uses[0].started + self._window - now if full else 0.0)
