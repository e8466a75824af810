"""What the operator's plans see, for tests of them: pods, Deployments, and endpoints."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.reward_function import RewardFunction
from rft_operator.pods.deployment_view import DeploymentView
from rft_operator.pods.pod_view import PodView, Termination
from rft_operator.reward_function.objects import document_digest

NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
METADATA = {"name": "x", "namespace": "team", "uid": "0123456789", "generation": 1}


def ago(seconds: float) -> datetime:
    """A time before NOW."""
    return NOW - timedelta(seconds=seconds)


def pod(number: int = 0, **changes: Any) -> PodView:
    """A pod that runs and is ready, of an attempt of a job."""
    fields: dict[str, Any] = {
        "name": "pod", "namespace": "team", "uid": "uid-of-pod", "ip": None, "phase": "Running", "ready": True,
        "deleting": False, "job_uid": f"uid-{number}",
        "index": 0, "created_at": None, "start_time": ago(100), "running_since": ago(90), "termination": None,
        "terminated": False, "problem": None, "told_to_end_at": None, "started": True, "disrupted": False,
        "sidecar_failure": None, "unready_sidecars": (),
    }  # fmt: skip
    return PodView(**{**fields, **changes})


def failed(code: int, message: str = "", number: int = 0, **changes: Any) -> PodView:
    """A pod that has failed with an exit code."""
    termination = Termination(code, message, ago(1000))
    return pod(number, **{"phase": "Failed", "termination": termination, "terminated": True, **changes})


def endpoint(name: str = "x", **spec: Any) -> InferenceEndpoint:
    """An InferenceEndpoint."""
    return InferenceEndpoint.model_validate({"metadata": {**METADATA, "name": name}, "spec": spec})


OWN = endpoint(model={"uri": "s3://m/x"})
"""An endpoint with servers of its own."""
ADAPTER = endpoint(baseEndpoint="base", adapter={"uri": "s3://a/x"})
"""An adapter beside another endpoint's model."""


FUNCTION = RewardFunction.model_validate({"metadata": METADATA, "spec": {"builtin": {"name": "Math"}}})


def deployment(updated: int = 1, available: int = 0, **changes: Any) -> DeploymentView:
    """The Deployment of `FUNCTION`, of its newest version."""
    fields = {"content_digest": document_digest(FUNCTION), "settled": True, "replicas": max(updated, available)}
    return DeploymentView(updated=updated, available=available, **{**fields, **changes})
