"""How many server pods an endpoint with autoscale has, rule by rule, and in any situation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from views import NOW, ago

from rft_api.inference_endpoint import Autoscale, AutoscaleStatus
from rft_operator.inference_endpoint.scaling import Scaling, Situation, scale
from rft_operator.kube.timestamps import format_timestamp
from rft_operator.pods.demand import Demand

DAY = 86400.0
PROBLEM = "the gateway at 10.0.0.1 cannot be asked: refused"


def at(seconds: float) -> str:
    """A time before NOW, as Kubernetes writes it."""
    return format_timestamp(ago(seconds))


def demand(requests: int = 0, last: float | None = None, started: float = DAY, problem: str | None = None) -> Demand:
    """What gateways are asked for; the times are seconds before NOW."""
    return Demand(requests, None if last is None else ago(last), ago(started), problem)


def situation(pods: int, asked: Demand | None, **changes: Any) -> Situation:
    """A pod is enough for two requests, there are four at most, and they end after 100 s."""
    usual = {"minimum": 0, "maximum": 4, "targetConcurrency": 2, "idleAfter": "100s"}
    autoscale = {**usual, **changes.pop("autoscale", {})}
    fields: dict[str, Any] = {
        "autoscale": Autoscale.model_validate(autoscale), "cold_start": timedelta(seconds=300), "demand": asked,
        "pods": pods, "is_ready": True, "wake": None, "before": AutoscaleStatus(replicas=pods), "now": NOW,
    }  # fmt: skip
    return Situation(**{**fields, **changes})


def kept(pods: int, **times: Any) -> AutoscaleStatus:
    return AutoscaleStatus(replicas=pods, **times)


FULL_LONG_AGO = {"last_needed_time": at(120), "sufficient_replicas": 2}
CASES: dict[str, tuple[Situation, int]] = {
    # More pods, at once.
    "one request": (situation(0, demand(1)), 1),
    "as many requests as a pod has room for": (situation(0, demand(2)), 1),
    "one request more": (situation(1, demand(3)), 2),
    "more than the maximum": (situation(1, demand(1000)), 4),
    "more, and a gateway cannot be asked": (situation(1, demand(5, problem=PROBLEM)), 3),
    "the minimum": (situation(0, demand(), autoscale={"minimum": 2}), 2),
    "a minimum that was raised, and a gateway cannot be asked": (
        situation(1, demand(problem=PROBLEM), autoscale={"minimum": 2}), 2),
    # A new endpoint.
    "new": (situation(0, demand(), before=None), 0),
    "new, and a gateway cannot be asked": (situation(0, demand(problem=PROBLEM), before=None), 0),
    "new, with a minimum": (situation(0, demand(), before=None, autoscale={"minimum": 1}), 1),
    "had replicas until now": (situation(3, demand(), before=None), 3),
    # A wake.
    "woken": (situation(0, demand(), wake=at(1)), 1),
    "woken by a clock that is ahead": (situation(0, demand(), wake=at(-30)), 1),
    "woken in the future": (situation(0, demand(), wake=at(-3600)), 0),
    "woken before the last pod had ended": (situation(0, demand(), wake=at(101)), 0),
    "the pod of a wake has ended": (situation(0, demand(), wake=at(101), is_ready=False), 0),
    "the pod of a wake is not ready yet": (situation(1, demand(), wake=at(299), is_ready=False), 1),
    "the pod of a wake is not ready for so long that nobody waits": (
        situation(1, demand(), wake=at(301), is_ready=False), 0),
    "the pod of a wake is ready, and nobody asks": (situation(1, demand(last=200), wake=at(200)), 0),
    "woken at a local time": (situation(0, demand(), wake="2026-01-31T12:00:00"), 0),
    "woken with a time zone": (situation(0, demand(), wake="2026-01-31T13:59:50.123456+02:00"), 1),
    "woken in the year one": (situation(0, demand(), wake="0001-01-01T00:00:00+14:00"), 0),
    "woken in the year 9999": (situation(0, demand(), wake="9999-12-31T23:59:59-14:00"), 0),
    "an annotation of another kind": (situation(0, demand(), wake="now!"), 0),
    "an empty annotation": (situation(0, demand(), wake=""), 0),
    # The last pod.
    "asked a moment ago": (situation(1, demand(last=99)), 1),
    "not asked for long enough": (situation(1, demand(last=100)), 0),
    "not asked, and three pods": (situation(3, demand(last=100)), 0),
    "not asked, and a minimum": (situation(1, demand(last=1000), autoscale={"minimum": 1}), 1),
    "not asked, and a gateway cannot be asked": (situation(1, demand(last=1000, problem=PROBLEM)), 1),
    "a gateway that has started lately": (situation(1, demand(started=99)), 1),
    "a gateway that has started lately, and the time of another one": (situation(1, demand(last=1000, started=99)), 1),
    "a gateway that is gone has told of a request": (
        situation(1, demand(), before=kept(1, last_request_time=at(90))), 1),
    # Ten seconds are the precision of the times in the status.
    "a gateway that is gone may have known of a later one": (
        situation(1, demand(), before=kept(1, last_request_time=at(109))), 1),
    "a gateway that is gone cannot have known of a later one": (
        situation(1, demand(), before=kept(1, last_request_time=at(110))), 0),
    "a gateway whose clock is ahead": (situation(1, demand(last=-30)), 1),
    "a request without an end": (situation(1, demand(1, last=DAY / 2)), 1),
    # Fewer pods, after a time.
    "fewer are enough": (situation(4, demand(1, last=0)), 4),
    "fewer were enough for too short a time": (
        situation(4, demand(1), before=kept(4, last_needed_time=at(109), sufficient_replicas=1)), 4),
    "fewer were enough for long": (
        situation(4, demand(1), before=kept(4, last_needed_time=at(110), sufficient_replicas=1)), 1),
    "as many as were enough for long": (situation(4, demand(1), before=kept(4, **FULL_LONG_AGO)), 2),
    "more than were enough until now": (situation(4, demand(5), before=kept(4, **FULL_LONG_AGO)), 3),
    "all are needed again": (situation(4, demand(8), before=kept(4, **FULL_LONG_AGO)), 4),
    "fewer were enough, and a gateway cannot be asked": (
        situation(4, demand(1, problem=PROBLEM), before=kept(4, **FULL_LONG_AGO)), 4),
    "not below the minimum": (
        situation(4, demand(1), before=kept(4, **FULL_LONG_AGO), autoscale={"minimum": 3}), 3),
    "one stays for those who have asked lately": (
        situation(4, demand(last=50), before=kept(4, last_needed_time=at(150), sufficient_replicas=1)), 1),
    "a smaller maximum counts at once": (situation(4, demand(100), autoscale={"maximum": 3}), 3),
    "a smaller maximum, and a gateway cannot be asked": (
        situation(4, demand(problem=PROBLEM), autoscale={"maximum": 3}), 3),
    # No gateway.
    "no gateway": (situation(0, None), 1),
    "no gateway, with a minimum": (situation(0, None, autoscale={"minimum": 2}), 2),
    "no gateway any more": (situation(4, None), 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_rule(name):
    given_, replicas = CASES[name]
    decision = scale(given_)
    assert decision.replicas == decision.status.replicas == replicas, decision.why


TEXTS: dict[str, tuple[Situation, str]] = {
    "requests": (situation(1, demand(3)), "3 requests at the same time, and a pod is enough for 2"),
    "maximum": (situation(1, demand(99)), "spec.autoscale.maximum, for 99 requests at the same time, and a pod is"),
    "minimum": (situation(0, demand(), autoscale={"minimum": 2}), "spec.autoscale.minimum"),
    "wake": (situation(0, demand(), wake=at(1)), "a request has woken it"),
    "zero": (situation(0, demand()), "nobody asks for its models"),
    "idle": (situation(1, demand(last=500)), "nobody has asked for its models for 100s"),
    "recent": (situation(1, demand(last=50)), "its models were asked for less than 100s ago"),
    "unknown": (situation(2, demand(problem=PROBLEM)), f"none ends while not all gateways can be asked: {PROBLEM}"),
    "fewer": (situation(4, demand(1), before=kept(4, **FULL_LONG_AGO)), "as many have been enough for 100s"),
    "soon": (situation(4, demand(1)), "1 would be enough, but not for 100s yet"),
    "no gateway": (situation(1, None), "no gateway says how many are needed"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_decision_says_why(name):
    given_, text = TEXTS[name]
    assert scale(given_).why.startswith(text)


def live(seconds: int, requests: Callable[[int], int]) -> list[Scaling]:
    """The decisions every five seconds, each at what the one before has left; `requests` are those at a second."""
    decisions: list[Scaling] = []
    before, last = AutoscaleStatus(replicas=0), None
    for second in range(0, seconds, 5):
        now = NOW + timedelta(seconds=second)
        last = now if requests(second) else last
        asked = Demand(requests(second), last, ago(DAY), None)
        decisions.append(scale(situation(before.replicas, asked, before=before, now=now)))
        before = decisions[-1].status
    return decisions


def test_a_constant_load_writes_once_in_a_tenth_of_the_time():
    statuses = [decision.status for decision in live(1000, lambda second: 7)]
    assert {status.replicas for status in statuses} == {4}
    assert len(set(map(str, statuses))) == 100


def test_a_load_that_goes_up_and_down_writes_twice_in_a_tenth_of_the_time():
    statuses = [decision.status for decision in live(1000, lambda second: 7 if second % 4 else 5)]
    assert {status.replicas for status in statuses[1:]} == {4}
    assert len(set(map(str, statuses))) <= 200


def test_an_endpoint_at_rest_writes_nothing():
    assert len({str(decision.status) for decision in live(1000, lambda second: 0)}) == 1


def test_pods_end_when_requests_do():
    numbers = [
        decision.replicas for decision in live(1000, lambda second: 8 if second < 100 else 3 if second < 400 else 0)
    ]
    # 100 s after the last look with eight requests, at 95 s, and with three, at 395 s, and up to 10 s of precision.
    assert [5 * numbers.count(number) for number in (4, 2, 0)] == [200, 300, 500]
    assert numbers == sorted(numbers, reverse=True)


def test_what_time_changes_has_a_time():
    """The decision after `seconds` is the one that was promised; a look before it changes nothing."""
    idle = situation(1, demand(last=40))
    assert scale(idle).seconds == 60
    assert scale(replace(idle, now=NOW + timedelta(seconds=60))).replicas == 0
    surplus = situation(4, demand(1), before=kept(4, last_needed_time=at(105), sufficient_replicas=1))
    assert scale(surplus).seconds == 5
    assert scale(replace(surplus, now=NOW + timedelta(seconds=5))).replicas == 1
    assert scale(situation(0, demand())).seconds is None


TIMES = st.one_of(st.none(), st.floats(-DAY, 10 * DAY).map(ago))
STAMPS = st.one_of(
    st.none(),
    st.floats(-DAY, 10 * DAY).map(at),
    # whoever may write the status may write these, which Kubernetes takes for timestamps
    st.sampled_from(["2026-01-31T12:00", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", ""]),
)
AUTOSCALES = st.tuples(st.integers(0, 9), st.integers(1, 9), st.integers(1, 64), st.integers(10, 4000)).map(
    lambda numbers: Autoscale(
        minimum=min(numbers[:2]), maximum=max(numbers[:2]), target_concurrency=numbers[2], idle_after=f"{numbers[3]}s"
    )
)
DEMANDS = st.builds(Demand, st.integers(0, 10**6), TIMES, TIMES, st.one_of(st.none(), st.just(PROBLEM)))
SITUATIONS = st.builds(
    Situation, AUTOSCALES, st.integers(1, 4000).map(lambda seconds: timedelta(seconds=seconds)), DEMANDS,
    st.integers(0, 12), st.booleans(), st.one_of(st.none(), st.text(max_size=64), STAMPS),
    st.one_of(st.none(), st.builds(AutoscaleStatus, replicas=st.integers(0, 12), last_request_time=STAMPS,
                                   last_needed_time=STAMPS, sufficient_replicas=st.integers(0, 12))),
    st.just(NOW),
)  # fmt: skip


@given(SITUATIONS)
def test_in_any_situation(given_):
    decision, autoscale, asked = scale(given_), given_.autoscale, given_.demand
    assert autoscale.minimum <= decision.replicas <= autoscale.maximum
    assert decision.replicas >= min(math.ceil(asked.requests / autoscale.target_concurrency), autoscale.maximum)
    if asked.problem is not None:
        assert decision.replicas >= min(given_.pods, autoscale.maximum)
    if decision.replicas == 0 and given_.pods:
        assert asked.requests == 0
        for time in (asked.last_request, asked.gateways_started):
            assert time is None or NOW - time >= given_.idle_after
    assert decision.seconds is None or decision.seconds >= 1


@given(SITUATIONS)
def test_a_restart_changes_nothing(given_):
    """A second look at the same moment, at what the first has written, decides the same and writes nothing."""
    first = scale(given_)
    is_ready = given_.is_ready and first.replicas > 0
    second = scale(replace(given_, pods=first.replicas, before=first.status, is_ready=is_ready))
    assert (second.replicas, second.status) == (first.replicas, first.status)


@given(SITUATIONS)
def test_an_end_between_the_two_writes_changes_nothing(given_):
    """The Deployment has the new number, and the status does not: the next look sees the larger of the two."""
    first = scale(given_)
    between = replace(given_, pods=max(first.replicas, given_.before.replicas if given_.before else 0))
    assert scale(between).replicas >= min(first.replicas, given_.autoscale.maximum)
