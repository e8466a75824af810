"""Measures how long a coroutine keeps the thread to itself, without the times for which it waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")


class Metered(Generic[Result]):
    """Awaits a coroutine, and adds up its CPU time.

    Args:
        coroutine: the coroutine.

    Attributes:
        seconds: the CPU time so far, without that of other tasks.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Result]):
        self._coroutine = coroutine
        self.seconds = 0.0

    def __await__(self) -> Generator[Any, None, Result]:
        resume: Callable[[], Any] = partial(self._coroutine.send, None)
        while True:
            start = time.thread_time()
            try:
                future = resume()
            except StopIteration as end:
                result: Result = end.value
                return result
            finally:
                self.seconds += time.thread_time() - start
            try:
                yield future
                resume = partial(self._coroutine.send, None)
            except BaseException as error:
                resume = partial(self._coroutine.throw, error)
