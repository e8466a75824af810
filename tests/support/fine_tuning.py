"""Requests for fine-tuning jobs, what a namespace gives them, and RFTJobs in each state."""

from __future__ import annotations

from typing import Any

from rft_api.inference_endpoint import InferenceEndpoint

STRING_CHECK: dict[str, Any] = {
    "type": "string_check", "name": "exact", "input": "{{ sample.output_text }}", "reference": "{{ item.answer }}",
    "operation": "eq",
}  # fmt: skip
SCORE_MODEL: dict[str, Any] = {
    "type": "score_model", "name": "judge", "model": "judge",
    "input": [{"role": "user", "content": "Rate {{ sample.output_text }}"}],
}  # fmt: skip
LAMBDA: dict[str, Any] = {
    "type": "lambda", "lambda": {"function": "arn:aws:lambda:us-east-1:123456789012:function:reward"}
}  # fmt: skip
CREATED = "2026-11-30T12:00:00Z"
STARTED = "2026-11-30T12:05:00Z"
ENDED = "2026-11-30T13:00:00Z"


def request(grader: dict[str, Any] = STRING_CHECK, hyperparameters: Any = None, **fields: Any) -> dict[str, Any]:
    """A request for a job, as OpenAI's client sends it."""
    reinforcement = {"grader": grader, **({"hyperparameters": hyperparameters} if hyperparameters else {})}
    return {
        "model": "base",
        "training_file": "s3://data/train.jsonl",
        "method": {"type": "reinforcement", "reinforcement": reinforcement},
        **fields,
    }


def config_map(**data: str) -> dict[str, Any]:
    """The ConfigMap of a namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "rft-fine-tuning", "namespace": "team"},
        "data": {"output": "s3://runs/jobs", **data},
    }


def base_endpoint(name: str = "base", **spec: Any) -> InferenceEndpoint:
    """A base endpoint that serves adapters from the output of the namespace."""
    serving = {"adapterSources": ["s3://runs/jobs"]}
    document = {"metadata": {"name": name, "namespace": "team"}, "spec": {"model": {"uri": "s3://models/base"}}}
    document["spec"] |= {"serving": serving, **spec}
    return InferenceEndpoint.model_validate(document)


def condition(kind: str, status: str, reason: str, message: str = "", time: str = STARTED) -> dict[str, Any]:
    """A condition of a status."""
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time}


def rft_job(*conditions: dict[str, Any], suspend: bool = False, **status: Any) -> dict[str, Any]:
    """An RFTJob that was made with kubectl, as the API server returns it."""
    return {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "RFTJob",
        "metadata": {"name": "amounts", "namespace": "team", "uid": "1-2-3", "creationTimestamp": CREATED},
        "spec": {
            "model": {"uri": "s3://models/base"},
            "data": {"train": [{"name": "rows", "uri": "s3://data/train.jsonl", "reward": "exact"}]},
            "hyperparameters": {"epochs": 2, "batchSize": 16, "evalInterval": 5, "seed": 7},
            "output": {"uri": "s3://runs/amounts"},
            "endpoint": {"name": "amounts", "baseEndpoint": "base"},
            "suspend": suspend,
        },
        "status": {"conditions": list(conditions), **status},
    }
