"""Compares what is submitted with what the cluster has, and applies it; nothing that exists is changed unasked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.model import Json
from rft_api.rft_job import RFTJobSpec
from rft_api.same_run import Change, changes_of_job, differences
from rft_cli.kubectl import Kubectl, KubectlError
from rft_cli.submit.job_state import end_of

_CONTENTS = ("spec", "data", "binaryData", "immutable")
"""Fields of an object that a user submits; the rest is metadata, or written by the cluster."""
_MOST_SHOWN = 10
_LONGEST_VALUE = 100

Action = Literal["create", "change", "replace", "keep"]


@dataclass(frozen=True)
class Step:
    """What is done for an object."""

    action: Action
    """Create it, change it, delete it and create it anew, or keep it, because it is what is submitted."""
    document: Json
    """The object as it is applied."""

    @property
    def title(self) -> str:
        """Kind and name of the object."""
        return title(self.document)


def title(document: Json) -> str:
    """Return kind and name of an object."""
    return f"{document['kind']} {document['metadata']['name']}"


def plan_objects(kubectl: Kubectl, documents: Sequence[Json], *, replace: bool) -> list[Step]:
    """Have the API server check each object without storing it, and plan what is done for it.

    Args:
        kubectl: the cluster.
        documents: the objects.
        replace: whether objects that exist with other contents may be changed, and a job that has ended be deleted.

    Raises:
        RunError: when the API server refuses an object, or one exists with other contents.
    """
    try:
        existing = {_key(item): item for item in kubectl.find(documents)}
        checked = [kubectl.apply(document, dry_run=True) for document in documents]
    except KubectlError as error:
        raise KubectlError(explain_refusal(error.message, kubectl)) from None
    steps: list[Step] = []
    refusals: list[str] = []
    for document, after in zip(documents, checked, strict=True):
        before = existing.get(_key(document))
        if before is None:
            steps.append(Step("create", document))
            continue
        changes = list(differences(_contents(before), _contents(after)))
        action, refusal = _decide(before, after, changes, replace)
        steps.append(Step(action, document))
        if refusal:
            refusals.append(refusal)
    if refusals:
        raise RunError(ExitCode.CONFIGURATION_INVALID, "\n".join(refusals))
    return steps


def apply_step(kubectl: Kubectl, step: Step) -> None:
    """Do what a step says.

    Raises:
        RunError: when the API server refuses it.
    """
    if step.action == "keep":
        return
    try:
        if step.action == "replace":
            metadata = step.document["metadata"]
            kubectl("delete", "rftjob", metadata["name"], f"--namespace={metadata['namespace']}", "--ignore-not-found")
        kubectl.apply(step.document)
    except KubectlError as error:
        raise KubectlError(explain_refusal(error.message, kubectl)) from None


def explain_refusal(message: str, kubectl: Kubectl) -> str:
    """Return what kubectl says, with what to do about it."""
    if "no matches for kind" in message or "doesn't have a resource type" in message:
        return (
            f"the cluster of context {kubectl.context} does not know the resources of rft.dev: install rft-operator "
            f"there, or name another context (--context) ({message})"
        )
    if "(Forbidden)" in message or "is forbidden" in message:
        return f"{message}; ask for a role that allows it, or name another namespace (-n) or context (--context)"
    if "(NotFound)" in message and "namespaces" in message:
        return f"{message}; create the namespace, or name another one (-n)"
    return message


def _decide(before: Json, after: Json, changes: Sequence[Change], replace: bool) -> tuple[Action, str]:
    """Return what is done for an object that exists, and why it is refused, if it is."""
    if not changes:
        return "keep", ""
    name = title(before)
    if before["kind"] != "RFTJob":
        if replace:
            return "change", ""
        uses = " Jobs that use it now would get the new one." if before["kind"] == "RewardFunction" else ""
        hint = f"Give it another name, or change it with --replace.{uses}"
        return "keep", f"{name} exists already, and differs:\n{_listing(changes)}\n{hint}"
    started_with = _spec(before)
    of_run = changes if started_with is None else changes_of_job(started_with, RFTJobSpec.model_validate(after["spec"]))
    if not of_run:
        return "change", ""  # such as suspend and limits, which may change at any time
    if end_of(before) is None:
        hint = f"It has not ended: rft cancel {before['metadata']['name']} stops it. Give this one another name."
    elif replace:
        return "replace", ""
    else:
        hint = "It has ended. Give this one another name, or delete that one by --replace, with the endpoint it owns."
    return "keep", f"{name} exists already, and differs:\n{_listing(of_run)}\n{hint}"


def _spec(job: Json) -> RFTJobSpec | None:
    """Return the spec of a job of the cluster; None when this version of rft does not know all of its fields."""
    try:
        return RFTJobSpec.model_validate(job["spec"])
    except ValidationError:
        return None


def _listing(changes: Sequence[Change]) -> str:
    lines = [f"  {change.path}: {_value(change.before)} there, {_value(change.after)} here" for change in changes]
    more = len(lines) - _MOST_SHOWN
    return "\n".join([*lines[:_MOST_SHOWN], *([f"  and {more} more"] if more > 0 else [])])


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _LONGEST_VALUE)


def _key(document: Json) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata["namespace"], metadata["name"]


def _contents(document: Json) -> Json:
    return {name: document[name] for name in _CONTENTS if name in document}
