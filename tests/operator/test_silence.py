"""Pods that never answer are asked less and less often, and what is said about them stays the same meanwhile."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import httpx
import pytest
from views import NOW, OWN, pod
from worlds_from_yaml import SETTINGS, plan_objects, read_case

from rft_operator.inference_endpoint.probe import ask_servers
from rft_operator.inference_endpoint.world import ServerAnswer
from rft_operator.pods import silence
from rft_operator.pods.probe import PodClient
from rft_operator.pods.silence import LONGEST_PAUSE_SECONDS, Question, Silences
from rft_operator.pods.slots import Limits
from rft_operator.rft_job.probe import ask_progress, asked_pods

GOLDEN = Path(__file__).parent / "golden"
POLL = SETTINGS.poll_seconds


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Pods:
    """Pods that count the connections, and answer only where they are told to."""

    def __init__(self):
        self.asked, self.answers, self.clock = 0, None, Clock()

    def _answer(self, request):
        self.asked += 1
        if self.answers is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json=self.answers)

    def client(self):
        client = PodClient(httpx.AsyncClient(transport=httpx.MockTransport(self._answer)), Limits())
        client._silences = Silences(self.clock)
        return client


def run(pods, question):
    """Ask a pod at the times that the operator chooses, for an hour; returns the times of the connections."""
    client, times, start = pods.client(), [], pods.clock.now

    async def ask():
        while pods.clock.now < start + 3600:
            before = pods.asked
            await question(client)
            if pods.asked > before:
                times.append(pods.clock.now - start)
            pods.clock.now += max(POLL, client.seconds_of_silence([ASKED]))

    asyncio.run(ask())
    return times


ASKED = pod(ip="10.0.0.1")


def test_a_silent_pod_is_asked_less_and_less_often():
    times = run(Pods(), lambda client: ask_progress(client, [ASKED]))
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[:4] == [POLL] * 4
    assert pauses[-3:] == [LONGEST_PAUSE_SECONDS] * 3
    # What it says after an outage is known at most a quarter of the outage later.
    assert all(later <= max(earlier * 1.25, earlier + POLL) for earlier, later in pairwise(times))
    assert len(times) < 3600 / POLL / 6


def test_reconciliations_that_others_cause_ask_no_more_often():
    pods = Pods()
    client = pods.client()

    async def ask():
        for _ in range(3600):
            await ask_progress(client, [ASKED])
            pods.clock.now += 1

    asyncio.run(ask())
    assert pods.asked < 60


@pytest.mark.parametrize(
    "changed",
    [{"ip": "10.0.0.2"}, {"ready": False}, {"running_since": NOW}, {"uid": "another"}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_pod_that_has_changed_is_asked_at_once(changed):
    pods = Pods()
    client = pods.client()

    async def ask():
        for _ in range(20):
            await ask_progress(client, [ASKED])
            pods.clock.now += max(POLL, client.seconds_of_silence([ASKED]))
        await ask_progress(client, [ASKED])
        before, other = pods.asked, pod(**{"ip": "10.0.0.1", **changed})
        assert client.seconds_of_silence([ASKED]) > 0
        assert client.seconds_of_silence([other]) == 0
        await ask_progress(client, [other])
        await ask_progress(client, [other])
        return pods.asked - before

    assert asyncio.run(ask()) == 2


def test_a_pod_that_answers_again_is_asked_as_before():
    pods = Pods()
    client = pods.client()

    async def ask():
        await ask_progress(client, [ASKED])
        pods.clock.now += 600
        await ask_progress(client, [ASKED])
        assert client.seconds_of_silence([ASKED]) == 150
        pods.clock.now += 150
        pods.answers = {"step": 3}
        assert (await ask_progress(client, [ASKED])).step == 3
        assert client.seconds_of_silence([ASKED]) == 0
        pods.answers = None
        assert await ask_progress(client, [ASKED]) is None
        assert client.seconds_of_silence([ASKED]) == 0  # a new silence begins

    asyncio.run(ask())


def test_what_is_said_about_a_silent_pod_does_not_change_while_it_is_not_asked():
    pods, said = Pods(), set()

    async def ask(client):
        said.add(str(await ask_servers(client, [ASKED], OWN, was_ready=False)))

    assert len(run(pods, ask)) < 60
    assert said == {str({"pod": ServerAnswer("the server cannot be asked: refused")})}


def test_of_several_pods_the_first_that_may_answer_decides():
    clock = Clock()
    silences, question = Silences(clock), Question(8080, "/readyz", None)
    first, second = (pod(ip="10.0.0.1", uid=uid) for uid in "ab")
    silences.begin(first, question, "x")
    clock.now += 400
    silences.begin(second, question, "x")
    silences.begin(first, question, "x")
    assert silences.seconds_left([first]) == 100
    assert silences.seconds_left([first, second]) == 0
    assert silences.seconds_left([]) == 0
    clock.now += 40
    silences.begin(second, question, "x")
    assert silences.seconds_left([first, second]) == 10


def test_pods_that_are_no_longer_asked_are_forgotten(monkeypatch):
    clock = Clock()
    silences = Silences(clock)
    for number in range(10_000):
        silences.begin(pod(ip="10.0.0.1", uid=f"uid-{number}"), Question(9090, "/progress", None), "x")
        clock.now += 1
    assert len(silences._pods) == silence.KEPT_SECONDS + 1


@pytest.mark.parametrize(
    ("limits", "now", "silent", "requeue"),
    [
        ({}, "2026-01-31T12:10:00Z", 0.0, POLL),
        ({}, "2026-01-31T12:10:00Z", 200.0, 200.0),
        ({"deadline": "1h"}, "2026-01-31T12:10:00Z", 200.0, 200.0),
        ({"deadline": "1h"}, "2026-01-31T12:58:30Z", 200.0, 100.0),
        ({"gpuHours": "1000"}, "2026-01-31T12:10:00Z", 200.0, 200.0),
        ({"gpuHours": "0.2"}, "2026-01-31T12:10:00Z", 200.0, 125.0),
        ({"gpuHours": "0.2", "deadline": "11m"}, "2026-01-31T12:10:00Z", 200.0, 70.0),
    ],
)
def test_a_job_whose_trainer_is_silent_is_planned_when_it_is_asked_or_at_its_limits(limits, now, silent, requeue):
    case = read_case(GOLDEN / "job-running.yaml")
    job = next(obj for obj in case["objects"] if obj["kind"] == "RFTJob")
    job["spec"]["limits"] = limits
    assert plan_objects(case["of"], case["objects"], now, silentSeconds=silent).requeue_seconds == requeue


def test_asked_pods_are_those_of_rank_0():
    assert asked_pods([pod(ip="1", index=1), ASKED, pod(ip="2")]) == [ASKED]
