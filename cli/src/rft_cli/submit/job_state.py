"""What the status of a job in a cluster says, as a local run would show it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rft_api import observed_status
from rft_api.conditions import ConditionType, Reason, is_end
from rft_api.exit_codes import ExitCode, RunError
from rft_api.job_status import JobProgress, RFTJobStatus
from rft_api.model import Json
from rft_api.progress import PHASE_TITLES, HackingVerdict, Phase, Progress, message_without_phase
from rft_api.quantities import duration_seconds
from rft_api.resource import Condition

_CODES: Mapping[str, ExitCode] = {code.reason: code for code in ExitCode}


def read_status(job: Json) -> RFTJobStatus:
    """Return what the status of a job says that is shown; fields that a newer operator has added are left out.

    Raises:
        RunError: when the fields that are shown are others in the cluster.
    """
    try:
        return observed_status.read_status(job)
    except ValueError as problem:
        name = job["metadata"]["name"]
        message = f"the status of RFTJob {name} cannot be read ({problem}); install the rft of the operator's version"
        raise RunError(ExitCode.UNEXPECTED, message) from None


def condition_of(status: RFTJobStatus, kind: str = ConditionType.SUCCEEDED) -> Condition | None:
    """Return the condition of a type, or None when there is none."""
    return observed_status.condition_of(status, kind)


def end_of(job: Json) -> Condition | None:
    """Return the condition that says that a job has ended; None while it has not."""
    condition = condition_of(read_status(job))
    return condition if condition is not None and is_end(condition.type, condition.status) else None


def exit_code(reason: str) -> ExitCode:
    """Return the exit code for the reason of a job's end: that of the trainer where it has the reason."""
    return _CODES.get(reason, ExitCode.UNEXPECTED)


def progress_of(status: RFTJobStatus) -> Progress:
    """Return the progress that a status states, with what the job waits for as its message."""
    stated, condition = status.progress or JobProgress(), condition_of(status)
    is_running = condition is not None and condition.reason == Reason.RUNNING
    if condition is None:
        message = "waiting for the operator"
    elif is_running:  # the message begins with the phase, which is shown in words of its own
        message = message_without_phase(condition.message, stated.phase)
    else:
        message = f"{condition.reason}: {condition.message}".rstrip(": ")
    # A job that waits or is tried again still has the phase of its last attempt.
    is_current = is_running or (condition is not None and is_end(condition.type, condition.status))
    phase: Phase = stated.phase if stated.phase in PHASE_TITLES and is_current else "Starting"
    in_steps = phase == "Training"
    hacking = condition_of(status, ConditionType.REWARD_HACKING_SUSPECTED)
    return Progress(
        phase=phase,
        message=message,
        done=(stated.step or 0) if in_steps else 0,
        planned=(stated.total_steps or 0) if in_steps else 0,
        unit="steps",
        step=stated.step or 0,
        total_steps=stated.total_steps or 0,
        reward=_number(stated.reward),
        validation_reward=_number(stated.validation_reward),
        episode_length=_number(stated.episode_length),
        gradient_norm=_number(stated.gradient_norm),
        eta_seconds=duration_seconds(stated.eta) if stated.eta is not None and is_running else None,
        reward_hacking=(
            None
            if hacking is None
            else HackingVerdict(suspected={"True": True, "False": False}.get(hacking.status), message=hacking.message)
        ),
    )


def _number(text: str | None) -> float | None:
    value = float(text) if text is not None else None
    return value if value is not None and math.isfinite(value) else None
