"""The condition RewardHackingSuspected over a job's life, from what the trainer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worlds_from_yaml import plan_objects, read_case

from rft_operator.kube.plan import Plan

FILE = Path(__file__).parent / "golden" / "job-hacking.yaml"
RISEN = {"suspected": True, "message": "the reward has risen and shadow brief has fallen"}
AGREED = {"suspected": False, "message": "both have risen"}


def plan(verdict: dict[str, Any] | None, before: dict[str, str] | None = None) -> Plan:
    """The plan for the golden case's job, with another verdict and another condition before."""
    case = read_case(FILE)
    (job,) = (obj for obj in case["objects"] if obj["kind"] == "RFTJob")
    conditions = job["status"]["conditions"]
    conditions[:] = [c for c in conditions if c["type"] != "RewardHackingSuspected"]
    if before is not None:
        conditions.append({"type": "RewardHackingSuspected", "observedGeneration": 1, **before})
    progress = {"phase": "Training", **({"rewardHacking": verdict} if verdict else {})}
    return plan_objects(case["of"], case["objects"], case["now"], progress=progress)


def condition(planned: Plan) -> dict[str, str]:
    found = [c for c in planned.status["conditions"] if c["type"] == "RewardHackingSuspected"]
    return found[0] if found else {}


EARLIER = "2026-01-31T12:05:00Z"
SUSPECTED = {"status": "True", "reason": "ShadowFalls", "message": "told before", "lastTransitionTime": EARLIER}


@pytest.mark.parametrize(
    ("verdict", "status", "reason"),
    [
        (None, "Unknown", "NotCompared"),
        ({"suspected": None, "message": "too few prompts"}, "Unknown", "NotCompared"),
        (AGREED, "False", "ShadowsAgree"),
        (RISEN, "True", "ShadowFalls"),
    ],
)
def test_the_trainers_verdict_is_the_condition(verdict, status, reason):
    found = condition(plan(verdict))
    assert (found["status"], found["reason"]) == (status, reason)
    assert found["message"] == (verdict or {}).get("message", "")


def test_suspicion_is_an_event_once():
    assert [(e.type, e.reason) for e in plan(RISEN).events if e.reason == "ShadowFalls"] == [("Warning", "ShadowFalls")]
    again = plan(RISEN, SUSPECTED)
    assert not [event for event in again.events if event.reason == "ShadowFalls"]
    assert condition(again)["lastTransitionTime"] == EARLIER
    assert condition(again)["message"] == RISEN["message"]
    assert not plan(AGREED, SUSPECTED).events


def test_a_trainer_that_says_nothing_changes_nothing():
    found = condition(plan(None, SUSPECTED))
    assert (found["status"], found["message"], found["lastTransitionTime"]) == ("True", "told before", EARLIER)
