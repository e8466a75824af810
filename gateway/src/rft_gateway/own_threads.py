"""Work in a thread of its own, which may wait for a server that somebody else has chosen, and may never end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

Result = TypeVar("Result")


async def in_own_thread(work: Callable[[], Result], name: str) -> Result:
    """Return what a function returns. Unlike the threads of an executor, its thread lets the program end.

    Args:
        work: the function.
        name: name of the thread.

    Raises:
        Exception: what the function raises.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def settle(settle_future: Callable[[], None]) -> None:
        if not done.done():  # nobody waits any more
            settle_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            failure = error
            _tell(loop, lambda: settle(lambda: done.set_exception(failure)))
        else:
            _tell(loop, lambda: settle(lambda: done.set_result(result)))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(call)
