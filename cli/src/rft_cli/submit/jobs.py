"""`rft jobs`, `rft logs` and `rft cancel`: the jobs of a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import parse_bounded
from rft_api.foreign.text import one_line, printable
from rft_api.model import Json
from rft_api.object_labels import ATTEMPT, COMPLETION_INDEX, COMPONENT, OWNER, TRAINER
from rft_cli.kubectl import ONE_A_LINE, Kubectl, listed_objects
from rft_cli.submit.job_state import condition_of, end_of, read_status

_MOST_VALUES = 200_000
"""Values of a job that is listed, as of a manifest."""
_LONGEST_LINE = 64 << 10


def list_jobs(kubectl: Kubectl, all_namespaces: bool, console: Console) -> None:
    """Print a table of the jobs of the namespace, or of all namespaces, newest first.

    Raises:
        RunError: when they may not be listed.
    """
    place = "--all-namespaces" if all_namespaces else f"--namespace={kubectl.namespace}"
    items, errors = listed_objects(kubectl("get", "rftjobs.rft.dev", place, ONE_A_LINE), "RFTJob", _MOST_VALUES)
    if not items and not errors:
        where = "in any namespace" if all_namespaces else f"in namespace {kubectl.namespace}"
        console.print(f"There are no jobs {where} of context {kubectl.context}.", highlight=False, soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (["namespace"] if all_namespaces else []) + ["job", "state"]:
        table.add_column(column)
    for column in ("step", "reward", "gain"):
        table.add_column(column, justify="right")
    table.add_column("output", overflow="fold")
    for job in sorted(items, key=lambda item: item["metadata"]["creationTimestamp"], reverse=True):
        table.add_row(*(Text(one_line(cell)) for cell in _row(job)[0 if all_namespaces else 1 :]))
    console.print(table)
    for error in errors:
        console.print(Text(error, style="bold yellow"), soft_wrap=True)


def print_log(kubectl: Kubectl, name: str, follow: bool) -> None:
    """Print the log of the first pod of a job's newest attempt.

    Args:
        kubectl: the cluster, and the namespace of the job.
        name: name of the job.
        follow: whether to go on until the pod ends.

    Raises:
        RunError: when there is no such pod, or its log may not be read.
    """
    _find(kubectl, name)
    place = f"--namespace={kubectl.namespace}"
    selector = f"--selector={COMPONENT}={TRAINER},{OWNER}={name},{COMPLETION_INDEX}=0"
    pods = parse_bounded(kubectl("get", "pods", place, selector, "--output=json"))["items"]
    pod = max(pods, key=_age, default=None)
    if pod is None or not _has_started(pod):
        what = "no pod of a trainer" if pod is None else f"pod {pod['metadata']['name']}, whose trainer has not started"
        state = describe_state(_find(kubectl, name))
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"RFTJob {name} has {what}, so there is no log: {state}")
    arguments = ["logs", pod["metadata"]["name"], place, f"--container={TRAINER}", *(["--follow"] if follow else [])]
    with kubectl.output_of(*arguments) as output:
        for line in _lines(output):
            print(printable(line), flush=follow)


def cancel_job(kubectl: Kubectl, name: str) -> str:
    """Suspend a job, and return what happens to it, in sentences.

    Raises:
        RunError: when there is no such job, it has ended, or may not be changed.
    """
    job = _find(kubectl, name)
    end, place = end_of(job), f"RFTJob {name} in namespace {kubectl.namespace}"
    if end is not None:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{place} has ended already: {describe_state(job)}")
    patch = json.dumps({"spec": {"suspend": True}})
    arguments = ["rftjob", name, f"--namespace={kubectl.namespace}", "--type=merge", f"--patch={patch}"]
    kubectl("patch", *arguments, "--field-manager=rft-cancel")
    return (
        f"{place} is suspended: its pods save a checkpoint within ten minutes and end, and its GPUs are free then.\n"
        f"What it has written stays in {one_line(job['spec']['output']['uri'])}. The same rft submit resumes it from "
        f"the checkpoint;\nkubectl delete rftjob {name} {kubectl.flags} ends it for good, and leaves the files."
    )


def describe_state(job: Json) -> str:
    """Return reason and message of the condition Succeeded of a job, in one line."""
    condition = condition_of(read_status(job))
    if condition is None:
        return "the operator has not looked at it yet"
    return one_line(f"{condition.reason}: {condition.message}".rstrip(": "))


def _find(kubectl: Kubectl, name: str) -> Json:
    job = kubectl.get("rftjobs.rft.dev", name)
    if job is None:
        text = f"there is no RFTJob {name} in namespace {kubectl.namespace} of context {kubectl.context}"
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{text}; rft jobs {kubectl.flags} lists those that are there")
    return job


def _row(job: Json) -> list[str]:
    status, metadata = read_status(job), job["metadata"]
    condition, progress, result = condition_of(status), status.progress, status.result
    step = "" if progress is None or progress.step is None else f"{progress.step} of {progress.total_steps or '?'}"
    reward = (progress.reward if progress is not None else None) or ""
    return [
        metadata["namespace"],
        metadata["name"],
        condition.reason if condition is not None else "",
        step,
        (result.best_reward or "") if result is not None else reward,
        (result.gain or "") if result is not None else "",
        job["spec"]["output"]["uri"],
    ]


def _age(pod: Json) -> tuple[int, str]:
    metadata = pod["metadata"]
    return int(metadata["labels"].get(ATTEMPT, "0")), metadata["creationTimestamp"]


def _has_started(pod: Json) -> bool:
    """Return whether the container of the trainer runs, or has run; before that, there is nothing to read."""
    for container in pod.get("status", {}).get("containerStatuses", []):
        if container["name"] == TRAINER:
            return bool(container.get("state", {}).keys() & {"running", "terminated"} or container.get("lastState"))
    return False


def _lines(output: IO[bytes]) -> Iterator[str]:
    while line := output.readline(_LONGEST_LINE):
        yield line.decode("utf-8", "replace").rstrip("\n")
