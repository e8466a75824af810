"""What pods answer, and pods that do not."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from views import ADAPTER, OWN, pod

from rft_api.adapter_protocol import AdapterReport
from rft_api.readiness import NotReady, NotReadyReason, Readiness
from rft_operator.inference_endpoint.probe import ask_servers
from rft_operator.inference_endpoint.world import ServerAnswer
from rft_operator.pods.probe import PodClient
from rft_operator.pods.slots import Limits
from rft_operator.reward_function.probe import ask_readiness
from rft_operator.rft_job.probe import ask_progress

RUNS = pod(ip="10.0.0.1")
NOT_READY = pod(ip="10.0.0.1", ready=False)
LOADED = {"adapters": [{"name": "x", "uri": "s3://a/x", "state": "Loaded"}]}


def ask(question, answers):
    """Asks with a server that gives these answers by `PORT/PATH`; anything else is refused."""

    def answer(request: httpx.Request) -> httpx.Response:
        given = answers.get(f"{request.url.port}{request.url.path}")
        if given is None:
            raise httpx.ConnectError("refused")
        return given if isinstance(given, httpx.Response) else httpx.Response(200, json=given)

    async def run():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return await question(PodClient(client, Limits()))

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("pods", "answers", "step"),
    [
        ([RUNS], {"9090/progress": {"step": 3, "phase": "Training"}}, 3),
        ([RUNS], {}, None),
        ([RUNS], {"9090/progress": {"step": "many"}}, None),
        ([RUNS], {"9090/progress": httpx.Response(500)}, None),
        ([RUNS], {"9090/progress": httpx.Response(200, text='{"step": 3, "etaSeconds": NaN}')}, 3),
        ([RUNS], {"9090/progress": httpx.Response(200, text='{"step": 3, "etaSeconds": 1e999}')}, 3),
        ([RUNS], {"9090/progress": {"step": 3, "epoch": -1}}, 3),
        ([RUNS], {"9090/progress": {"step": 3, "reward": 1e300}}, 3),
        ([RUNS], {"9090/progress": {"step": 10**30}}, None),
        ([pod(ip="10.0.0.1", index=1)], {"9090/progress": {"step": 3}}, None),
        ([pod()], {"9090/progress": {"step": 3}}, None),
        ([pod(ip="10.0.0.1", phase="Failed")], {"9090/progress": {"step": 3}}, None),
        ([pod(ip="fd00::1")], {"9090/progress": {"step": 3}}, 3),
    ],
)
def test_progress(pods, answers, step):
    progress = ask(lambda client: ask_progress(client, pods), answers)
    assert (progress and progress.step) == step


FAILING = Readiness(reasons=[NotReady(reason=NotReadyReason.TEST_FAILED, message="test 1: expected", test=0)])


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"8080/readyz": httpx.Response(503, text=FAILING.model_dump_json())}, {"pod": FAILING}),
        ({"8080/readyz": httpx.Response(200, json={"reasons": []})}, {}),
        ({"8080/readyz": httpx.Response(502, text="bad gateway")}, {}),
        ({}, {}),
    ],
)
def test_why_a_reward_server_is_not_ready(answers, expected):
    assert ask(lambda client: ask_readiness(client, [NOT_READY]), answers) == expected


def test_a_reward_server_that_is_ready_is_not_asked():
    assert ask(lambda client: ask_readiness(client, [RUNS]), {"8080/readyz": httpx.Response(503)}) == {}


REPORT = AdapterReport(name="x", uri="s3://a/x", state="Loaded")
MODELS = {"data": [{"id": "x"}]}


@pytest.mark.parametrize(
    ("endpoint", "known", "answers", "expected"),
    [
        (OWN, False, {"8000/v1/completions": {}}, ServerAnswer(None)),
        (OWN, False, {"8000/v1/completions": httpx.Response(404, text="no")}, ServerAnswer("HTTP 404: no")),
        (OWN, False, {}, ServerAnswer("the server cannot be asked: refused")),
        (OWN, True, {"8000/v1/models": MODELS}, ServerAnswer(None)),
        (OWN, True, {"8000/v1/models": {"data": []}}, ServerAnswer("the server does not list x")),
        (OWN, True, {"8000/v1/models": ["?"]}, ServerAnswer("the server does not list x")),
        (ADAPTER, False, {}, ServerAnswer("the adapter is not loaded", None)),
        (ADAPTER, False, {"8081/adapters": {"adapters": []}}, ServerAnswer("the adapter is not loaded", None)),
        (ADAPTER, False, {"8081/adapters": LOADED, "8000/v1/completions": {}}, ServerAnswer(None, REPORT)),
        (ADAPTER, True, {"8081/adapters": LOADED, "8000/v1/models": MODELS}, ServerAnswer(None, REPORT)),
    ],
)
def test_servers(endpoint, known, answers, expected):
    assert ask(lambda client: ask_servers(client, [RUNS], endpoint, known), answers) == {"pod": expected}


def test_a_model_is_asked_for_by_its_name():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["model"])
        return httpx.Response(200, json={})

    async def run():
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            await ask_servers(PodClient(client, Limits()), [RUNS, NOT_READY], OWN, was_ready=False)

    asyncio.run(run())
    assert asked == ["x"]
