"""The condition Fits over a job's life: what the trainer says, while it runs and by its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from worlds_from_yaml import plan_objects, read_case

from rft_operator.kube.plan import Plan

FILE = Path(__file__).parent / "golden" / "job-running.yaml"
FITS = {"fits": True, "message": "each GPU needs 16 GiB"}
TOO_LARGE = {"fits": False, "message": "each GPU needs 160 GiB"}
PLANNED = "2026-01-31T12:01:00Z"


def plan(verdict: dict[str, Any] | None, before: dict[str, str] | None = None, ended: str = "", gpus: int = 1) -> Plan:
    """The plan for the golden case's job, with another verdict, another condition before, or the end of its pod."""
    case = read_case(FILE)
    (job,) = (obj for obj in case["objects"] if obj["kind"] == "RFTJob")
    job["spec"]["compute"] = {"gpusPerNode": gpus}
    if before is not None:
        job["status"] = {"conditions": [{"type": "Fits", "observedGeneration": 1, **before}]}
    progress: dict[str, Any] | None = {"phase": "Training", **({"memory": verdict} if verdict else {})}
    if ended:
        (pod,) = (obj for obj in case["objects"] if obj["kind"] == "Pod")
        end = {"exitCode": 18, "message": ended, "finishedAt": "2026-01-31T12:09:00Z"}
        pod["status"] = {"phase": "Failed", "containerStatuses": [{"name": "trainer", "state": {"terminated": end}}]}
        (attempt,) = (obj for obj in case["objects"] if obj["kind"] == "Job")
        attempt["status"] = {
            "conditions": [
                {
                    "type": "Failed",
                    "status": "True",
                    "reason": "PodFailurePolicy",
                    "message": "Container trainer failed with exit code 18 matching FailJob rule at index 0",
                    "lastTransitionTime": "2026-01-31T12:09:00Z",
                }
            ]
        }
        progress = None
    return plan_objects(case["of"], case["objects"], case["now"], progress=progress)


def conditions(planned: Plan, kind: str) -> list[dict[str, str]]:
    return [condition for condition in planned.status["conditions"] if condition["type"] == kind]


@pytest.mark.parametrize(
    ("verdict", "status", "reason", "message"),
    [
        (None, "Unknown", "NotPlanned", "the trainer plans the memory when its pod has started"),
        ({"fits": None, "message": "models of type x"}, "Unknown", "NotPlanned", "models of type x"),
        (FITS, "True", "MemorySuffices", FITS["message"]),
        (TOO_LARGE, "False", "DoesNotFit", TOO_LARGE["message"]),
    ],
)
def test_the_trainers_verdict_is_the_condition(verdict, status, reason, message):
    (fits,) = conditions(plan(verdict), "Fits")
    assert (fits["status"], fits["reason"]) == (status, reason)
    assert message in fits["message"]


def test_a_job_on_cpus_has_no_such_condition():
    assert conditions(plan(FITS, gpus=0), "Fits") == []


def test_a_job_that_does_not_fit_has_ended_and_says_why():
    planned = plan(None, ended="DoesNotFit: each GPU needs 160 GiB. What to change: tuning.type: LoRA")
    (fits,), (succeeded,) = conditions(planned, "Fits"), conditions(planned, "Succeeded")
    for condition in (fits, succeeded):
        assert (condition["status"], condition["reason"]) == ("False", "DoesNotFit")
        assert "What to change: tuning.type: LoRA" in condition["message"]
    assert ("Warning", "DoesNotFit") in [(event.type, event.reason) for event in planned.events]


def test_a_trainer_that_says_nothing_changes_nothing():
    before = {"status": "True", "reason": "MemorySuffices", "message": "as before", "lastTransitionTime": PLANNED}
    (fits,) = conditions(plan(None, before), "Fits")
    assert (fits["status"], fits["message"], fits["lastTransitionTime"]) == ("True", "as before", PLANNED)
