"""Makes OpenAI's events of a job: of its conditions, and of the metrics of its steps under OpenAI's names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from rft_api.conditions import ConditionType, Reason
from rft_api.model import Json
from rft_api.resource import Condition
from rft_gateway.fine_tuning.job import Job, unix_time
from rft_gateway.fine_tuning.run_metrics import StepMetrics

Level = Literal["info", "warn", "error"]

_USUAL: Final = frozenset(
    {
        Reason.QUEUED,
        Reason.RUNNING,
        Reason.STARTING,
        Reason.STOPPING,
        Reason.SUSPENDED,
        Reason.WAITING_FOR_REWARDS,
    }
)
"""Reasons of a job that has not ended, of which nobody needs to be warned."""
_REWARDS: Final = (
    {"train_mean_reward": "train mean reward", "full_valid_mean_reward": "validation mean reward"},
    "no rewards",
)
"""What the message about a step has of its data, with its words; and what it says of a step that has none of it."""
_LOSSES: Final = ({"train_loss": "training loss", "full_valid_loss": "full validation loss"}, "no finite loss")
"""The same of a supervised job."""


def describe_events(job: Job, steps: Sequence[StepMetrics] = (), problem: str = "") -> list[Json]:
    """Return the events of a job, newest first: what its status says now, and the steps that its output has.

    Args:
        job: the job.
        steps: the steps of its output.
        problem: why they are missing, if they should be there.
    """
    events = [_event(job, "created", job.created_at, f"Created fine-tuning job: {job.name}")]
    of_output = list(_step_events(job, steps))
    events += of_output
    if not any(each.step == _last_step(job) for each in steps):
        events += _progress_events(job, max((event["created_at"] for event in of_output), default=0))
    others = [condition for condition in job.status.conditions if condition.type != ConditionType.SUCCEEDED]
    events += [_condition_event(job, condition) for condition in others]
    end = job.finished_at or job.created_at
    events += [
        _event(job, f"checkpoint/{each.step}", end, f"Kept the checkpoint of step {each.step}: {each.uri}")
        for each in job.status.checkpoints
    ]
    if problem:
        events.append(_event(job, "output", job.finished_at or _observed_at(job), problem, "warn"))
    if (condition := job.condition) is not None:
        events.append(_condition_event(job, condition))
    if job.state == "cancelled":
        events.append(_event(job, "cancelled", end, "The job was cancelled. Its files and its checkpoint are kept."))
    return sorted(events, key=lambda event: int(event["created_at"]))[::-1]


class NewEvents:
    """The events of a job that a reader has not had yet, as the status changes."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        """The events of the last status."""
        self._times: Counter[str] = Counter()
        """How often each event has come."""

    def take(self, job: Job) -> list[Json]:
        """Return what the status has not said when it was last looked at, oldest first.

        What it says again, such as a step that is repeated after a restart, is an event of its own: its id ends with
        the number of times.
        """
        events = describe_events(job)[::-1]
        new = [event for event in events if event["id"] not in self._ids]
        self._ids = {event["id"] for event in events}
        self._times.update(event["id"] for event in new)
        return [_numbered(event, self._times[event["id"]]) for event in new]


def _numbered(event: Json, times: int) -> Json:
    return event if times == 1 else {**event, "id": f"{event['id']}-{times}"}


def _event(job: Job, key: str, time: int, message: str, level: Level = "info", data: Json | None = None) -> Json:
    """Return an event. Its id is the same whenever it is asked for."""
    digest = hashlib.sha256(f"{job.metadata.get('uid')}/{job.name}/{key}".encode()).hexdigest()
    return {
        "object": "fine_tuning.job.event",
        "id": f"ftevent-{digest[:24]}",
        "created_at": max(time, job.created_at),
        "level": level,
        "message": message,
        "type": "message" if data is None else "metrics",
        "data": data or {},
    }


def _condition_event(job: Job, condition: Condition) -> Json:
    time = unix_time(condition.last_transition_time) or job.created_at
    if condition.type == ConditionType.SUCCEEDED and condition.reason == Reason.RUNNING:
        time = unix_time(job.status.start_time) or time  # the time of the transition is that of the status, Unknown
    text = f"{condition.reason}: {condition.message}".rstrip(": ")
    if condition.type == ConditionType.SUCCEEDED and condition.status == "True":
        text = f"The job has successfully completed. {condition.message}".rstrip()
    key = f"{condition.type}/{condition.status}/{condition.reason}/{condition.last_transition_time}"
    return _event(job, key, time, text, _level(condition))


def _level(condition: Condition) -> Level:
    if condition.type == ConditionType.SUCCEEDED:
        if condition.status == "False":
            return "error"
        return "info" if condition.status == "True" or condition.reason in _USUAL else "warn"
    wrong = "True" if condition.type == ConditionType.REWARD_HACKING_SUSPECTED else "False"
    return "warn" if condition.status == wrong else "info"


def _step_events(job: Job, steps: Sequence[StepMetrics]) -> Iterator[Json]:
    total = job.status.progress.total_steps if job.status.progress is not None else None
    start = unix_time(job.status.start_time) or job.created_at
    for each in steps:
        data = each.event_data(total)
        time = int(each.ended_at) if each.ended_at is not None else start
        yield _event(job, _step_key(each.step), time, _step_text(job, data), data=data)


def _last_step(job: Job) -> int | None:
    return job.status.progress.step if job.status.progress is not None else None


def _step_key(step: int) -> str:
    return f"step/{step}"


def _progress_events(job: Job, earliest: int) -> Iterator[Json]:
    """Yield the event of the last step, from the status, which keeps no other one; the output may not have it yet.

    Args:
        job: the job.
        earliest: Unix time of the last step that the output has.
    """
    progress = job.status.progress
    if progress is None or not progress.step:
        return
    data: Json = {"step": progress.step, "total_steps": progress.total_steps}
    if progress.loss is not None:
        data["train_loss"] = float(progress.loss)
    if progress.validation_loss is not None:
        data["full_valid_loss"] = float(progress.validation_loss)
    if progress.reward is not None:
        data["train_mean_reward"] = float(progress.reward)
    if progress.validation_reward is not None:
        data["full_valid_mean_reward"] = float(progress.validation_reward)
    if progress.episode_length is not None:
        data["completion_tokens_mean"] = float(progress.episode_length)
    yield _event(job, _step_key(progress.step), max(earliest, _observed_at(job)), _step_text(job, data), data=data)


def _step_text(job: Job, data: Json) -> str:
    names, missing = _REWARDS if job.is_reinforced else _LOSSES
    numbers = [f"{text}={data[name]:.4f}" for name, text in names.items() if data.get(name) is not None]
    steps = f"{data['step']}/{data['total_steps']}" if data.get("total_steps") else str(data["step"])
    return f"Step {steps}: {', '.join(numbers) or missing}"


def _observed_at(job: Job) -> int:
    """Return the time at which the operator has last written the status; Kubernetes notes it. It writes the last step
    when the job has ended already, which is no time of a step."""
    fields = job.metadata.get("managedFields") or []
    times = [unix_time(field.get("time")) for field in fields if field.get("subresource") == "status"]
    observed = max((time for time in times if time), default=unix_time(job.status.start_time) or job.created_at)
    return observed if job.finished_at is None else min(observed, job.finished_at)
