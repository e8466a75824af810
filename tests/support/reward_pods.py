"""Reward servers in pods: waiting for them, and asking them for scores."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx
from cluster.kubectl import Kubectl, Manifest

from rft_api.reward_protocol import SCORE_PATH
from support.patience import PATIENCE_SECONDS
from support.tiny_jobs import condition


def selector(name: str) -> str:
    """The argument of kubectl that selects what belongs to the server of a RewardFunction."""
    return f"--selector=app.kubernetes.io/component=reward-server,rft.dev/owner={name}"


def wait_for_ready(kubectl: Kubectl, namespace: str, name: str, reason: str = "Ready") -> Manifest:
    """The RewardFunction, once its Ready condition has the reason."""

    def reached(function: Manifest) -> bool:
        generation = function["metadata"]["generation"]
        ready = condition(function, "Ready")
        return ready.get("reason") == reason and ready.get("observedGeneration") == generation

    return kubectl.wait_for("rewardfunction", name, f"--namespace={namespace}", until=reached)


def score_in_pods(
    kubectl: Kubectl, namespace: str, name: str, samples: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The rows of samples, from the pods of a RewardFunction through its Service."""
    of = f"--namespace={namespace}"
    (secret,) = kubectl.get("secrets", of, selector(name))["items"]
    (service,) = kubectl.get("services", of, selector(name))["items"]
    token = base64.b64decode(secret["data"]["token"]).decode()
    (port,) = service["spec"]["ports"]
    answer = httpx.post(
        f"http://{service['spec']['clusterIP']}:{port['port']}{SCORE_PATH}",
        json=samples,
        headers={"Authorization": f"Bearer {token}"},
        timeout=PATIENCE_SECONDS,
        trust_env=False,
    )
    assert answer.status_code == httpx.codes.OK, answer.text
    rows: list[dict[str, Any]] = answer.json()
    return rows
