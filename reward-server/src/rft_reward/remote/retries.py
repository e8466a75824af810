"""Repeats requests with growing pauses, until the service answers or the time is up."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rft_reward.remote.errors import OutOfTimeError, TransientError
from rft_reward.remote.limits import Limiter, Use

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 20.0

T = TypeVar("T")


async def ask(call: Callable[[float, Use], Awaitable[T]], limiter: Limiter, deadline: float, tokens: int = 0) -> T:
    """Call a service, and repeat the call while it raises `TransientError` and there is time.

    Args:
        call: function that calls the service. Its arguments are its time limit in seconds, and its use of the limits.
        limiter: the limits. A pause that the service asks for applies to all requests.
        deadline: time at which the calls must end, by `time.monotonic`.
        tokens: estimated number of tokens of the call.

    Raises:
        OutOfTimeError: the time is up; with the last problem.
    """
    pause, tries, problem = FIRST_PAUSE_SECONDS, 0, "the limits left no time to ask"
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            while True:
                async with limiter.slot(tokens) as use:
                    tries += 1
                    problem = problem if tries > 1 else "there was no answer"
                    try:
                        return await call(deadline - time.monotonic(), use)
                    except TransientError as error:
                        problem, after = str(error), error.after
                # The pauses vary, so that requests that were refused together are not repeated together.
                wait = pause * random.uniform(0.5, 1.0)
                if after is not None:
                    limiter.hold(after)
                    wait = max(wait, after)
                if time.monotonic() + wait >= deadline:
                    raise OutOfTimeError(_no_more_time(problem, tries))
                await asyncio.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    except TimeoutError:
        raise OutOfTimeError(_no_more_time(problem, tries)) from None


def _no_more_time(problem: str, tries: int) -> str:
    attempts = {0: "not asked", 1: "asked once"}.get(tries, f"asked {tries} times")
    return f"{problem} ({attempts}; spec.timeout leaves no time for more)"
