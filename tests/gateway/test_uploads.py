"""Uploads of logs: a namespace whose stores never finish their answers holds up none of the others."""

from __future__ import annotations

import asyncio
import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

from support.conversation_logs import objects
from support.gateway import route
from support.patience import PATIENCE_SECONDS
from support.raw_server import raw_server

from rft_api.conversation_logs import ConversationLogs
from rft_gateway.logs import Conversations, Spool, Stores
from rft_gateway.logs.spool import Destination
from rft_gateway.metrics import Metrics

PAUSE_SECONDS = 0.02
"""Time between two bytes of a store that drips."""


def test_stores_that_drip_their_answers_hold_up_no_other_namespace(tmp_path: Path):
    done, uploads = threading.Event(), threading.Semaphore(0)

    def drip(connection: socket.socket) -> None:
        uploads.release()
        connection.sendall(b"HTTP/1.1 200 OK\r\nx: ")
        while not done.wait(PAUSE_SECONDS):
            connection.sendall(b"x")

    async def scenario(url: str) -> None:
        stores = Stores()
        variables = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_ENDPOINT_URL": url}
        stores.set_credentials({("slow", "s3"): variables})
        # The slow ones are what an earlier gateway has left.
        spool = Spool(tmp_path / "spool", 1 << 20)
        spool.open()
        slow = [Destination(namespace="slow", uri=f"s3://b/{number}", secret="s3") for number in range(12)]
        spool.append([(destination, b"1\n") for destination in slow], datetime.now(UTC))
        spool.close()
        conversations = Conversations(Spool(tmp_path / "spool", 1 << 20), stores, Metrics(), segment_seconds=0.0)
        await conversations.start()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.to_thread(uploads.acquire)
            other = route("m", logs=ConversationLogs(uri=str(tmp_path / "logs")), namespace="other")
            assert await conversations.append(other, "", lambda: b"1\n") is None
            while not objects(tmp_path / "logs"):
                await asyncio.sleep(0.05)
        await conversations.close()
        assert len(list((tmp_path / "spool").glob("*/*.jsonl"))) == len(slow)  # for the next start

    with raw_server(drip) as url:
        try:
            asyncio.run(scenario(url))
        finally:
            done.set()
