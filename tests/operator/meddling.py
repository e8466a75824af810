"""Somebody else who writes what the operator writes."""

from __future__ import annotations

import json
import random
from typing import Any

from cluster.kubectl import Kubectl

THEIRS = "meddler"
"""Their label and annotation."""
KINDS = "jobs,deployments,services,configmaps,networkpolicies,rftjobs,rewardfunctions,inferenceendpoints"


BUILT_IN, OURS = ["--type=strategic"], ["--type=merge"]
STATUS = [*OURS, "--subresource=status"]
CHANGES: list[tuple[list[str], str, dict[str, Any]]] = [
    (BUILT_IN, "deployment/amount-reward", {"spec": {"replicas": 3}}),
    (
        BUILT_IN,
        "deployment/amount-reward",
        {"spec": {"template": {"spec": {"containers": [{"name": "reward-server", "image": "another"}]}}}},
    ),
    (BUILT_IN, "deployment/tuned-base-server", {"spec": {"replicas": 0}}),
    (BUILT_IN, "service/amount-reward", {"spec": {"selector": {"app.kubernetes.io/component": "another"}}}),
    (BUILT_IN, "service/tuned-server", {"spec": {"ports": [{"port": 8000, "targetPort": 1}]}}),
    (BUILT_IN, "networkpolicy/amount-reward", {"spec": {"ingress": []}}),
    (BUILT_IN, "configmap/tuned-base-adapters", {"data": {"adapters.json": "{}"}}),
    (BUILT_IN, "configmap/tuned-base-adapters", {"data": None}),
    (OURS, "inferenceendpoint/tuned", {"spec": {"adapter": {"uri": "s3://another/place"}}}),
    (STATUS, "rftjob/job", {"status": {"conditions": [], "retries": 7}}),
    (STATUS, "rewardfunction/amount", {"status": {"conditions": [], "url": "http://another.place"}}),
    (STATUS, "inferenceendpoint/tuned", {"status": {"conditions": [], "modelName": "another"}}),
]
DELETED = [
    "deployment/amount-reward", "deployment/tuned-base-server", "service/amount-reward", "service/tuned-server",
    "networkpolicy/amount-reward", "configmap/tuned-base-adapters", "inferenceendpoint/tuned-base",
]  # fmt: skip


class Meddler:
    """Labels, changes and deletes the objects of a life."""

    def __init__(self, kubectl: Kubectl, namespace: str):
        self._kubectl = kubectl
        self._namespace = f"--namespace={namespace}"

    def meddle(self, choose: random.Random) -> None:
        """Does one thing to one object, if it exists."""
        match choose.choices(("sign", "change", "delete"), weights=(1, 5, 2))[0]:
            case "sign":
                self.sign(str(choose.random()))
            case "change":
                how, name, patch = choose.choice(CHANGES)
                self._try("patch", name, *how, f"--patch={json.dumps(patch)}")
            case "delete":
                self._try("delete", choose.choice(DELETED), "--wait=false")

    def sign(self, text: str) -> None:
        """Adds a label and an annotation to everything."""
        for verb in ("label", "annotate"):
            self._try(verb, KINDS, "--all", "--overwrite", f"{THEIRS}={text}")

    def signed(self) -> dict[str, tuple[str | None, str | None]]:
        """Label and annotation of everything."""
        found = self._kubectl.get(KINDS, self._namespace)["items"]
        return {
            f"{item['kind']}/{item['metadata']['name']}": (
                item["metadata"].get("labels", {}).get(THEIRS),
                item["metadata"].get("annotations", {}).get(THEIRS),
            )
            for item in found
        }

    def _try(self, *arguments: str) -> None:
        done = self._kubectl.run(*arguments, self._namespace)
        assert done.returncode == 0 or "(NotFound)" in done.stderr, f"{arguments}: {done.stderr}"
