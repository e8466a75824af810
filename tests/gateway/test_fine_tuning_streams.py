"""Events of a job as a stream: each once and in order, signs of life between them, and an end of every stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import MultiDict
from openai.types.fine_tuning import FineTuningJobEvent
from support.fine_tuning import ENDED, STARTED, condition, rft_job
from support.patience import PATIENCE_SECONDS

from rft_gateway.errors import ApiError
from rft_gateway.fine_tuning.event_streams import EventStreams, StreamLimits
from rft_gateway.fine_tuning.events import NewEvents, describe_events
from rft_gateway.fine_tuning.job import Job
from rft_gateway.fine_tuning.listing import asks_for_stream
from rft_gateway.http_server import HttpServer

LONG = 10 * PATIENCE_SECONDS
SUCCEEDED = condition("Succeeded", "True", "Succeeded", "reward 0.2 -> 0.8", ENDED)


def running(step: int = 0, reason: str = "Running") -> dict[str, Any]:
    """An RFTJob after a step."""
    progress = {"step": step, "totalSteps": 3, "reward": f"0.{step}000"} if step else {}
    return rft_job(condition("Succeeded", "Unknown", reason), startTime=STARTED, progress=progress)


def succeeded(step: int) -> dict[str, Any]:
    """The RFTJob at its end, as the operator writes it some time after that."""
    job = rft_job(
        SUCCEEDED, startTime=STARTED, completionTime=ENDED, progress={"step": step, "totalSteps": step},
        checkpoints=[{"step": step, "validationReward": "0.8000", "uri": "s3://runs/amounts/checkpoints/step-3"}],
    )  # fmt: skip
    job["metadata"]["managedFields"] = [{"subresource": "status", "time": "2026-11-30T13:00:20Z"}]
    return job


@dataclass
class Served:
    """A server of streams, and what its next reads find; the last of them stays."""

    streams: EventStreams
    stop: asyncio.Event
    finds: list[dict[str, Any] | ApiError]
    reads: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether a stream has ended, in whatever way."""
    session: aiohttp.ClientSession = field(init=False)
    url: str = field(init=False)

    async def read(self) -> Job:
        """The job as it is now."""
        self.reads += 1
        found = self.finds.pop(0) if len(self.finds) > 1 else self.finds[0]
        if isinstance(found, ApiError):
            raise found
        return Job(found)

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; its path is the namespace."""
        try:
            return await self.streams.send(request, request.path, self.read, {"x-request-id": "7"})
        except ApiError as error:
            return web.Response(status=error.status, body=error.body())
        finally:
            self.ended.set()

    async def parts(self, path: str = "team") -> list[str]:
        """All parts of a stream."""
        async with self.session.get(f"{self.url}/{path}") as answer:
            assert answer.status == 200
            return (await answer.text()).removesuffix("\n\n").split("\n\n")


def serve(scenario: Callable[[Served], Awaitable[None]], *finds: dict[str, Any] | ApiError, **limits: Any) -> None:
    """Runs a scenario with a server of streams, which reads the job as fast as it can unless `limits` say otherwise."""
    asyncio.run(
        _serve(scenario, list(finds), StreamLimits(**{"seconds": LONG, "pause": 0.01, "heartbeat": LONG} | limits))
    )


async def _serve(
    scenario: Callable[[Served], Awaitable[None]], finds: list[dict[str, Any] | ApiError], limits: StreamLimits
) -> None:
    stop = asyncio.Event()
    served = Served(EventStreams(stop, limits), stop, finds)
    runner = web.ServerRunner(HttpServer(served.respond, handler_cancellation=True), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), aiohttp.ClientSession() as served.session:
            await scenario(served)
    finally:
        await runner.cleanup()


def messages(parts: list[str]) -> list[str]:
    """The messages of events, in the type of the openai package."""
    events = [FineTuningJobEvent.model_validate_json(part.removeprefix("data: "), strict=True) for part in parts]
    assert len({event.id for event in events}) == len(events)
    return [event.message for event in events]


def error_of(part: str) -> dict[str, Any]:
    """The error of the last event."""
    return json.loads(part.removeprefix("data: "))["error"]


def test_each_event_once_and_in_order():
    async def scenario(served: Served) -> None:
        parts = await served.parts()
        assert parts[-1] == "data: [DONE]"
        assert messages(parts[:-1]) == [
            "Created fine-tuning job: amounts",
            "Queued",
            "Running",
            "Step 1/3: train mean reward=0.1000",
            "Step 2/3: train mean reward=0.2000",
            "Step 3/3: no rewards",
            "Kept the checkpoint of step 3: s3://runs/amounts/checkpoints/step-3",
            "The job has successfully completed. reward 0.2 -> 0.8",
        ]

    serve(
        scenario, rft_job(), running(reason="Queued"), running(), running(1), running(1), running(2), running(2),
        succeeded(3),
    )  # fmt: skip


def test_the_stream_has_the_events_of_the_list():
    for document in (rft_job(), running(2), succeeded(3)):
        assert NewEvents().take(Job(document)) == describe_events(Job(document))[::-1]


def test_what_is_repeated_after_a_restart_is_an_event_again():
    events = NewEvents()
    events.take(Job(running(2)))
    (retrying,) = events.take(Job(running(2, "Retrying")))
    assert retrying["message"] == "Retrying"
    step, again = events.take(Job(running(1)))
    assert (step["message"], again["message"]) == ("Step 1/3: train mean reward=0.1000", "Running")
    (second,) = events.take(Job(running(2)))
    original = next(event for event in describe_events(Job(running(2))) if event["type"] == "metrics")
    assert second == {**original, "id": f"{original['id']}-2"}
    assert again["id"].endswith("-2")
    assert events.take(Job(running(2))) == []


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_has_ended_has_a_short_stream(state):
    async def scenario(served: Served) -> None:
        parts = await served.parts()
        assert parts[-1] == "data: [DONE]"
        assert messages(parts[:-1])[-1] == (
            "DataInvalid: rows"
            if state == "failed"
            else "The job was cancelled. Its files and its checkpoint are kept."
        )
        assert served.reads == 1

    failed = rft_job(condition("Succeeded", "False", "DataInvalid", "rows", ENDED), completionTime=ENDED)
    cancelled = rft_job(condition("Succeeded", "Unknown", "Suspended"), suspend=True)
    cancelled["metadata"]["annotations"] = {"fine-tuning.rft.dev/cancelled": ENDED}
    serve(scenario, failed if state == "failed" else cancelled)


def test_signs_of_life_while_nothing_happens():
    async def scenario(served: Served) -> None:
        async with served.session.get(f"{served.url}/team") as answer:
            assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert answer.headers["x-request-id"] == "7"
            lines = aiter(answer.content)
            comments = 0
            while comments < 3:
                comments += await anext(lines) == b": nothing has happened\n"
            served.finds = [succeeded(3)]
            rest = [line async for line in lines]
            assert rest[-2] == b"data: [DONE]\n"

    serve(scenario, running(1), heartbeat=0.05)


def test_no_sign_of_life_before_it_is_time():
    async def scenario(served: Served) -> None:
        assert not [part for part in await served.parts() if part.startswith(":")]

    serve(scenario, *[running(1)] * 20, succeeded(3))


def test_the_stream_goes_on_while_the_api_server_is_away():
    async def scenario(served: Served) -> None:
        parts = await served.parts()
        assert parts[-1] == "data: [DONE]"
        assert len(messages(parts[:-1])) == 6

    away = ApiError(503, "The cluster does not answer at the moment.", code="cluster_unavailable")
    serve(scenario, running(1), away, away, succeeded(3))


OTHER = running(2)
OTHER["metadata"]["uid"] = "4-5-6"


@pytest.mark.parametrize(
    "found", [ApiError(404, "Could not find it", code="job_not_found"), OTHER], ids=["gone", "other"]
)
def test_a_job_that_is_deleted_ends_its_stream_with_a_sentence(found):
    async def scenario(served: Served) -> None:
        *events, last = await served.parts()
        assert len(messages(events)) == 3
        assert error_of(last) == {
            "message": "Fine-tuning job amounts was deleted, or this key does not open its model any more.",
            "type": "invalid_request_error", "param": "fine_tuning_job_id", "code": "job_not_found",
        }  # fmt: skip

    serve(scenario, running(1), found)


def test_a_key_that_is_revoked_ends_its_stream():
    async def scenario(served: Served) -> None:
        assert error_of((await served.parts())[-1])["code"] == "invalid_api_key"

    serve(scenario, running(1), ApiError(401, "Incorrect API key provided.", code="invalid_api_key"))


def test_a_stream_has_an_end():
    async def scenario(served: Served) -> None:
        *events, last = await served.parts()
        assert len(messages(events)) == 3
        assert error_of(last)["code"] == "stream_too_long"
        assert "Ask again: events keep their ids." in error_of(last)["message"]

    serve(scenario, running(1), seconds=0.1, pause=LONG)


def test_an_error_before_the_stream_has_a_status():
    async def scenario(served: Served) -> None:
        async with served.session.get(f"{served.url}/team") as answer:
            assert (answer.status, (await answer.json(content_type=None))["error"]["code"]) == (404, "job_not_found")

    serve(scenario, ApiError(404, "Could not find it", code="job_not_found"))


@asynccontextmanager
async def listening(served: Served, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """A stream that has begun."""
    async with served.session.get(f"{served.url}/{path}") as answer:
        assert answer.status == 200
        await answer.content.readline()
        yield answer


def test_a_namespace_leaves_room_for_the_streams_of_others():
    async def scenario(served: Served) -> None:
        async with listening(served, "a"):
            async with served.session.get(f"{served.url}/a") as refused:
                assert refused.status == 503
                assert "Too many streams of events" in await refused.text()
            async with listening(served, "b"):
                pass

    serve(scenario, running(1), streams=3)


def test_a_client_that_leaves_ends_its_stream():
    async def scenario(served: Served) -> None:
        async with listening(served, "a"):
            pass  # without the rest of the answer, its connection is closed
        await served.ended.wait()
        async with listening(served, "a"):
            pass

    serve(scenario, running(1), streams=2, pause=LONG)


def test_streams_end_when_the_gateway_stops():
    async def scenario(served: Served) -> None:
        async with listening(served, "a") as answer:
            served.stop.set()
            last = (await answer.text()).removesuffix("\n\n").split("\n\n")[-1]
            assert error_of(last)["code"] == "stopping"

    serve(scenario, running(1), pause=LONG)


def test_what_a_stream_is_asked_with():
    assert asks_for_stream(MultiDict(stream="true"))
    assert not asks_for_stream(MultiDict(stream="false", limit="3"))
    assert not asks_for_stream(MultiDict(after="ftevent-1"))
    for query, param in (({"stream": "yes"}, "stream"), ({"stream": "true", "limit": "3"}, "limit")):
        with pytest.raises(ApiError, match=f"^{param}: ") as refused:
            asks_for_stream(MultiDict(query))
        assert (refused.value.status, refused.value.param) == (400, param)
