"""Compares what is submitted with what the cluster has, and applies it; nothing that exists is changed unasked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal

from pydantic import ValidationError

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.manifests import KINDS
from rft_api.model import Json
from rft_api.rft_job import RFTJobSpec
from rft_api.same_run import Change, changes_of_job, differences
from rft_cli.kubectl import Kubectl
from rft_cli.submit.job_state import end_of

_DATA = ("data", "binaryData")
"""The contents of a ConfigMap."""
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
    existing = {_key(item): item for item in kubectl.find(documents)}
    checked = [kubectl.apply(document, dry_run=True) for document in documents]
    steps: list[Step] = []
    refusals: list[str] = []
    for document, after in zip(documents, checked, strict=True):
        before = existing.get(_key(document))
        if before is None:
            steps.append(Step("create", document))
            continue
        action, refusal = _decide(before, document, after, replace, kubectl.flags)
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
    if step.action == "replace":
        metadata = step.document["metadata"]
        kubectl("delete", "rftjob", metadata["name"], f"--namespace={metadata['namespace']}", "--ignore-not-found")
    kubectl.apply(step.document)


def _decide(before: Json, document: Json, after: Json, replace: bool, flags: str) -> tuple[Action, str]:
    """Return what is done for an object that exists, and why it is refused, if it is.

    Args:
        before: the object of the cluster.
        document: what is submitted.
        after: what the API server would store.
        replace: as for `plan_objects`.
        flags: those of the cluster and the namespace, for commands that are recommended.
    """
    if replace and before["kind"] == "RFTJob" and end_of(before) is not None:
        return "replace", ""  # also an equal one, which resumes its run
    # Not compared with what would be stored: that has fields of others, which the manifest does not have.
    changes = list(differences(_contents(before), _contents(document)))
    if not changes:
        return "keep", ""
    differs = f"{title(before)} exists already, and differs:\n"
    if before["kind"] == "RFTJob":
        return _decide_on_job(before, document, changes, differs, flags)
    if not replace:
        uses = " Jobs that use it now would get the new one." if before["kind"] == "RewardFunction" else ""
        return "keep", f"{differs}{_listing(changes)}\nGive it another name, or change it with --replace.{uses}"
    kept = list(differences(_contents(after), _contents(document)))
    if kept:
        # Server-side apply removes only fields that it has set.
        hint = "Another program has set these fields, and they would stay: state them here, or delete the object."
        return "keep", f"{differs}{_listing(kept)}\n{hint}"
    return "change", ""


def _decide_on_job(
    before: Json, document: Json, changes: Sequence[Change], differs: str, flags: str
) -> tuple[Action, str]:
    try:
        started_with = RFTJobSpec.model_validate(before["spec"])
        of_run = changes_of_job(started_with, RFTJobSpec.model_validate(document["spec"]))
    except ValidationError:  # the cluster has fields that this version of rft does not know
        of_run = list(changes)
    if not of_run:
        return "change", ""  # such as suspend and limits, which may change at any time
    if end_of(before) is None:
        name = before["metadata"]["name"]
        hint = f"It has not ended: rft cancel {name} {flags} stops it. Give this one another name."
    else:
        hint = "It has ended. Give this one another name, or delete that one by --replace, with the endpoint it owns."
    return "keep", f"{differs}{_listing(of_run)}\n{hint}"


def _listing(changes: Sequence[Change]) -> str:
    lines = [f"  {_described(change)}" for change in changes]
    more = len(lines) - _MOST_SHOWN
    return "\n".join([*lines[:_MOST_SHOWN], *([f"  and {more} more"] if more > 0 else [])])


def _described(change: Change) -> str:
    """Return the field and both of its values; of texts with several lines, the first line that differs."""
    before, after, place = change.before, change.after, change.path
    if isinstance(before, str) and isinstance(after, str) and "\n" in before + after:
        pairs = list(zip_longest(before.split("\n"), after.split("\n")))
        number = next(index for index, (one, other) in enumerate(pairs) if one != other)
        (before, after), place = pairs[number], f"{place}, line {number + 1}"
    return f"{place}: {_value(before)} there, {_value(after)} here"


def _value(value: Any) -> str:
    if value in (None, ""):
        return "nothing"
    return one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), _LONGEST_VALUE)


def _key(document: Json) -> tuple[str, str, str]:
    metadata = document["metadata"]
    return document["kind"], metadata["namespace"], metadata["name"]


def _contents(document: Json) -> Json:
    """Return what a user submits of an object, with the defaults of its kind; the rest is metadata and status."""
    if document["kind"] in KINDS:
        try:
            spec = KINDS[document["kind"]].model_validate({**document, "status": None}).spec
            return {"spec": spec.to_json_object()}
        except ValidationError:  # the cluster has fields that this version of rft does not know
            return {"spec": document["spec"]}
    return {name: document[name] for name in _DATA if document.get(name)}
