"""An answer whose usage cannot be recorded is not given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from support.gateway import Gateway, route
from support.patience import PATIENCE_SECONDS

from rft_gateway.demand import Demand
from rft_gateway.door import Door
from rft_gateway.keys import KeyFolder, KeyRing
from rft_gateway.ledger import Ledger
from rft_gateway.limits import Limiter
from rft_gateway.logs import Conversations, Stores
from rft_gateway.metrics import Metrics
from rft_gateway.proxy import Proxy
from rft_gateway.records import Records
from rft_gateway.replicas import Replicas
from rft_gateway.routes import RouteFile, RouteTable
from rft_gateway.waiting import Waiting

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 2}


@contextlib.asynccontextmanager
async def door_before(files: Gateway, ledger: Ledger) -> AsyncIterator[str]:
    """A door in this process, with a ledger of the test's; yields its address."""
    routes, keys = RouteTable(), KeyRing()
    RouteFile(files.folder / "routes.json", routes).load()
    KeyFolder(files.folder / "keys", keys)
    metrics = Metrics()
    conversations = Conversations(None, Stores(), metrics, segment_seconds=1.0)
    waiting = Waiting(routes, Demand(), metrics)
    async with Proxy(Replicas(time.monotonic), waiting, PATIENCE_SECONDS) as proxy:
        door = Door(routes, keys, Limiter(time.time()), Records(ledger, metrics, conversations), proxy)
        runner = web.ServerRunner(web.Server(door.respond))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_recorded_is_not_given(tmp_path: Path, server, stream):
    files = Gateway(tmp_path, [route("m", server.url)])

    async def ask() -> httpx.Response:
        ledger = Ledger(str(files.ledger_file), patience=0.0)  # it has no tables
        try:
            async with (
                door_before(files, ledger) as url,
                httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
            ):
                headers = {"authorization": f"Bearer {files.token}"}
                return await client.post(
                    f"{url}/v1/chat/completions", json={**QUESTION, "stream": stream}, headers=headers
                )
        finally:
            await ledger.close()

    answer = asyncio.run(ask())
    if stream:
        *_, last, rest = answer.text.split("\n\n")
        assert rest == ""
        assert "[DONE]" not in answer.text
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert answer.status_code == 503
        error = answer.json()["error"]
    assert error["code"] == "ledger_unavailable"
