"""Shows the job of a cluster until it ends, as `rft run` shows a local one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from rft_api.conditions import Reason
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import printable
from rft_api.job_status import RFTJobStatus
from rft_api.model import Json
from rft_api.progress import Progress
from rft_api.run_folder import RunFolder
from rft_api.scratch import scratch_folder
from rft_api.storage import ObjectStore
from rft_api.storage_error import StorageError
from rft_cli.display import Display
from rft_cli.history import History
from rft_cli.kubectl import Kubectl, KubectlError
from rft_cli.report import report
from rft_cli.result_line import final_line
from rft_cli.stored_run import fetch_run
from rft_cli.submit.job_state import condition_of, end_of, exit_code, progress_of, read_status

POLL_SECONDS = 2.0
_CURVE_SECONDS = 10.0
"""Time between two looks at the metrics in the store; the trainer copies them every five seconds."""


def follow(kubectl: Kubectl, name: str, output: str, console: Console) -> RFTJobStatus:
    """Show a job until it ends, and return its status.

    Args:
        kubectl: the cluster, and the namespace of the job.
        name: name of the job.
        output: address of its output.
        console: the console that shows it.

    Raises:
        RunError: with the exit code of the run when it has ended without a result; INTERRUPTED when the job has been
            deleted, or suspended.
    """
    with scratch_folder() as folder:
        metrics = _StoredMetrics(output, RunFolder(folder).metrics)
        with Display(console, name, History(metrics.file)) as display:
            job = _watch(kubectl, name, display, metrics)
    end, status = end_of(job), read_status(job)
    place = f"RFTJob {name} in namespace {kubectl.namespace}"
    if end is None:
        raise RunError(
            ExitCode.INTERRUPTED,
            f"{place} is suspended. What it has saved stays in {output}. The same rft submit resumes it.",
        )
    if end.status == "False":
        text = f"{place} has ended without a result: {end.reason}: {end.message}".rstrip(": ")
        text += f"\nrft logs {name} {kubectl.flags} shows its log."
        code = exit_code(end.reason)
        if not code.permanent:
            text += (
                "\nrft submit --replace creates it again; with the same output, it resumes from its last checkpoint."
            )
        raise RunError(code, text)
    return status


def _watch(kubectl: Kubectl, name: str, display: Display, metrics: _StoredMetrics) -> Json:
    """Return the job when it has ended or is suspended."""
    progress = Progress(message="waiting for the operator")
    problem = ""
    while True:
        try:
            job, problem = kubectl.get("rftjob", name), ""
        except KubectlError as error:
            # The job goes on without us: the API server may answer again.
            if error.message != problem:
                display.note(f"{printable(error.message)}; trying again")
            problem = error.message
        else:
            if job is None:
                raise RunError(ExitCode.INTERRUPTED, f"RFTJob {name} in namespace {kubectl.namespace} has been deleted")
            status = read_status(job)
            progress = progress_of(status)
            condition = condition_of(status)
            # A job that is resumed says that it is suspended until the operator has seen the change.
            is_suspended = job["spec"].get("suspend") and condition is not None and condition.reason == Reason.SUSPENDED
            if end_of(job) is not None or is_suspended:
                metrics.update(display.note, at_once=True)
                display.update(progress)
                return job
        metrics.update(display.note)
        display.update(progress)
        time.sleep(POLL_SECONDS)


class _StoredMetrics:
    """A copy of the metrics that a run in a cluster writes to its output.

    Attributes:
        file: the copy.
    """

    def __init__(self, output: str, file: Path):
        self.file = file
        self._address = f"{output.rstrip('/')}/{file.name}"
        self._store = ObjectStore() if output.startswith("s3://") else None
        self._next = time.monotonic()

    def update(self, note: Callable[[str], None], at_once: bool = False) -> None:
        """Copy the metrics when it is time; without the permission to read them, there are no curves."""
        if self._store is None or (time.monotonic() < self._next and not at_once):
            return
        self._next = time.monotonic() + _CURVE_SECONDS
        try:
            self._store.fetch(self._address, self.file)
        except StorageError as error:
            if error.permanent:
                self._store = None
                note(f"without curves: {error}")


def print_result(name: str, status: RFTJobStatus, output: str, console: Console) -> None:
    """Print the report of a job that has succeeded, and its result as the last line, in JSON.

    When the output cannot be read here, the line has what the status says.
    """
    try:
        if not output.startswith("s3://"):
            raise RunError(ExitCode.OUTPUT_INVALID, f"{output} can be read in the cluster only")
        run = report(fetch_run(output), console, output)
        if run.summary is not None:
            print(final_line(run, run.summary), flush=True)
            return
    except RunError as error:
        console.print(f"No report: {printable(error.message)}", soft_wrap=True)
    result = status.result.to_json_object() if status.result is not None else {}
    print(json.dumps({"job": name, **result, "output": output}, ensure_ascii=False), flush=True)
