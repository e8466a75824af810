"""Requests at an endpoint without a server pod: they wake it once, wait, and are answered or told why not."""

from __future__ import annotations

import itertools
import json
import re
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import httpx
import openai
import pytest
from support.gateway import Gateway
from support.gateway_in_cluster import ClusterGateway, Team
from support.patience import PATIENCE_SECONDS, wait_until
from support.vllm_bytes import VllmBytes

from rft_api.gateway_demand import DEMAND_PATH, DemandReport, EndpointDemand
from rft_api.gateway_key import Limits, make_token
from rft_gateway.waiting import WAKE_SECONDS

CHAT = "/v1/chat/completions"
WAKE = "rft.dev/wake"


def question(model: str = "base", **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 3, **more}


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(128) as pool:
        yield pool


@pytest.fixture
def asleep(team: Team, gateway: ClusterGateway) -> Team:
    """A team whose endpoint `base` has no pod."""
    add_asleep(team, gateway)
    return team


def add_asleep(team: Team, gateway: ClusterGateway, **cold_start: object) -> None:
    team.add_base("base", autoscale={}, coldStart=cold_start or {"timeout": "1h"})
    team.set_ready("base", "False", "ScaledToZero", "nobody asks for its models")
    with gateway.client() as client:
        wait_until(lambda: client.get("/v1/models/base").is_success, lambda: gateway.log)


def demand_of(gateway: Gateway, team: Team) -> EndpointDemand | None:
    report = httpx.get(f"{gateway.operation_url}{DEMAND_PATH}", timeout=PATIENCE_SECONDS, trust_env=False)
    endpoints = DemandReport.model_validate_json(report.text).endpoints
    return next((each for each in endpoints if each.namespace == team.namespace), None)


def wait_for_waiting(gateway: Gateway, team: Team, count: int) -> None:
    def waiting() -> bool:
        demand = demand_of(gateway, team)
        return demand is not None and demand.waiting == count

    wait_until(waiting, lambda: (demand_of(gateway, team), gateway.log))


def wake_time(team: Team) -> str | None:
    return team.read("inferenceendpoint", "base")["metadata"].get("annotations", {}).get(WAKE)


def assert_few(times: list[str], gateways: int) -> None:
    """A gateway wakes once, and again only after a pause, however many wait; this machine may be slow to have a pod."""
    seconds = [datetime.fromisoformat(time).timestamp() for time in times]
    assert 1 <= len(times) <= gateways * (1 + (seconds[-1] - seconds[0]) // (WAKE_SECONDS[0] / 2)), times


def metric(gateway: Gateway, name: str, team: Team, **labels: str) -> float:
    text = httpx.get(f"{gateway.operation_url}/metrics", timeout=PATIENCE_SECONDS, trust_env=False).text
    wanted = [f'namespace="{team.namespace}"', *(f'{label}="{value}"' for label, value in labels.items())]
    lines = [line for line in text.splitlines() if line.startswith(name) and all(part in line for part in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_a_hundred_clients_wake_an_endpoint_once_and_are_all_answered(gateway, asleep, pod, pool):
    before = len(gateway.entries())
    with asleep.wakes("base") as wakes:
        answers = [pool.submit(gateway.post, CHAT, question(stream=index % 2 == 0)) for index in range(100)]
        wait_until(lambda: wake_time(asleep))
        asleep.set_servers("base", pod.port, ready=False)
        wait_for_waiting(gateway, asleep, 100)
        asleep.set_servers("base", pod.port)
        assert [answer.result().status_code for answer in answers] == [200] * 100
        last = asleep.read("inferenceendpoint", "base")["metadata"]["resourceVersion"]
        assert_few(wakes.until(last), gateways=1)
    entries = gateway.wait_for_entries(before + 100)[before:]
    assert len(entries) == 100
    for entry in entries:
        assert (entry["outcome"], entry["prompt_tokens"], entry["completion_tokens"]) == ("Answered", 2, 3)
        assert 0 < entry["cold_start_seconds"] <= entry["duration_seconds"]
    assert pod.counters.requests == 100
    assert metric(gateway, "rft_gateway_cold_starts_total", asleep, model="base", outcome="Started") == 1
    assert metric(gateway, "rft_gateway_waiting", asleep) == 0
    demand = demand_of(gateway, asleep)
    assert (demand.endpoint, demand.waiting, demand.in_flight) == ("base", 0, 0)
    assert gateway.post(CHAT, question()).is_success
    assert gateway.entries()[-1]["cold_start_seconds"] == 0
    assert demand_of(gateway, asleep).last_request > demand.last_request


def test_requests_in_flight_are_demanded(gateway, asleep, pod, pool):
    pod.behaviour.pause_at = 1
    asleep.set_servers("base", pod.port)
    answer = pool.submit(gateway.post, CHAT, question())
    wait_until(lambda: (demand := demand_of(gateway, asleep)) is not None and demand.in_flight == 1)
    pod.behaviour.resume.set()
    assert answer.result().is_success


def test_a_full_queue_is_told_to_come_back(gateway, team, pod, pool):
    add_asleep(team, gateway, queue=3, timeout="1h")
    waiting = [pool.submit(gateway.post, CHAT, question()) for _ in range(3)]
    wait_for_waiting(gateway, team, 3)
    refusal = gateway.post(CHAT, question(stream=True))
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (429, "model_queue_full")
    assert int(refusal.headers["retry-after"]) > 0
    assert metric(gateway, "rft_gateway_refused_total", team, reason="QueueFull") == 1
    team.set_servers("base", pod.port)
    assert [answer.result().status_code for answer in waiting] == [200] * 3


def test_where_nobody_may_wait_a_request_wakes_and_is_told_to_come_back(gateway, team):
    add_asleep(team, gateway, queue=0)
    refusal = gateway.post(CHAT, question())
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_starting")
    assert "retry-after" in refusal.headers
    wait_until(lambda: wake_time(team))


def test_a_wait_ends_with_the_words_of_the_condition(gateway, team):
    add_asleep(team, gateway, timeout="3s")
    team.set_ready("base", "False", "Unschedulable", "pod base-0: 0/3 nodes have 8 GPUs")
    team.add_base("later")  # the gateway sees it after the condition
    with gateway.client() as client:
        wait_until(lambda: client.get("/v1/models/later").is_success, lambda: gateway.log)
    before = len(gateway.entries())
    refusal = gateway.post(CHAT, question())
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (503, "model_start_timeout")
    assert "(Unschedulable: pod base-0: 0/3 nodes have 8 GPUs)" in refusal.json()["error"]["message"]
    assert "retry-after" in refusal.headers
    (entry,) = gateway.wait_for_entries(before + 1)[before:]
    assert (entry["outcome"], entry["status"]) == ("Refused", 503)
    assert entry["cold_start_seconds"] >= 3
    assert metric(gateway, "rft_gateway_cold_starts_total", team, outcome="Failed") == 1


def test_streams_get_signs_of_life_and_then_their_answer(gateway, asleep, pod, pool):
    def read_raw() -> str:
        with gateway.client() as client, client.stream("POST", CHAT, json=question(stream=True)) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert "x-request-id" in stream.headers
            lines = stream.iter_lines()
            first = next(lines)
            beating.set()
            return "\n".join([first, *lines])

    def read_with_openai() -> str:
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token, max_retries=0) as client:
            chunks = client.chat.completions.create(
                model="base", messages=[{"role": "user", "content": "one two"}], max_tokens=3, stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    beating = threading.Event()
    raw, text = pool.submit(read_raw), pool.submit(read_with_openai)
    wait_until(beating.is_set)
    asleep.set_servers("base", pod.port)
    assert text.result() == "w0 w1 w2 "
    assert re.match(r"(: waiting for the model to start\n\n)+data: ", raw.result())
    assert raw.result().endswith("data: [DONE]\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_cannot_start_says_why_to_those_who_wait(gateway, asleep, pool, stream):
    """A stream that has got a sign of life ends with the error as its last event."""
    lines: list[str] = []

    def read() -> int:
        with gateway.client() as client, client.stream("POST", CHAT, json=question(stream=stream)) as answer:
            for line in answer.iter_lines():
                lines.append(line)  # the test looks at what has come
            return answer.status_code

    answer = pool.submit(read)
    wait_for_waiting(gateway, asleep, 1)
    if stream:
        wait_until(lambda: lines)
    asleep.set_ready("base", "False", "ModelInvalid", "pod base-0: config.json is missing")
    assert answer.result() == (200 if stream else 503)
    error = json.loads("".join(lines).rpartition("data: ")[2] if stream else "".join(lines))["error"]
    assert error["code"] == "model_cannot_start"
    assert "(ModelInvalid: pod base-0: config.json is missing)" in error["message"]
    with (
        openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.token) as client,
        pytest.raises(openai.InternalServerError, match="ModelInvalid"),
    ):
        client.chat.completions.create(model="base", messages=[{"role": "user", "content": "one"}])
    assert metric(gateway, "rft_gateway_refused_total", asleep, reason="CannotStart") == 2


def test_an_adapter_wakes_its_base_and_waits_until_it_is_loaded(gateway, asleep, pod, pool):
    asleep.add_adapter("tax", "base")
    with gateway.client() as client:
        wait_until(lambda: client.get("/v1/models/tax").is_success)
    pod.models.remove("tax")
    answers = [pool.submit(gateway.post, CHAT, question("tax")) for _ in range(5)]
    wait_until(lambda: wake_time(asleep))
    wait_for_waiting(gateway, asleep, 5)
    asleep.set_servers("base", pod.port)
    assert gateway.post(CHAT, question()).is_success
    wait_until(lambda: pod.counters.requests > 8)  # it is asked again and again, and has no such model
    assert not any(answer.done() for answer in answers)
    pod.models.append("tax")
    assert [answer.result().status_code for answer in answers] == [200] * 5


def test_a_replica_that_has_not_loaded_the_adapter_yet_is_passed_over(gateway, asleep, pod):
    asleep.add_adapter("tax", "base")
    with VllmBytes("base", host=pod.url.removeprefix("http://").partition(":")[0]) as other:
        asleep.set_servers("base", pod.port, other.port)
        asleep.set_ready("tax", "True", "Ready")  # as the operator has seen it before the other replica came
        wait_until(lambda: gateway.post(CHAT, question("tax")).status_code == 200)
        numbers = itertools.count()

        def ask() -> int:
            messages = [{"role": "user", "content": f"{next(numbers)} one two"}]
            assert gateway.post(CHAT, question("tax", messages=messages)).status_code == 200
            return other.counters.requests

        wait_until(ask, pause=0.0)  # the gateway may see the second replica later
        for _ in range(20):
            ask()


def test_without_autoscale_nobody_waits_and_the_condition_says_why(gateway, team):
    team.add_base("base")
    team.set_ready("base", "False", "ImagePullFailed", "pod base-0: server: not found")

    def refusal() -> httpx.Response | None:
        answer = gateway.post(CHAT, question())
        return answer if "ImagePullFailed" in answer.text else None

    answer = wait_until(refusal, lambda: gateway.log)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unavailable")
    assert "(ImagePullFailed: pod base-0: server: not found)" in answer.json()["error"]["message"]
    assert wake_time(team) is None


def test_whoever_leaves_is_not_waited_for(gateway, asleep):
    token = asleep.add_key("hurried", limits=Limits(parallel_requests=1, tokens_per_day=50))
    gateway.wait_for_status(token, 200)
    before = len(gateway.entries())
    ask_and_leave(gateway, asleep, token)
    (entry,) = gateway.wait_for_entries(before + 1)[before:]
    assert (entry["outcome"], entry["status"], entry["prompt_tokens"]) == ("ClientLeft", 499, 0)
    # no server has read its prompt: nothing of its limits is used, and another request may wait
    ask_and_leave(gateway, asleep, token)


def ask_and_leave(gateway: ClusterGateway, team: Team, token: str) -> None:
    """Asks for up to 40 tokens, and leaves when the request waits."""
    body = json.dumps(question(max_tokens=40)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    with gateway.connect() as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_for_waiting(gateway, team, 1)
    wait_for_waiting(gateway, team, 0)


def test_requests_that_wait_count_at_the_limit_of_their_key(gateway, asleep, pod, pool):
    token = asleep.add_key("narrow", limits=Limits(parallel_requests=2))
    gateway.wait_for_status(token, 200)
    answers = [pool.submit(gateway.post, CHAT, question(), token) for _ in range(2)]
    wait_for_waiting(gateway, asleep, 2)
    assert gateway.post(CHAT, question(), token).json()["error"]["code"] == "rate_limit_exceeded"
    asleep.set_servers("base", pod.port)
    assert [answer.result().status_code for answer in answers] == [200, 200]


def test_no_wrong_key_gets_in_or_wakes_anything(gateway, asleep, other_team, pool):
    """Wrong, foreign, revoked and malformed ones, 10,000 of them."""
    revoked, foreign = asleep.add_key("revoked"), other_team.add_key("foreign")
    for token in (revoked, foreign):
        gateway.wait_for_status(token, 200)
    asleep("delete", "secret", "revoked")
    gateway.wait_for_status(revoked, 401)
    makers = (make_token, lambda: revoked, lambda: foreign, lambda: gateway.token[:-1], lambda: "sk-" + "a" * 48)

    def ask(number: int) -> int:
        with gateway.client() as client:
            for count in range(100):
                token = makers[(number + count) % len(makers)]()
                answer = client.post(CHAT, json=question(), headers={"authorization": f"Bearer {token}"})
                assert answer.status_code == (404 if token == foreign else 401)
        return 100

    assert sum(pool.map(ask, range(100))) == 10_000
    assert wake_time(asleep) is None
    assert demand_of(gateway, asleep) is None


def test_a_gateway_that_stops_tells_those_who_wait_to_come_back(tmp_path: Path, kubeconfig, team, pool):
    with ClusterGateway(tmp_path, kubeconfig, "--namespaces", team.namespace) as gateway:
        gateway.token = team.add_key("ci")
        gateway.wait_for_status(gateway.token, 200)
        add_asleep(team, gateway)
        answers = [pool.submit(gateway.post, CHAT, question()) for _ in range(20)]
        wait_for_waiting(gateway, team, 20)
        gateway.process.send_signal(signal.SIGTERM)
        for answer in answers:
            assert (answer.result().status_code, answer.result().headers["retry-after"]) == (503, "1")
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
        assert {entry["outcome"] for entry in gateway.entries()} == {"Refused"}


def test_a_gateway_that_is_killed_while_they_wait(tmp_path: Path, kubeconfig, team, pod, pool):
    """Clients see a broken connection; the next gateway answers them, and the ledger has each answer once."""

    def ask(number: int) -> tuple[bool, str]:
        broke = False
        while True:
            try:
                answer = gateway.post(CHAT, question(stream=number % 2 == 0))
            except httpx.TransportError:
                broke = True
                continue
            if answer.status_code == 503 and answer.json()["error"]["code"] == "starting":
                continue  # it has not read all keys and models yet
            assert answer.status_code == 200, answer.text
            return broke, answer.headers["x-request-id"]

    with ClusterGateway(tmp_path, kubeconfig, "--namespaces", team.namespace) as gateway:
        gateway.token = team.add_key("ci")
        gateway.wait_for_status(gateway.token, 200)
        add_asleep(team, gateway)
        answers = [pool.submit(ask, number) for number in range(20)]
        wait_for_waiting(gateway, team, 20)
        gateway.kill()
        gateway.start()
        wait_for_waiting(gateway, team, 20)
        team.set_servers("base", pod.port)
        ended = [answer.result() for answer in answers]
        assert all(broke for broke, _ in ended)
        assert sorted(entry["id"] for entry in gateway.entries()) == sorted(request for _, request in ended)
        assert pod.counters.requests == 20


def test_two_gateways_wake_an_endpoint_and_answer_beside_each_other(
    tmp_path: Path, kubeconfig, team, pod, pool, postgres
):
    arguments = ("--namespaces", team.namespace, "--ledger", postgres)
    with (
        ClusterGateway(tmp_path / "a", kubeconfig, *arguments) as first,
        ClusterGateway(tmp_path / "b", kubeconfig, *arguments) as second,
    ):
        first.token = second.token = team.add_key("ci")
        for gateway in (first, second):
            gateway.wait_for_status(gateway.token, 200)
        add_asleep(team, first)
        with second.client() as client:
            wait_until(lambda: client.get("/v1/models/base").is_success)
        with team.wakes("base") as wakes:
            answers = [pool.submit(gateway.post, CHAT, question()) for gateway in (first, second) for _ in range(20)]
            wait_until(lambda: wake_time(team))
            team.set_servers("base", pod.port, ready=False)
            for gateway in (first, second):
                wait_for_waiting(gateway, team, 20)
            team.set_servers("base", pod.port)
            assert [answer.result().status_code for answer in answers] == [200] * 40
            last = team.read("inferenceendpoint", "base")["metadata"]["resourceVersion"]
            assert_few(wakes.until(last), gateways=2)
        with first.client() as client:
            usage = client.get("/v1/organization/usage/completions", params={"start_time": 0, "bucket_width": "1d"})
            assert usage.is_success
