"""The result files of jobs: tables of the metrics of their steps, which are made when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from rft_api.model import Json
from rft_gateway.errors import ApiError
from rft_gateway.files.api import FILES
from rft_gateway.files.errors import no_file
from rft_gateway.fine_tuning.job import Job
from rft_gateway.fine_tuning.outputs import RESULT_FILE, Outputs, has_result
from rft_gateway.fine_tuning.run_metrics import StepMetrics, step_table

PURPOSE: Final = "fine-tune-results"
FILENAME: Final = "step_metrics.csv"
_PATH = re.compile(rf"{FILES}/{RESULT_FILE}([^/]+)(/content)?")


def parse_path(path: str) -> tuple[str, bool] | None:
    """Return the name of the job whose result file a path is about, and whether it asks for the content; None for any
    other path."""
    match = _PATH.fullmatch(path)
    return (match[1], bool(match[2])) if match is not None else None


def describe_file(job: Job, steps: Sequence[StepMetrics]) -> Json:
    """Return OpenAI's File object of the result file of a job."""
    return {
        "id": f"{RESULT_FILE}{job.name}",
        "object": "file",
        "bytes": len(step_table(steps)),
        "created_at": job.finished_at or job.created_at,
        "expires_at": None,
        "filename": FILENAME,
        "purpose": PURPOSE,
        "status": "processed",
        "status_details": None,
    }


def content_response(job: Job, steps: Sequence[StepMetrics]) -> web.Response:
    """Return the answer with the content of the result file of a job."""
    headers = {
        "content-disposition": f'attachment; filename="{job.name}-{FILENAME}"',
        "x-content-type-options": "nosniff",
    }
    return web.Response(body=step_table(steps), content_type="text/csv", charset="utf-8", headers=headers)


async def read_result(outputs: Outputs, namespace: str, job: Job) -> list[StepMetrics]:
    """Return the metrics that the result file of a job has.

    Raises:
        ApiError: 404 when it has no such file, 503 when it cannot be read at the moment.
    """
    steps = await outputs.steps(namespace, job) if has_result(job) else None
    if steps is None:
        raise no_result(job.name)
    return steps


def no_result(name: str) -> ApiError:
    """Return the error for a result file that does not exist; as that of other files."""
    return no_file(f"{RESULT_FILE}{name}")


def no_deletion(name: str) -> ApiError:
    """Return the error for the deletion of a result file."""
    message = f"{RESULT_FILE}{name} is made of the output of job {name}, and cannot be deleted; the output can."
    return ApiError(400, message, param="id", code="file_not_deletable")
