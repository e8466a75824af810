"""The operator's roles are what it needs: it is refused nothing, and nothing can be taken from them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import pytest
from audit import OPERATOR, Audit
from lives import PLANNERS, RESULT, REWARD, REWARDS, ROOT, SERVERS, TRAINERS, Life, bind, job, wait_for
from pretending import running_operator
from support.patience import wait_until
from worlds_from_yaml import SETTINGS

from rft_api.inference_endpoint import InferenceEndpoint
from rft_operator.inference_endpoint.network_policy import build_server_policy
from rft_operator.kube.permissions import (
    CLUSTER,
    EVERYWHERE,
    OWN_NAMESPACE,
    Permission,
    build_cluster_role,
    render_table,
)

PAGE = ROOT / "docs" / "operator.md"
ALWAYS = [permission for permission in (*EVERYWHERE, *CLUSTER, *OWN_NAMESPACE) if not permission.only]
SPECIAL = [(permission, resource) for permission in EVERYWHERE if permission.only for resource in permission.resources]


def test_the_page_is_up_to_date():
    """`RFT_UPDATE_GOLDEN=1` writes it."""
    if os.environ.get("RFT_UPDATE_GOLDEN"):
        page = PAGE.read_text(encoding="utf-8")
        table = re.compile(r"\| Resource \| Verbs \|\n(\|.*\n)+")
        PAGE.write_text(table.sub(lambda _: render_table(), page), encoding="utf-8")
    assert render_table() in PAGE.read_text(encoding="utf-8")


def test_every_permission_is_used_and_none_is_missing(patient_kubectl, operator_kubeconfig, audit, tmp_path):
    kubectl = patient_kubectl
    with running_operator(operator_kubeconfig, tmp_path / "log"), Life(kubectl) as life:
        life.live()
        # The pods of one job are refused, and a proxy runs on in that of another. Both are left for later.
        refused = another("refused", compute={"gpusPerNode": 0, "pod": {"serviceAccountName": "nobody"}})
        kubectl.apply(refused, another("proxied"), namespace=life.namespace)
        # Before a job gets GPUs, nodes are asked for their memory.
        kubectl.apply(another("on-gpus", compute={"gpusPerNode": 1}), namespace=life.namespace)
        life.kubelet.pods(f"{PLANNERS},rft.dev/owner=on-gpus")
        (proxied,) = life.kubelet.pods(f"{TRAINERS},rft.dev/owner=proxied")
        life.kubelet.run(proxied, "trainer")
        life.kubelet.linger(proxied, "trainer", 0, json.dumps(RESULT))
        # Another job joins the first one's base endpoint, after a pause.
        joining = another("second", endpoint={"name": "second", "baseEndpoint": "tuned-base"})
        kubectl.apply(joining, namespace=life.namespace)
        life.kubelet.pods(f"{TRAINERS},rft.dev/owner=second")
        kubectl.apply(another("second", suspend=True), namespace=life.namespace)
        wait_for(kubectl, life.namespace, "rftjob/second", "Succeeded", "Suspended")
        kubectl.apply(joining, namespace=life.namespace)
        (pod,) = life.kubelet.pods(f"{TRAINERS},rft.dev/owner=second")
        life.kubelet.end(pod, "trainer", 0, json.dumps(RESULT))
        kubectl.wait_for(
            "inferenceendpoint/tuned-base",
            f"--namespace={life.namespace}",
            until=lambda found: len(found["metadata"]["ownerReferences"]) == 2,
        )
        # A gateway that is gone has left a policy of servers.
        served = kubectl.get("inferenceendpoint/tuned-base", f"--namespace={life.namespace}")
        base = InferenceEndpoint.model_validate(served)
        kubectl.apply(build_server_policy(base, SETTINGS), namespace=life.namespace)
        policies = ["networkpolicies", f"--namespace={life.namespace}", f"--selector={SERVERS}"]
        kubectl.wait_for(*policies, until=lambda found: not found["items"])
        # A Job of somebody else's is in the way.
        theirs = {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}}}
        named = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "third-trainer-0"}}
        kubectl.apply({**named, "spec": {**theirs, "suspend": True}}, another("third"), namespace=life.namespace)
        wait_for(kubectl, life.namespace, "rftjob/third", "Succeeded", "NameTaken")
        # Code from a ConfigMap, and other code.
        source = {"sourceFrom": {"configMap": {"name": "code", "key": "reward.py"}}}
        code = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"reward.py": "1"}}
        kubectl.apply(code, {**REWARD, "spec": {"python": source}}, namespace=life.namespace)
        configurations = ["configmaps", f"--namespace={life.namespace}", f"--selector={REWARDS}"]
        kubectl.wait_for(*configurations, until=lambda found: len(found["items"]) == 2)
        kubectl.wait_for(
            *configurations,
            until=lambda found: life.kubelet.serve(REWARDS, "reward-server") or len(found["items"]) == 1,
        )
        wait_for(kubectl, life.namespace, "rftjob/refused", "Succeeded", "PodsMissing")
        of_proxied = ["pod", proxied, f"--namespace={life.namespace}"]
        kubectl.wait_for(*of_proxied, until=lambda found: "deletionTimestamp" in found["metadata"])
    needed = {(p.group, resource, verb) for p in ALWAYS for resource in p.resources for verb in p.verbs}
    # The API server records a request after its answer.
    wait_until(lambda: needed <= used_permissions(audit), explain=lambda: needed - used_permissions(audit))
    assert used_permissions(audit) == needed
    assert [request for request in audit.requests() if request.code == 403] == []


def used_permissions(audit: Audit) -> set[tuple[str, str, str]]:
    """Group, resource and verb of what the operator has asked."""
    requests = audit.requests()
    used = {(request.group, request.resource, request.verb) for request in requests}
    # What is applied is patched; where there was nothing before, it is created, too.
    return used | {(r.group, r.resource, "create") for r in requests if r.verb == "patch" and r.code == 201}


def another(name: str, **spec: Any) -> dict[str, Any]:
    return {**job(**spec), "metadata": {"name": name}}


@pytest.mark.parametrize(("permission", "resource"), SPECIAL, ids=lambda value: value if isinstance(value, str) else "")
def test_a_permission_that_is_needed_at_times(
    permission: Permission, resource: str, plane, operator_kubeconfig, namespace_there
):
    """The API server refuses it to a user who lacks nothing else."""
    kubectl, namespace = plane.kubectl, namespace_there
    role = build_cluster_role()
    for rule in role["rules"]:
        if rule["resources"] == list(permission.resources) and rule["verbs"] == list(permission.verbs):
            rule["resources"] = [name for name in rule["resources"] if name != resource]
    role["rules"] = [rule for rule in role["rules"] if rule["resources"]]
    role["metadata"] = {"name": namespace}
    user = namespace
    bind(kubectl, role, user)
    kind = {"rftjobs": "RFTJob", "rewardfunctions": "RewardFunction", "inferenceendpoints": "InferenceEndpoint"}
    owner = {"apiVersion": "rft.dev/v1alpha1", "kind": kind[resource.partition("/")[0]], "name": "o", "uid": "u"}
    endpoint: dict[str, Any] = {
        "apiVersion": "rft.dev/v1alpha1",
        "kind": "InferenceEndpoint",
        "metadata": {"name": "x", "namespace": namespace},
        "spec": {"model": {"uri": "s3://a/b"}},
    }
    if resource.endswith("/finalizers"):
        owner |= {"controller": True, "blockOwnerDeletion": True}
    else:
        kubectl.apply(endpoint, namespace=namespace)
    endpoint["metadata"]["ownerReferences"] = [owner]
    flags = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"]
    refused = kubectl.run(*flags, f"--as={user}", stdin=json.dumps(endpoint))
    assert "cannot set" in refused.stderr
    kubectl(*flags, f"--as={OPERATOR}", stdin=json.dumps(endpoint))
