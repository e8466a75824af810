"""A key that was revoked while its requests waited for a server opens nothing when there is one."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from support.gateway import NAMESPACE, route
from support.gateway_door import door_in_process
from support.patience import PATIENCE_SECONDS

from rft_api.gateway_key import Key, make_token, token_digest
from rft_gateway import proxy
from rft_gateway.keys import KeyRing
from rft_gateway.ledger import Ledger
from rft_gateway.routes import EndpointState, RouteTable


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("models", "code"), [(None, "invalid_api_key"), (("other",), "model_not_found")])
def test_a_key_is_checked_again_before_a_server_gets_the_request(tmp_path, server, stream, models, code, monkeypatch):
    monkeypatch.setattr("rft_gateway.waiting.HEARTBEAT_SECONDS", 0.0)
    token = make_token()
    routes, keys = RouteTable(), KeyRing()
    state = EndpointState(can_wake=True, queue=1, timeout=PATIENCE_SECONDS)
    routes.replace([route("m")], {(NAMESPACE, "m"): state})
    keys.replace([Key("key", NAMESPACE, token_digest(token))], [])
    question = {"model": "m", "messages": [{"role": "user", "content": "one"}], "stream": stream}

    async def ask() -> httpx.Response:
        ledger = Ledger(str(tmp_path / "ledger.db"))
        await ledger.prepare()
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                door_in_process(routes, keys, ledger) as (url, demand),
                httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
            ):
                headers = {"authorization": f"Bearer {token}"}
                asking = asyncio.create_task(client.post(f"{url}/v1/chat/completions", json=question, headers=headers))
                while not demand.count_waiting(route("m")):
                    await asyncio.sleep(0.01)
                kept = [] if models is None else [Key("key", NAMESPACE, token_digest(token), models)]
                keys.replace(kept, [])
                routes.replace([route("m", server.url)], {(NAMESPACE, "m"): state})
                return await asking
        finally:
            await ledger.close()

    answer = asyncio.run(ask())
    if stream and answer.status_code == 200:  # there were signs of life
        assert answer.text.startswith(proxy.HEARTBEAT.decode())
        error = json.loads(answer.text.rpartition("data: ")[2])["error"]
    else:
        error = answer.json()["error"]
    assert error["code"] == code
    assert server.counters.requests == 0
