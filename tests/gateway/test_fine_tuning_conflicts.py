"""What the API server answers when something else happens at the same time, over HTTP: no test can time that there."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web
from kubernetes.aio import client
from support.fine_tuning import rft_job

from rft_gateway.cluster.api_server import ApiServer
from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.store import ClusterJobs
from rft_gateway.fine_tuning.translation import JobObjects

QUOTA = 'Operation cannot be fulfilled on resourcequotas "jobs": the object has been modified'


async def answer(request: web.Request) -> web.Response:
    """Nothing is there, and nothing can be created at the moment."""
    status, message = (409, QUOTA) if request.method == "POST" else (404, "not found")
    return web.json_response({"kind": "Status", "code": status, "message": message}, status=status)


async def create() -> None:
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        configuration = client.Configuration(host=address)
        configuration.client_session_kwargs = {"trust_env": False}
        async with client.ApiClient(configuration) as server:
            await ClusterJobs(ApiServer(server)).create(JobObjects(None, rft_job()))
    finally:
        await runner.cleanup()


def test_a_quota_that_changes_at_the_same_time_is_a_conflict():
    with pytest.raises(ApiError) as raised:
        asyncio.run(create())
    error = raised.value
    assert (error.status, error.code, error.type) == (409, "conflict", "invalid_request_error")
    assert error.message == QUOTA
    assert error.headers == {"retry-after": "1"}
