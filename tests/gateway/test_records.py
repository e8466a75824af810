"""An answer whose usage cannot be recorded is not given."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from support.gateway import Gateway, route
from support.gateway_door import door_in_process
from support.patience import PATIENCE_SECONDS

from rft_gateway.keys import KeyFolder, KeyRing
from rft_gateway.ledger import Ledger
from rft_gateway.routes import RouteFile, RouteTable

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 2}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_recorded_is_not_given(tmp_path: Path, server, stream):
    files = Gateway(tmp_path, [route("m", server.url)])
    routes, keys = RouteTable(), KeyRing()
    RouteFile(files.folder / "routes.json", routes).load()
    KeyFolder(files.folder / "keys", keys)

    async def ask() -> httpx.Response:
        ledger = Ledger(str(files.ledger_file), patience=0.0)  # it has no tables
        try:
            async with (
                door_in_process(routes, keys, ledger) as (url, _),
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
