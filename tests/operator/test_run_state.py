"""Where a run stands, case by case."""

from __future__ import annotations

from typing import Any

import pytest
from views import NOW, ago, failed, pod

from rft_api.conditions import Reason
from rft_api.exit_codes import ExitCode
from rft_api.progress import Progress
from rft_api.rft_job import Limits
from rft_operator.pods.pod_view import Termination
from rft_operator.rft_job.attempts import Attempt, Outcome
from rft_operator.rft_job.run_state import RunFacts, awaits_pod_status, decide_run_state
from rft_operator.status.reasons import reason_of


def attempt(outcome: Outcome = Outcome.UNFINISHED, number: int = 0, **changes: Any) -> Attempt:
    fields = {
        "name": f"job-{number}", "uid": f"uid-{number}", "retries_before": 0, "waiting_in_queue": False,
        "deleting": False, "ended_at": None if outcome is Outcome.UNFINISHED else ago(1000), "failure_text": "",
    }  # fmt: skip
    return Attempt(number=number, outcome=outcome, **{**fields, **changes})


def facts(**changes: Any) -> RunFacts:
    fields: dict[str, Any] = {
        "suspend": False, "limits": Limits(), "attempts": [], "pods": [], "progress": None, "start_time": None,
        "gpu_seconds": 0, "blocked": None, "now": NOW,
    }  # fmt: skip
    return RunFacts(**{**fields, **changes})


RETRIABLE, STOPPED, PERMANENT = Outcome.RETRIABLE, Outcome.INTERRUPTED, Outcome.PERMANENT
BLOCKED = (Reason.WAITING_FOR_REWARDS, "no reward")
STUCK = (Reason.IMAGE_PULL_FAILED, "no image")

# what is seen -> status, reason, attempt to start, attempt to stop
CASES: dict[str, tuple[dict[str, Any], str, Reason, int | None, int | None]] = {
    "a new job starts": ({}, "Unknown", Reason.STARTING, 0, None),
    "a blocked job waits": ({"blocked": BLOCKED}, "Unknown", Reason.WAITING_FOR_REWARDS, None, None),
    "a job created suspended": ({"suspend": True}, "Unknown", Reason.SUSPENDED, None, None),
    "pods of a deleted Job still end": ({"pods": [pod()]}, "Unknown", Reason.STOPPING, None, None),
    "in the queue": (
        {"attempts": [attempt(waiting_in_queue=True)]}, "Unknown", Reason.QUEUED, None, None),
    "no pods yet": ({"attempts": [attempt()]}, "Unknown", Reason.STARTING, None, None),
    "a pod cannot start": (
        {"attempts": [attempt()], "pods": [pod(problem=STUCK)]}, "Unknown", Reason.IMAGE_PULL_FAILED, None, None),
    "one of two runs": (
        {"attempts": [attempt()], "pods": [pod(), pod(running_since=None)]}, "Unknown", Reason.STARTING, None, None),
    "all run": ({"attempts": [attempt()], "pods": [pod()]}, "Unknown", Reason.RUNNING, None, None),
    "rewards that go away do not stop it": (
        {"attempts": [attempt()], "pods": [pod()], "blocked": BLOCKED}, "Unknown", Reason.RUNNING, None, None),
    "suspended while it runs": (
        {"attempts": [attempt()], "pods": [pod()], "suspend": True}, "Unknown", Reason.STOPPING, None, 0),
    "suspended and stopping": (
        {"attempts": [attempt(deleting=True)], "pods": [pod()], "suspend": True},
        "Unknown", Reason.STOPPING, None, None),
    "resumed while still stopping": (
        {"attempts": [attempt(deleting=True)], "pods": [pod()]}, "Unknown", Reason.STOPPING, None, None),
    "succeeded": ({"attempts": [attempt(Outcome.SUCCEEDED)]}, "True", Reason.SUCCEEDED, None, None),
    "succeeded in spite of suspend and limits": (
        {"attempts": [attempt(Outcome.SUCCEEDED)], "suspend": True, "limits": Limits(deadline="1s"),
         "start_time": ago(10)}, "True", Reason.SUCCEEDED, None, None),
    "data that cannot be read": (
        {"attempts": [attempt(PERMANENT)], "pods": [failed(11)]}, "False", Reason.DATA_INVALID, None, None),
    "a permanent code is known from the Job alone": (
        {"attempts": [attempt(PERMANENT, failure_text="... failed with exit code 13 matching ...")]},
        "False", Reason.NOT_LEARNABLE, None, None),
    "the permanent error of one pod outranks how others fell": (
        {"attempts": [attempt(PERMANENT)], "pods": [failed(1, name="a"), failed(16, name="b")]},
        "False", Reason.DIVERGED, None, None),
    "a failure that may pass, just now": (
        {"attempts": [attempt(RETRIABLE, ended_at=ago(3))], "pods": [failed(76)]},
        "Unknown", Reason.RETRYING, None, None),
    "a failure that may pass, after the pause": (
        {"attempts": [attempt(RETRIABLE, ended_at=ago(11))], "pods": [failed(76)]},
        "Unknown", Reason.STARTING, 1, None),
    "the second pause is longer": (
        {"attempts": [attempt(RETRIABLE, 1, retries_before=1, ended_at=ago(11))]},
        "Unknown", Reason.RETRYING, None, None),
    "no retries left": (
        {"attempts": [attempt(RETRIABLE, 3, retries_before=3)], "pods": [failed(137, "OOMKilled", 3)]},
        "False", Reason.RETRIES_EXHAUSTED, None, None),
    "no retries wanted": (
        {"attempts": [attempt(RETRIABLE)], "limits": Limits(retries=0)},
        "False", Reason.RETRIES_EXHAUSTED, None, None),
    "a failure while suspended": (
        {"attempts": [attempt(RETRIABLE)], "suspend": True}, "Unknown", Reason.SUSPENDED, None, None),
    "a lost node costs no retry": (
        {"attempts": [attempt(STOPPED, 3, retries_before=3)]}, "Unknown", Reason.STARTING, 4, None),
    "a lost node whose pod has not ended yet": (
        {"attempts": [attempt(STOPPED)], "pods": [pod()]}, "Unknown", Reason.STOPPING, None, None),
    "a retry waits for the rewards too": (
        {"attempts": [attempt(STOPPED)], "blocked": BLOCKED}, "Unknown", Reason.WAITING_FOR_REWARDS, None, None),
    "the deadline passes": (
        {"attempts": [attempt()], "pods": [pod()], "limits": Limits(deadline="1m"), "start_time": ago(60)},
        "False", Reason.DEADLINE_EXCEEDED, None, 0),
    "just before the deadline": (
        {"attempts": [attempt()], "pods": [pod()], "limits": Limits(deadline="1m"), "start_time": ago(59)},
        "Unknown", Reason.RUNNING, None, None),
    "the deadline passes while suspended": (
        {"suspend": True, "limits": Limits(deadline="1m"), "start_time": ago(60)},
        "False", Reason.DEADLINE_EXCEEDED, None, None),
    "GPU hours are used up": (
        {"attempts": [attempt()], "pods": [pod()], "limits": Limits(gpu_hours="0.5"), "gpu_seconds": 1800},
        "False", Reason.GPU_HOURS_EXCEEDED, None, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_case(name):
    seen, status, reason, start, stop = CASES[name]
    state = decide_run_state(facts(**seen))
    assert (state.status, state.reason, state.start) == (status, reason, start)
    assert (None if state.stop is None else state.stop.number) == stop


def test_a_run_that_is_interrupted_at_once_starts_again_after_a_while():
    state = decide_run_state(facts(attempts=[attempt(STOPPED, number=7, started_at=ago(3), ended_at=ago(1))]))
    assert (state.start, state.reason, state.requeue_seconds) == (None, Reason.RETRYING, 7)
    assert state.message == "attempt 8 was interrupted"
    state = decide_run_state(facts(attempts=[attempt(STOPPED, number=7, started_at=ago(10), ended_at=ago(1))]))
    assert state.start == 8


def test_a_retry_is_counted_and_says_why():
    state = decide_run_state(
        facts(
            attempts=[attempt(RETRIABLE, ended_at=ago(3))], pods=[failed(76, "RewardUnreachable: http://r is silent")]
        )
    )
    assert state.retries == 1
    assert state.message == "retry 1 of 3 after RewardUnreachable: pod pod: http://r is silent"
    assert state.requeue_seconds == 7


def test_a_pod_that_the_kernel_killed_for_its_memory_is_the_cause():
    killed = pod(
        phase="Failed", terminated=True, name="b", termination=Termination(137, "raise the limit", ago(1000), True)
    )
    others = failed(1, "Unexpected: connection closed", name="a")
    seen = facts(attempts=[attempt(RETRIABLE, ended_at=ago(3))], pods=[others, killed])
    assert decide_run_state(seen).message == "retry 1 of 3 after OOMKilled: pod b: raise the limit"
    exhausted = facts(attempts=[attempt(RETRIABLE)], limits=Limits(retries=0), pods=[others, killed])
    assert decide_run_state(exhausted).message == "attempt 1 failed with OOMKilled: pod b: raise the limit"


def test_memory_that_runs_out_on_a_device_is_not_tried_again_unchanged():
    seen = facts(attempts=[attempt(PERMANENT)], pods=[failed(17, "OutOfMemory: lower microBatchSize (8)")])
    state = decide_run_state(seen)
    assert (state.status, state.reason, state.start) == ("False", Reason.OUT_OF_MEMORY, None)
    assert state.message == "pod pod: lower microBatchSize (8)"


def test_the_pause_is_bounded():
    seen = facts(limits=Limits(retries=100), attempts=[attempt(RETRIABLE, 50, retries_before=50, ended_at=NOW)])
    assert decide_run_state(seen).requeue_seconds == 300


def test_running_tells_the_phase():
    seen = facts(attempts=[attempt()], pods=[pod()], progress=Progress(phase="Training", message="step 3 of 20"))
    assert decide_run_state(seen).message == "Training: step 3 of 20"


@pytest.mark.parametrize(
    ("newest", "pods", "waits"),
    [
        (None, [], False),
        (attempt(), [], False),
        (attempt(PERMANENT, ended_at=ago(1)), [pod()], True),
        (attempt(PERMANENT, ended_at=ago(1)), [failed(11)], False),
        (attempt(PERMANENT, ended_at=ago(1)), [failed(11, number=7)], True),
        (attempt(PERMANENT, ended_at=ago(11)), [pod()], False),
    ],
)
def test_a_jobs_end_waits_for_its_pods_words(newest, pods, waits):
    assert awaits_pod_status(newest, pods, NOW) is waits


def test_every_permanent_code_has_a_reason():
    assert {reason_of(code) for code in ExitCode if code.permanent} <= set(Reason)
