"""The operator beside the chart's admission policies, which look at what it writes, too."""

from __future__ import annotations

import json

from lives import REWARD, Life, job, wait_for
from pretending import running_operator
from support.helm import Helm
from support.patience import wait_until

VALUES = {"admissionPolicies": {"enabled": True}, "bounds": {"serviceAccounts": ["*"], "tolerations": ["*", ""]}}
"""Policies of the bounds that the operator of these tests has."""
OVER = {"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}


def test_a_job_lives_and_what_exceeds_the_bounds_can_be_mended(
    plane, operator_kubeconfig, patient_kubectl, helm, tmp_path
):
    kubectl = patient_kubectl
    chart = Helm(helm, tmp_path / "helm")
    policies = [m for m in chart.template(VALUES) if m["kind"].startswith("ValidatingAdmissionPolicy")]
    with Life(kubectl) as life:
        over_reward = {**REWARD, "metadata": {"name": "over"}, "spec": {**REWARD["spec"], "pod": OVER}}
        over_job = {**job(compute={"gpusPerNode": 0, "pod": OVER}), "metadata": {"name": "over"}}
        kubectl.apply(over_reward, over_job, namespace=life.namespace)
        kubectl.apply(*policies)
        again = json.dumps({**over_reward, "metadata": {"name": "again"}})

        def is_refused() -> bool:
            done = kubectl.run("apply", f"--namespace={life.namespace}", "--dry-run=server", "-f", "-", stdin=again)
            return "denied request: spec.pod.volumes[0]: hostPath is not allowed in this cluster" in done.stderr

        wait_until(is_refused, explain=lambda: "the policies are not in force")
        with running_operator(operator_kubeconfig, tmp_path / "log"):
            wait_for(kubectl, life.namespace, "rewardfunction/over", "Ready", "ConfigurationInvalid")
            wait_for(kubectl, life.namespace, "rftjob/over", "Succeeded", "ConfigurationInvalid")
            life.live()
            mended = {**over_reward, "spec": REWARD["spec"]}
            kubectl("replace", f"--namespace={life.namespace}", "-f", "-", stdin=json.dumps(mended))
            # Its pods are created. No node takes them here, which is soon known.
            wait_for(kubectl, life.namespace, "rewardfunction/over", "Ready", "Starting", "Unschedulable")
            kubectl.delete("rftjob/over", "rewardfunction/over", f"--namespace={life.namespace}")
