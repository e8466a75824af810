"""Turns: a namespace does one thing at a time, also when nobody waits for it any more, and others do not notice."""

from __future__ import annotations

import asyncio
import threading

import pytest
from support.gateway import route
from support.patience import PATIENCE_SECONDS

from rft_api.conversation_logs import ConversationLogs
from rft_api.invocation_log import Redaction, RedactionPattern
from rft_gateway.logs import Conversations, Stores
from rft_gateway.metrics import Metrics
from rft_gateway.turns import Turns


def test_a_namespace_takes_turns_and_holds_up_no_other():
    async def scenario() -> None:
        turns, ends = Turns(), [asyncio.Event() for _ in range(3)]
        running: list[int] = []

        async def work(number: int) -> int:
            running.append(number)
            await ends[number].wait()
            if number == 1:
                raise ValueError("the test says so")
            return number

        async def others() -> str:
            return "done"

        first, second, third = (asyncio.create_task(turns.take("team", lambda n=n: work(n))) for n in range(3))
        assert await turns.take("other", others) == "done"
        assert running == [0]
        first.cancel()  # its client has left; what it has begun goes on
        await asyncio.wait([first])
        assert await turns.take("other", others) == "done"
        assert running == [0]
        ends[0].set()
        ends[1].set()
        with pytest.raises(ValueError, match="the test says so"):
            await second
        third.cancel()
        await asyncio.wait([third])
        ends[2].set()
        assert await turns.take("team", others) == "done"

    async def limited() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await scenario()

    asyncio.run(limited())


def test_long_redaction_of_a_namespace_holds_up_no_other():
    end = threading.Event()
    redact = Redaction(patterns=[RedactionPattern(pattern="x", replacement="y")])
    slow, other = (
        route("m", logs=ConversationLogs(uri="s3://logs", redact=redact), namespace=name) for name in ("slow", "other")
    )

    def line() -> bytes:
        end.wait()
        return b"1\n"

    async def scenario() -> None:
        conversations = Conversations(None, Stores(), Metrics(), segment_seconds=1.0)
        keeping = [asyncio.create_task(conversations.append(slow, "", line)) for _ in range(8)]
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await asyncio.sleep(0)
                assert await conversations.append(other, "", lambda: b"1\n") == "NoSpool"
                assert not any(task.done() for task in keeping)
        finally:
            end.set()
        assert await asyncio.gather(*keeping) == ["NoSpool"] * 8
        await conversations.close()

    asyncio.run(scenario())
