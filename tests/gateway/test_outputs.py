"""What happens when the store with the output of a job does not answer, or answers with anything."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping

import pytest
from support.fine_tuning import condition, rft_job
from support.raw_server import raw_server

from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning import outputs
from rft_gateway.fine_tuning.job import Job
from rft_gateway.fine_tuning.outputs import Outputs


def credentials(url: str) -> Mapping[str, Mapping[str, str]]:
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    return {"s3": {**keys, "AWS_ENDPOINT_URL": url}}


def the_job() -> Job:
    document = rft_job(condition("Succeeded", "Unknown", "Running"), progress={"step": 2, "totalSteps": 2})
    document["spec"]["credentials"] = {"secretName": "s3"}
    return Job(document)


def test_a_store_that_does_not_answer_costs_its_namespace_only(monkeypatch):
    monkeypatch.setattr(outputs, "READ_SECONDS", 0.2)
    goes_on = threading.Event()

    async def ask(url: str) -> None:
        async def find(namespace: str) -> Mapping[str, Mapping[str, str]]:
            return credentials(url)

        reader = Outputs(find)
        codes = []
        for _ in range(6):
            with pytest.raises(ApiError) as refused:
                await reader.steps("team", the_job())
            assert refused.value.status == 503
            codes.append(refused.value.code)
        assert codes == ["output_unavailable"] * 4 + ["overloaded"] * 2
        with pytest.raises(ApiError) as other:
            await reader.steps("other", the_job())
        assert other.value.code == "output_unavailable"
        goes_on.set()

    with raw_server(lambda connection: goes_on.wait() and None) as url:
        asyncio.run(ask(url))
        goes_on.set()


@pytest.mark.parametrize("body", ["", "<html>", "<ListBucketResult>", '{"split": "train"}', "\0" * 1000])
@pytest.mark.parametrize("status", [200, 301, 403, 404])
def test_what_answers_in_place_of_a_store_is_not_told(body, status):
    content = f"secret{body}"
    head = f"HTTP/1.1 {status} Secret\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n"

    async def ask(url: str) -> ApiError:
        async def find(namespace: str) -> Mapping[str, Mapping[str, str]]:
            return credentials(url)

        with pytest.raises(ApiError) as refused:
            await Outputs(find).steps("team", the_job())
        return refused.value

    with raw_server(lambda connection: connection.sendall((head + content).encode())) as url:
        error = asyncio.run(ask(url))
    assert (error.status, error.code) == (503, "output_unavailable")
    assert "secret" not in error.message.lower().replace("the secret s3", "")
