"""Reads the status of an RFTJob whose operator may be newer: fields that this version does not know are left out."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from rft_api.foreign.text import one_line
from rft_api.job_status import JobCheckpoint, JobProgress, JobResult, RFTJobStatus
from rft_api.model import Json, Model, camel
from rft_api.resource import Condition

_Known = TypeVar("_Known", bound=Model)


def read_status(job: Json) -> RFTJobStatus:
    """Return what the status of a job says, but for what it has used.

    Args:
        job: the RFTJob, as the API server returns it.

    Raises:
        ValueError: when a field that this version knows has another form.
    """
    stated: Json = job.get("status") or {}
    try:
        return RFTJobStatus(
            conditions=[_known(Condition, item) for item in stated.get("conditions", [])],
            progress=_known(JobProgress, stated["progress"]) if "progress" in stated else None,
            result=_known(JobResult, stated["result"]) if "result" in stated else None,
            checkpoints=[_known(JobCheckpoint, item) for item in stated.get("checkpoints", [])],
            start_time=stated.get("startTime"),
            completion_time=stated.get("completionTime"),
            retries=stated.get("retries"),
        )
    except ValidationError as error:
        raise ValueError(one_line(f"{error.errors()[0]['loc']}: {error.errors()[0]['msg']}")) from None


def condition_of(status: RFTJobStatus, kind: str) -> Condition | None:
    """Return the condition of a type, or None when there is none."""
    return next((condition for condition in status.conditions if condition.type == kind), None)


def _known(model: type[_Known], document: Json) -> _Known:
    """Return a part of a status without the fields that this version does not know."""
    names = {camel(name) for name in model.model_fields}
    return model.model_validate({name: value for name, value in document.items() if name in names})
