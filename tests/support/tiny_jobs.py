"""Jobs of the tiny model, which train in seconds, with model, data and output on the S3 server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from cluster.kubectl import Kubectl, Manifest

from support.tiny import digits_rows, write_jsonl
from support.trainer import DIGIT_SHARE, hyperparameters, job_spec

API_VERSION = "rft.dev/v1alpha1"
SLOWLY = DIGIT_SHARE.replace("    rows = []", "    import time\n    time.sleep(1)\n    rows = []")
"""The jobs' reward, at a speed that leaves time to do something to them."""


def store_inputs(bucket: Path, model: Path) -> None:
    """Puts model and data where the jobs expect them."""
    if (bucket / "models" / "tiny").exists():
        return
    shutil.copytree(model, bucket / "models" / "tiny")
    rows = digits_rows(72, 4, seed=1)
    for name, part in (("train", rows[:40]), ("validation", rows[40:48]), ("test", rows[48:])):
        write_jsonl(bucket / "data" / "digits" / f"{name}.jsonl", part)


def reward(source: str = DIGIT_SHARE, **spec: Any) -> Manifest:
    """The jobs' RewardFunction."""
    return {
        "apiVersion": API_VERSION,
        "kind": "RewardFunction",
        "metadata": {"name": "digits"},
        "spec": {"python": {"source": source}, **spec},
    }


def job(name: str, bucket: Path, learning: dict[str, Any] | None = None, **changes: Any) -> Manifest:
    """An RFTJob; `changes` replace fields of its spec."""
    spec = job_spec(bucket, bucket, bucket, hyperparameters=hyperparameters(**(learning or {})))
    at = f"s3://{bucket.name}"
    spec["model"]["uri"] = f"{at}/models/tiny"
    spec["output"]["uri"] = f"{at}/runs/{name}"
    for split, sources in spec["data"].items():
        sources[0]["uri"] = f"{at}/data/digits/{split}.jsonl"
    spec["credentials"] = {"secretName": "s3-credentials"}
    spec["limits"] = {"retries": 3}
    return {
        "apiVersion": API_VERSION,
        "kind": "RFTJob",
        "metadata": {"name": name},
        "spec": {**spec, **changes},
    }


def condition(resource: Manifest, kind: str = "Succeeded") -> dict[str, str]:
    """A condition of a resource; empty while it is missing."""
    found = resource.get("status", {}).get("conditions", [])
    return next((condition for condition in found if condition["type"] == kind), {})


def wait_for_reason(kubectl: Kubectl, team: str, name: str, *reasons: str) -> Manifest:
    """The job, once its Succeeded condition has one of the reasons."""

    def reached(found: Manifest) -> bool:
        return condition(found).get("reason") in reasons

    return kubectl.wait_for("rftjob", name, f"--namespace={team}", until=reached)


def wait_for_step(kubectl: Kubectl, team: str, name: str, step: int) -> Manifest:
    """The job, once its progress has come so far."""

    def reached(found: Manifest) -> bool:
        assert condition(found).get("status") != "False", condition(found)
        return bool(found.get("status", {}).get("progress", {}).get("step", 0) >= step)

    return kubectl.wait_for("rftjob", name, f"--namespace={team}", until=reached)
